//! From a call to the request that leaves.

use super::{auth::Auth, config::RequestConfig, left, outcome::rejected, shown::Shown};
use base64::{Engine, engine::general_purpose::STANDARD};
use greenroom_actors::{
    ids::FileId,
    pipeline::{
        provider::{Call, CallError},
        template::{Context, FileForm, Template},
    },
};
use reqwest::{
    Method, Request,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use url::Url;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What every request's templates see of its call.
pub(in crate::gateways) fn context(call: &Call) -> Context {
    Context::new()
        .with("input", &call.input)
        .with("task", &json!({ "id": call.task }))
        .with("step", &json!({ "id": call.node }))
        .with("attempt", &json!(call.attempt))
}

/// A request, and its body as it can be shown.
pub(in crate::gateways) struct Outgoing {
    pub(in crate::gateways) request: Request,
    body: Option<Value>,
}

/// Renders requests of one call and puts its files in.
pub(in crate::gateways) struct Renderer<'a> {
    pub(in crate::gateways) config: &'a RequestConfig,
    pub(in crate::gateways) auth: Option<&'a Auth>,
    pub(in crate::gateways) call: &'a Call,
    pub(in crate::gateways) context: &'a Context,
    /// The largest file that goes in as base64, bytes.
    pub(in crate::gateways) file_limit: u64,
}

impl Renderer<'_> {
    /// The request that asks for the work; it carries the idempotency key.
    pub(in crate::gateways) async fn work(&self) -> Result<Outgoing, CallError> {
        let body = match &self.config.body {
            Some(template) => Some(self.document(template).await?),
            None if matches!(self.config.method, Method::GET | Method::DELETE) => None,
            None => Some(self.call.input.clone()),
        };
        let mut request = Request::new(self.config.method.clone(), self.config.url.clone());
        if body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.put_headers(&mut request).await?;
        let key = header_value(&IDEMPOTENCY_KEY, &self.call.idempotency_key)?;
        request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        self.put_credentials(&mut request);
        if let Some(body) = &body {
            let bytes = serde_json::to_vec(body).map_err(|_| rejected("the request is no JSON"))?;
            *request.body_mut() = Some(bytes.into());
        }
        Ok(Outgoing { request, body })
    }

    /// A GET of `url` with the same headers. Credentials go along only where they are `trusted`.
    pub(in crate::gateways) async fn question(&self, url: Url, trusted: bool) -> Result<Request, CallError> {
        let mut request = Request::new(Method::GET, url);
        self.put_headers(&mut request).await?;
        if trusted {
            self.put_credentials(&mut request);
        }
        Ok(request)
    }

    async fn put_headers(&self, request: &mut Request) -> Result<(), CallError> {
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, template) in &self.config.headers {
            let text = match self.document(template).await? {
                Value::Null => continue, // nothing to say
                Value::String(text) => text,
                Value::Array(_) | Value::Object(_) => {
                    return Err(rejected(format!("the header {name} must be a text")));
                }
                number_or_bool => number_or_bool.to_string(),
            };
            request.headers_mut().insert(name.clone(), header_value(name, &text)?);
        }
        Ok(())
    }

    fn put_credentials(&self, request: &mut Request) {
        if let Some(auth) = self.auth {
            request.headers_mut().insert(auth.name.clone(), auth.value.clone());
        }
    }

    /// A rendered document with its files in their places.
    async fn document(&self, template: &Template) -> Result<Value, CallError> {
        let rendered = template.render(self.context).map_err(|error| rejected(error.to_string()))?;
        let mut texts = Vec::new();
        for file in rendered.files() {
            let id: FileId = file.file_id.parse().map_err(|_| {
                CallError::permanent("INPUT_INVALID", format!("{:?} is no file", file.file_id))
            })?;
            texts.push(match file.form {
                FileForm::Url => self.call.files.link(id, left(self.call.deadline)?).await?,
                FileForm::Base64 => STANDARD.encode(self.call.files.read(id, self.file_limit).await?),
            });
        }
        rendered.resolve(&texts).map_err(|error| rejected(error.to_string()))
    }
}

impl Outgoing {
    /// The request for an admin's eyes.
    pub(in crate::gateways) fn shown(&self, shown: &Shown) -> Value {
        json!({
            "method": self.request.method().as_str(),
            "url": self.request.url().as_str(),
            "headers": shown.headers(self.request.headers()),
            "body": self.body.as_ref().map(|body| shown.value(body)),
        })
    }
}

fn header_value(name: &HeaderName, text: &str) -> Result<HeaderValue, CallError> {
    HeaderValue::try_from(text)
        .map_err(|_| rejected(format!("the header {name} would have characters that a header cannot carry")))
}
