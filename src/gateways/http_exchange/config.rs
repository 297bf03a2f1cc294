//! The parts of a configuration that say what is sent and how an answer is read, checked and compiled.

use super::super::{
    address_guard::AddressGuard,
    checked::{self, fault},
};
use greenroom_actors::pipeline::{
    Fault,
    template::{Scope, Template},
};
use reqwest::{Method, header::HeaderName};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use url::Url;

/// What the templates of an answer see.
pub(in crate::gateways) const RESPONSE: Scope =
    Scope { variables: &["body", "status", "headers"], files: false };

/// The most files one answer may carry.
const FILES_MAX: usize = 16;

/// Headers that are not the admin's to set: they frame the request, or belong into `auth`.
const OWN_HEADERS: [&str; 9] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "host",
    "idempotency-key",
    "proxy-authorization",
    "te",
    "transfer-encoding",
];

/// `request`, as an admin writes it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::gateways) struct RequestDocument {
    method: Option<MethodName>,
    headers: Option<BTreeMap<String, String>>,
    body: Option<Value>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum MethodName {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// `response`, as an admin writes it.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::gateways) struct ResponseDocument {
    output: Option<Value>,
    files: Option<BTreeMap<String, FileDocument>>,
    error: Option<String>,
    content_rejected: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileDocument {
    Url(String),
    Base64(String),
}

/// What is sent.
pub(in crate::gateways) struct RequestConfig {
    pub(in crate::gateways) url: Url,
    pub(in crate::gateways) method: Method,
    pub(in crate::gateways) headers: Vec<(HeaderName, Template)>,
    /// None where the step's whole input is the body.
    pub(in crate::gateways) body: Option<Template>,
}

/// How an answer is read.
#[derive(Default)]
pub(in crate::gateways) struct ResponseConfig {
    /// None where the whole answer is the step's output.
    pub(in crate::gateways) output: Option<Template>,
    pub(in crate::gateways) files: Vec<FileConfig>,
    pub(in crate::gateways) error: Option<Template>,
    pub(in crate::gateways) content_rejected: Option<Template>,
}

/// A file in an answer.
pub(in crate::gateways) struct FileConfig {
    /// The field of the step's output that names it.
    pub(in crate::gateways) field: String,
    pub(in crate::gateways) from: FileSource,
    pub(in crate::gateways) template: Template,
}

/// How an answer carries a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateways) enum FileSource {
    Url,
    Base64,
}

impl RequestConfig {
    /// Checks and compiles; `None` only where there were faults.
    pub(in crate::gateways) fn compile(
        base_url: &str,
        document: RequestDocument,
        scope: Scope,
        guard: AddressGuard,
        faults: &mut Vec<Fault>,
    ) -> Option<Self> {
        let url =
            self::base_url(base_url, guard).map_err(|message| faults.push(fault("/baseUrl", message))).ok();
        let body = document.body.and_then(|body| template(&body, "/request/body", scope, faults));
        let mut headers = Vec::new();
        for (name, value) in document.headers.unwrap_or_default() {
            let path = checked::pointer("/request/headers", &name);
            match HeaderName::try_from(name.as_str()) {
                Ok(name) if !OWN_HEADERS.contains(&name.as_str()) => {
                    headers.extend(text(&value, &path, scope, faults).map(|template| (name, template)));
                }
                Ok(_) => faults.push(fault(path, "cannot be set here; credentials belong into auth")),
                Err(_) => faults.push(fault(path, "is no name of a header")),
            }
        }
        Some(Self { url: url?, method: document.method.map_or(Method::POST, Method::from), headers, body })
    }
}

impl ResponseConfig {
    /// Checks and compiles.
    pub(in crate::gateways) fn compile(document: ResponseDocument, faults: &mut Vec<Fault>) -> Self {
        let output =
            document.output.and_then(|output| template(&output, "/response/output", RESPONSE, faults));
        let error = document.error.and_then(|error| text(&error, "/response/error", RESPONSE, faults));
        let content_rejected = document
            .content_rejected
            .and_then(|rejected| text(&rejected, "/response/contentRejected", RESPONSE, faults));
        let file_documents = document.files.unwrap_or_default();
        if file_documents.len() > FILES_MAX {
            faults.push(fault("/response/files", format!("at most {FILES_MAX} files")));
        }
        let mut files = Vec::new();
        for (field, file) in file_documents {
            let at = checked::pointer("/response/files", &field);
            let (from, at, source) = match file {
                FileDocument::Url(source) => (FileSource::Url, checked::pointer(&at, "url"), source),
                FileDocument::Base64(source) => (FileSource::Base64, checked::pointer(&at, "base64"), source),
            };
            if let Some(template) = text(&source, &at, RESPONSE, faults) {
                files.push(FileConfig { field, from, template });
            }
        }
        Self { output, files, error, content_rejected }
    }
}

/// Compiles a document of templates.
fn template(document: &Value, at: &str, scope: Scope, faults: &mut Vec<Fault>) -> Option<Template> {
    Template::compile(document, at, scope).map_err(|more| faults.extend(more)).ok()
}

/// Compiles a template that is one text.
pub(in crate::gateways) fn text(
    source: &str,
    at: &str,
    scope: Scope,
    faults: &mut Vec<Fault>,
) -> Option<Template> {
    template(&Value::String(source.to_owned()), at, scope, faults)
}

/// The address of a configuration, if it has a usable one.
pub(in crate::gateways) fn base_url(text: &str, guard: AddressGuard) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "must be an http or https address".to_owned())?;
    guard.check(&url).map_err(|refused| refused.to_string())?;
    Ok(url)
}

impl From<MethodName> for Method {
    fn from(name: MethodName) -> Self {
        match name {
            MethodName::Get => Self::GET,
            MethodName::Post => Self::POST,
            MethodName::Put => Self::PUT,
            MethodName::Patch => Self::PATCH,
            MethodName::Delete => Self::DELETE,
        }
    }
}
