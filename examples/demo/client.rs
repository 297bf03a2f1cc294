//! The calls an app makes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// What `greenroom dev` tells of itself in dev.json.
pub(crate) struct Installation {
    pub(crate) url: String,
    pub(crate) phone: String,
    pub(crate) password: String,
    pub(crate) pipeline: String,
    pub(crate) pipeline_name: String,
}

impl Installation {
    pub(crate) fn read() -> Result<Self> {
        let dir =
            std::env::var_os("GREENROOM_DIR").map_or_else(|| PathBuf::from(".greenroom"), PathBuf::from);
        let path = dir.join("dev.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("no service has written {}; run script/server", path.display()))?;
        let told: Value = serde_json::from_str(&text)?;
        let accounts = told["accounts"].as_array().context("dev.json has no accounts")?;
        let user =
            accounts.iter().find(|account| account["role"] == "user").context("dev.json has no user")?;
        let pipeline = &told["pipelines"][0];
        let text = |value: &Value| value.as_str().map(str::to_owned).context("dev.json is incomplete");
        Ok(Self {
            url: text(&told["url"])?,
            phone: text(&user["phone"])?,
            password: text(&user["password"])?,
            pipeline: text(&pipeline["id"])?,
            pipeline_name: text(&pipeline["name"])?,
        })
    }
}

/// Somebody who talks to the service.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap_or_default();
        Self { http, url: url.to_owned(), token: String::new() }
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let answer =
            self.http.get(format!("{}/health/ready", self.url)).timeout(Duration::from_secs(2)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) async fn sign_in(self, phone: &str, password: &str) -> Result<Self> {
        let body = json!({ "phone": phone, "password": password });
        let tokens = self.call(Method::POST, "/auth/login", Some(body)).await?;
        let token = tokens["accessToken"].as_str().context("no access token")?.to_owned();
        Ok(Self { token, ..self })
    }

    /// Announces the file, puts its bytes to the object store, and says that they are there.
    pub(crate) async fn upload(&self, name: &str, content_type: &str, bytes: Vec<u8>) -> Result<String> {
        let body = json!({ "contentType": content_type, "size": bytes.len(), "name": name });
        let created = self.call(Method::POST, "/files", Some(body)).await?;
        let id = created["id"].as_str().context("the file has no id")?.to_owned();
        let upload = &created["upload"];
        let method = upload["method"].as_str().unwrap_or("PUT").parse()?;
        let mut put =
            self.http.request(method, upload["url"].as_str().context("no upload address")?).body(bytes);
        for (name, value) in upload["headers"].as_object().into_iter().flatten() {
            put = put.header(name, value.as_str().unwrap_or_default());
        }
        read(put).await.context("the upload failed")?;
        self.call(Method::POST, &format!("/files/{id}/complete"), Some(json!({}))).await?;
        Ok(id)
    }

    pub(crate) async fn start_task(&self, pipeline: &str, input: Value) -> Result<Value> {
        // a repeat of this request after a lost answer would find the first task, not start a second
        let request = self
            .request(Method::POST, "/tasks")
            .header("Idempotency-Key", uuid::Uuid::now_v7().to_string())
            .json(&json!({ "pipelineId": pipeline, "input": input }));
        parse(read(request).await?)
    }

    pub(crate) async fn task(&self, id: &str) -> Result<Value> {
        self.call(Method::GET, &format!("/tasks/{id}"), None).await
    }

    pub(crate) async fn quota(&self) -> Result<Value> {
        self.call(Method::GET, "/users/me/quota", None).await
    }

    pub(crate) async fn download(&self, file: &str) -> Result<Vec<u8>> {
        let found = self.call(Method::GET, &format!("/files/{file}"), None).await?;
        let url = found["downloadUrl"].as_str().context("the file has no link")?;
        read(self.http.get(url)).await
    }

    /// Opens the websocket and reads its greeting.
    pub(crate) async fn events(&self) -> Result<Events> {
        let url = format!("{}/api/v1/ws", self.url.replacen("http", "ws", 1));
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("Authorization", format!("Bearer {}", self.token).parse()?);
        let (stream, _) = tokio_tungstenite::connect_async(request).await.context("no websocket")?;
        let mut events = Events(stream);
        let hello = events.next().await?;
        ensure!(hello["type"] == "hello", "the service greets with {hello}");
        Ok(events)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1{path}", self.url));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        parse(read(request).await.with_context(|| format!("{path} failed"))?)
    }
}

/// The events of an open websocket.
pub(crate) struct Events(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Events {
    pub(crate) async fn next(&mut self) -> Result<Value> {
        loop {
            match self.0.next().await.context("the service closed the websocket")?? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Close(close) => return Err(anyhow!("the service closed the websocket: {close:?}")),
                _ => {}
            }
        }
    }
}

/// Sends; a refusal becomes an error that says what the service said.
async fn read(request: RequestBuilder) -> Result<Vec<u8>> {
    let answer = request.send().await?;
    let status = answer.status();
    let body = answer.bytes().await?.to_vec();
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

fn parse(body: Vec<u8>) -> Result<Value> {
    if body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&body)?) }
}
