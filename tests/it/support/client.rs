//! A client of the HTTP interface.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// An answer: its JSON is `null` when there is no body, or one that is no JSON.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as JSON.
    pub json: Value,
    /// Body as text.
    pub text: String,
}

impl Reply {
    /// `code` of a problem; empty when there is none.
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// A header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON, when the status is the one that was expected.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:#?}");
        self.json
    }
}

/// Somebody who talks to one replica.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Origin of the replica.
    pub url: String,
    /// Access token, when signed in.
    pub token: Option<String>,
    /// The user's id, when signed in.
    pub id: String,
    /// Refresh token, when signed in.
    pub refresh_token: String,
    /// The user's phone and password, when signed in.
    pub credentials: (String, String),
}

impl Client {
    /// Somebody without a token.
    pub fn new(url: &str) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            http,
            url: url.to_owned(),
            token: None,
            id: String::new(),
            refresh_token: String::new(),
            credentials: Default::default(),
        }
    }

    /// The same person at another replica.
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    /// Registers `phone` and stays signed in.
    pub async fn register(&self, phone: &str, password: &str) -> Self {
        let tokens = self.post("/api/v1/auth/register", credentials(phone, password)).await.expect(201);
        self.signed_in(&tokens, phone, password)
    }

    /// Signs in with phone and password.
    pub async fn login(&self, phone: &str, password: &str) -> Self {
        let tokens = self.post("/api/v1/auth/login", credentials(phone, password)).await.expect(200);
        self.signed_in(&tokens, phone, password)
    }

    /// Takes its refresh token for the next pair.
    pub async fn refresh(&self) -> Reply {
        self.post("/api/v1/auth/refresh", json!({ "refreshToken": self.refresh_token })).await
    }

    /// The same person with the tokens of this answer.
    pub fn with_tokens(&self, tokens: &Value) -> Self {
        self.signed_in(tokens, &self.credentials.0, &self.credentials.1)
    }

    /// The same person, showing another token or key.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    fn signed_in(&self, tokens: &Value, phone: &str, password: &str) -> Self {
        Self {
            token: Some(tokens["accessToken"].as_str().unwrap().to_owned()),
            id: tokens["user"]["id"].as_str().unwrap().to_owned(),
            refresh_token: tokens["refreshToken"].as_str().unwrap().to_owned(),
            credentials: (phone.to_owned(), password.to_owned()),
            ..self.clone()
        }
    }

    /// A request to be filled by the caller; the token is in it.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; a connection that fails is an answer of status 0.
    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let answer = async {
            let answer = request.send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let text = answer.text().await?;
            let json = serde_json::from_str(&text).unwrap_or_default();
            Ok::<_, reqwest::Error>(Reply { status, headers, json, text })
        };
        answer.await.unwrap_or_else(|error| Reply {
            status: 0,
            headers: HeaderMap::new(),
            json: Value::Null,
            text: format!("{error:?}"),
        })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    /// PATCH of JSON.
    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::PATCH, path).json(&body)).await
    }

    /// POST of JSON with an Idempotency-Key.
    pub async fn post_with_key(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path).header("Idempotency-Key", key).json(&body)).await
    }

    /// Uploads `bytes` and answers the id of the file.
    pub async fn upload(&self, content_type: &str, bytes: Vec<u8>) -> String {
        let promise = json!({ "contentType": content_type, "size": bytes.len(), "name": "photo" });
        let created = self.post("/api/v1/files", promise).await.expect(201);
        let upload = &created["upload"];
        let method = upload["method"].as_str().unwrap().parse().unwrap();
        let mut request = self.http.request(method, upload["url"].as_str().unwrap()).body(bytes);
        for (name, value) in upload["headers"].as_object().unwrap() {
            request = request.header(name, value.as_str().unwrap());
        }
        let put = self.send(request).await;
        assert!((200..300).contains(&put.status), "{put:#?}");
        let id = created["id"].as_str().unwrap().to_owned();
        self.post(&format!("/api/v1/files/{id}/complete"), json!({})).await.expect(200);
        id
    }

    /// Downloads a file's bytes.
    pub async fn download(&self, file: &str) -> Vec<u8> {
        let found = self.get(&format!("/api/v1/files/{file}")).await.expect(200);
        let answer = self.http.get(found["downloadUrl"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap().to_vec()
    }

    /// Waits until a task of this user is final, and answers it with its steps.
    pub async fn final_task(&self, task: &str) -> Value {
        super::eventually("the task is final", async || {
            let reply = self.get(&format!("/api/v1/tasks/{task}")).await;
            let status = reply.json["status"].as_str().unwrap_or_default();
            matches!(status, "succeeded" | "failed" | "cancelled").then(|| reply.json.clone())
        })
        .await
    }
}

fn credentials(phone: &str, password: &str) -> Value {
    json!({ "phone": phone, "password": password })
}
