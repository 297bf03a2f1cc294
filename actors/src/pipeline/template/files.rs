//! Placeholders for files: what `file_url` and `file_base64` leave behind, and how the texts get in.
//!
//! A placeholder carries a number drawn for its render, so that no text a user or a provider sends can be
//! taken for one.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::{Error, ErrorKind, Value, value::Object};
use serde_json::Value as Json;

/// Most files one document may carry.
pub(super) const MAX_FILES: usize = 64;

const OPEN: &str = "\u{e000}file:";
const CLOSE: char = '\u{e001}';

/// How a file goes into a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileForm {
    /// A signed link, valid until the attempt's deadline.
    Url,
    /// Its bytes in base64.
    Base64,
}

impl FileForm {
    /// The filter that asks for this form.
    pub(super) fn filter(self) -> &'static str {
        match self {
            Self::Url => "file_url",
            Self::Base64 => "file_base64",
        }
    }

    /// Whether `name` is one of the file filters.
    pub(super) fn is_filter(name: &str) -> bool {
        [Self::Url, Self::Base64].iter().any(|form| form.filter() == name)
    }
}

/// A file a rendered document wants to carry. Whether it exists and whose it is has not been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    /// The id as the context named it.
    pub file_id: String,
    /// How it goes in.
    pub form: FileForm,
}

/// Tells the placeholders of one render from any other text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

/// Gathers the files of one render.
#[derive(Debug)]
pub(super) struct FileCollector {
    mark: Mark,
    files: Mutex<Vec<FileReference>>,
}

impl Object for FileCollector {}

impl FileCollector {
    pub(super) fn new() -> Arc<Self> {
        // A fresh RandomState is keyed at random: not a secret, but nothing a context could hold by chance or intent.
        let mark = Mark(RandomState::new().hash_one(0));
        Arc::new(Self { mark, files: Mutex::new(Vec::new()) })
    }

    pub(super) fn take(&self) -> (Mark, Vec<FileReference>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        (self.mark, std::mem::take(&mut *files))
    }
}

/// The filters: null stays null, an id becomes a placeholder.
pub(super) fn collect(
    collector: Option<&FileCollector>,
    form: FileForm,
    value: &Value,
) -> Result<Value, Error> {
    let refuse = |message: String| Err(Error::new(ErrorKind::InvalidOperation, message));
    if value.is_undefined() || value.is_none() {
        return Ok(Value::from(()));
    }
    let Some(file_id) = value.as_str() else {
        return refuse(format!("{} needs a file id, not a {}", form.filter(), value.kind()));
    };
    let Some(collector) = collector else {
        return refuse(format!("{} cannot be used here", form.filter()));
    };
    let wanted = FileReference { file_id: file_id.to_owned(), form };
    let mut files = collector.files.lock().unwrap_or_else(PoisonError::into_inner);
    let index = match files.iter().position(|file| *file == wanted) {
        Some(index) => index,
        None if files.len() == MAX_FILES => {
            return refuse(format!("a document carries at most {MAX_FILES} files"));
        }
        None => {
            files.push(wanted);
            files.len() - 1
        }
    };
    Ok(Value::from(Placeholder { mark: collector.mark, index }.to_string()))
}

struct Placeholder {
    mark: Mark,
    index: usize,
}

impl fmt::Display for Placeholder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{OPEN}{:016x}:{}{CLOSE}", self.mark.0, self.index)
    }
}

/// Puts `texts[i]` in the place of the placeholder `i` in every string of `value`.
pub(super) fn substitute(value: &mut Json, mark: Mark, texts: &[String]) {
    match value {
        Json::String(text) if text.contains(OPEN) => *text = substituted(text, mark, texts),
        Json::Array(items) => items.iter_mut().for_each(|item| substitute(item, mark, texts)),
        Json::Object(fields) => fields.values_mut().for_each(|field| substitute(field, mark, texts)),
        _ => {}
    }
}

fn substituted(text: &str, mark: Mark, texts: &[String]) -> String {
    let opening = format!("{OPEN}{:016x}:", mark.0);
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&opening) {
        result.push_str(before);
        let found = after
            .split_once(CLOSE)
            .and_then(|(index, tail)| Some((texts.get(index.parse::<usize>().ok()?)?, tail)));
        match found {
            Some((file, tail)) => {
                result.push_str(file);
                rest = tail;
            }
            // A filter cut the placeholder in two; nothing sensible can stand here.
            None => rest = after,
        }
    }
    result.push_str(rest);
    result
}
