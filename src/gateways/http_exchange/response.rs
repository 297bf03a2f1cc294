//! From an answer to the call's output: what it says, and the files it names.

use super::{
    super::http_client::{OutsideError, read_body},
    HttpExchange,
    config::{FileConfig, FileSource, ResponseConfig},
    left, outcome,
    outcome::rejected,
    retry_after::retry_after,
    shown::Shown,
};
use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use greenroom_actors::{
    clock::{Clock, SystemClock},
    pipeline::{
        provider::{CallError, CallFault, CallOutput, ProducedFile},
        template::{Context, Template},
    },
};
use reqwest::{
    Method, Request, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use url::Url;

/// The longest text of a provider that is told to the task's owner, characters.
const SAID_MAX: usize = 500;

/// A file is asked for this often: the work behind it is done and paid.
const FETCHES: u32 = 3;

/// The pause before the second fetch; it doubles.
const FETCH_BACKOFF: Duration = Duration::from_millis(200);

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A whole answer.
pub(in crate::gateways) struct Answer {
    /// None where it came by itself, as the body of a request.
    status: Option<StatusCode>,
    headers: HeaderMap,
    /// JSON where it is JSON, null where it is empty, else the text.
    body: Value,
    is_json: bool,
}

impl Answer {
    pub(in crate::gateways) fn new(status: StatusCode, headers: HeaderMap, body: &Bytes) -> Self {
        Self { status: Some(status), headers, ..Self::called_back(body) }
    }

    /// One that a callback brought.
    pub(in crate::gateways) fn called_back(body: &Bytes) -> Self {
        let (body, is_json) = if body.is_empty() {
            (Value::Null, true)
        } else {
            match serde_json::from_slice(body) {
                Ok(json) => (json, true),
                Err(_) => (String::from_utf8_lossy(body).into(), false),
            }
        };
        Self { status: None, headers: HeaderMap::new(), body, is_json }
    }

    /// The answer's status; none of what a callback brought.
    pub(in crate::gateways) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// How long the provider wants to be left alone.
    pub(in crate::gateways) fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers, SystemClock.now())
    }

    /// The answer for an admin's eyes.
    pub(in crate::gateways) fn shown(&self, shown: &Shown) -> Value {
        json!({
            "status": self.status.map(|status| status.as_u16()),
            "headers": shown.headers(&self.headers),
            "body": shown.value(&self.body),
        })
    }

    fn context(&self) -> Context {
        let headers = self.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into())
        });
        Context::new()
            .with("body", &self.body)
            .with("status", &json!(self.status.map(|status| status.as_u16())))
            .with("headers", &Value::Object(headers.collect()))
    }
}

/// Reads answers of one call as its provider's configuration says.
pub(in crate::gateways) struct Reader<'a> {
    pub(in crate::gateways) config: &'a ResponseConfig,
    pub(in crate::gateways) shown: &'a Shown,
    pub(in crate::gateways) exchange: &'a HttpExchange,
    /// What relative links to files are relative to.
    pub(in crate::gateways) base: &'a Url,
    pub(in crate::gateways) deadline: Instant,
}

impl Reader<'_> {
    /// Whether the answer is neither a refusal of the content nor of another status than 2xx.
    pub(in crate::gateways) fn accepted(&self, answer: &Answer) -> Result<(), CallError> {
        if self.value(self.config.content_rejected.as_ref(), answer).is_some_and(|value| is_something(&value))
        {
            let message = self.complaint(answer);
            let message = message.unwrap_or_else(|| "the provider refused the content".to_owned());
            return Err(CallError::permanent("CONTENT_REJECTED", message));
        }
        match answer.status {
            Some(status) if !status.is_success() => {
                Err(outcome::failed(status, answer.retry_after(), self.complaint(answer)))
            }
            _ => Ok(()),
        }
    }

    /// What the answer says went wrong.
    pub(in crate::gateways) fn complaint(&self, answer: &Answer) -> Option<String> {
        self.value(self.config.error.as_ref(), answer).filter(is_something).map(|error| match error {
            Value::String(text) => self.shown.text(&text, SAID_MAX),
            other => self.shown.text(&other.to_string(), SAID_MAX),
        })
    }

    /// What a template makes of the answer. One that does not fit makes nothing of it.
    pub(in crate::gateways) fn value(&self, template: Option<&Template>, answer: &Answer) -> Option<Value> {
        template?.render(&answer.context()).ok()?.resolve(&[]).ok()
    }

    /// The call's output, with the files the answer names.
    pub(in crate::gateways) async fn output(&self, answer: &Answer) -> Result<CallOutput, CallError> {
        let context = answer.context();
        let output = match &self.config.output {
            Some(template) => render(template, &context)?,
            None if !self.config.files.is_empty() && !answer.body.is_object() => json!({}),
            None if answer.is_json => answer.body.clone(),
            None => return Err(rejected("the provider's answer is no JSON")),
        };
        let mut files = Vec::new();
        for file in &self.config.files {
            files.push(self.fetch(file, render(&file.template, &context)?).await?);
        }
        if !files.is_empty() && !output.is_object() {
            return Err(rejected("the output must be an object to hold files"));
        }
        Ok(CallOutput { output, files })
    }
}

fn render(template: &Template, context: &Context) -> Result<Value, CallError> {
    let rendered = template.render(context).and_then(|rendered| rendered.resolve(&[]));
    rendered.map_err(|error| rejected(format!("the provider's answer does not fit: {error}")))
}

/// Whether a template made something of an answer: not to null, false, an empty text or the words for these.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::String(text) => !matches!(text.trim(), "" | "false" | "null" | "none"),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

impl Reader<'_> {
    async fn fetch(&self, file: &FileConfig, named: Value) -> Result<ProducedFile, CallError> {
        let missing = || rejected(format!("the provider's answer has no file {:?}", file.field));
        let text = named.as_str().map(str::trim).filter(|text| !text.is_empty()).ok_or_else(missing)?;
        let (bytes, said_type) = match file.from {
            FileSource::Base64 => (self.decode(text, &file.field)?, None),
            FileSource::Url => {
                let url = self.base.join(text).map_err(|_| {
                    rejected(format!("what the provider named for the file {:?} is no link", file.field))
                })?;
                self.download(url, &file.field).await?
            }
        };
        let (content_type, extension) = media_type(&bytes, said_type);
        Ok(ProducedFile {
            field: file.field.clone(),
            name: format!("{}.{extension}", file.field),
            content_type,
            bytes,
        })
    }

    fn file_limit(&self) -> u64 {
        self.exchange.limits.file_bytes
    }

    fn decode(&self, text: &str, field: &str) -> Result<Bytes, CallError> {
        let text = match text.split_once(";base64,") {
            Some((head, data)) if head.starts_with("data:") => data,
            _ => text,
        };
        if text.len() as u64 / 4 * 3 > self.file_limit() {
            return Err(rejected(format!("the file {field:?} is too large")));
        }
        let bytes = BASE64.decode(text).map_err(|_| rejected(format!("the file {field:?} is no base64")))?;
        Ok(bytes.into())
    }

    async fn download(&self, url: Url, field: &str) -> Result<(Bytes, Option<String>), CallError> {
        let mut pause = FETCH_BACKOFF;
        for fetches_left in (0..FETCHES).rev() {
            let failed = match self.download_once(url.clone()).await {
                Ok(file) => return Ok(file),
                Err(failed) => failed,
            };
            match failed {
                Download::Hopeless(why) => return Err(rejected(format!("the file {field:?} {why}"))),
                Download::Failed(why) if fetches_left == 0 => {
                    // the provider did its work: the call may not simply count as not done
                    return Err(CallError {
                        fault: CallFault::Unanswered,
                        code: "PROVIDER_UNAVAILABLE",
                        message: format!("the file {field:?} {why}"),
                    });
                }
                Download::Failed(_) => {}
            }
            tokio::time::sleep(pause.min(left(self.deadline)?)).await;
            pause *= 2;
        }
        Err(outcome::timed_out())
    }

    async fn download_once(&self, url: Url) -> Result<(Bytes, Option<String>), Download> {
        let within = left(self.deadline).map_err(|_| Download::Failed("was not fetched in time"))?;
        let response = self.exchange.client.send(Request::new(Method::GET, url), within).await?;
        let status = response.status();
        if status.is_server_error() || matches!(status.as_u16(), 404 | 408 | 425 | 429) {
            return Err(Download::Failed("is not there yet")); // object stores answer 404 for a moment
        }
        if !status.is_success() {
            return Err(Download::Hopeless("cannot be fetched"));
        }
        let said =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok((read_body(response, self.file_limit()).await?, said))
    }
}

/// Why a file was not downloaded, as the end of a sentence.
enum Download {
    /// Another try may work.
    Failed(&'static str),
    /// Another try would end the same.
    Hopeless(&'static str),
}

impl From<OutsideError> for Download {
    fn from(error: OutsideError) -> Self {
        match error {
            OutsideError::Refused(_) => Self::Hopeless("has an address that is not allowed"),
            OutsideError::TooLarge { .. } => Self::Hopeless("is too large"),
            OutsideError::Unreachable(_) | OutsideError::TimedOut | OutsideError::Broken(_) => {
                Self::Failed("cannot be fetched")
            }
        }
    }
}

/// What a file is and the usual ending of its name: by its first bytes, else as its sender says.
fn media_type(bytes: &[u8], said: Option<String>) -> (String, &'static str) {
    let (known, extension) = match image::guess_format(bytes) {
        Ok(image::ImageFormat::Jpeg) => ("image/jpeg", "jpg"),
        Ok(image::ImageFormat::Png) => ("image/png", "png"),
        Ok(image::ImageFormat::WebP) => ("image/webp", "webp"),
        _ => {
            let said = said.as_deref().and_then(|said| said.split(';').next()).unwrap_or_default().trim();
            let is_media_type = said.len() <= 100
                && said.split_once('/').is_some_and(|(kind, name)| {
                    let word = |word: &str| {
                        !word.is_empty()
                            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
                    };
                    word(kind) && word(name)
                });
            let said = if is_media_type { said } else { "application/octet-stream" };
            return (said.to_ascii_lowercase(), "bin");
        }
    };
    (known.to_owned(), extension)
}
