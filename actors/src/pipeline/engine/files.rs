//! The files of a call: those its input carries, and those it produced.

use crate::{
    ids::{FileId, TaskId, UserId},
    object_store::ObjectStore,
    pipeline::{
        provider::{CallError, CallOutput, FileAccess},
        store::FileRow,
        template::{FileForm, Rendered},
    },
    records::files::object_key,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// How long the storing of produced files is tried: the call was paid for, and another would be too.
const STORE_FOR: Duration = Duration::from_secs(60);
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// Puts the files that a rendered input names into it: links that end with the call, or bytes.
pub(super) async fn resolve(
    input: Rendered,
    access: &dyn FileAccess,
    inline_bytes: u64,
    deadline: Instant,
) -> Result<Value, CallError> {
    let mut texts = Vec::with_capacity(input.files().len());
    for file in input.files() {
        let id = file.file_id.parse().map_err(|_| {
            CallError::permanent("INPUT_INVALID", "The step's input names a file that is none.")
        })?;
        texts.push(match file.form {
            FileForm::Url => access.link(id, deadline.saturating_duration_since(Instant::now())).await?,
            FileForm::Base64 => STANDARD.encode(access.read(id, inline_bytes).await?),
        });
    }
    input.resolve(&texts).map_err(|error| CallError::permanent("TEMPLATE_FAILED", error.message))
}

/// Stores what a call produced and puts the files' ids into its output. The rows are written with the result.
pub(super) async fn keep(
    store: &dyn ObjectStore,
    user: UserId,
    task: TaskId,
    produced: CallOutput,
) -> Result<(Value, Vec<FileRow>), CallError> {
    let mut rows = Vec::with_capacity(produced.files.len());
    if produced.files.is_empty() {
        return Ok((produced.output, rows));
    }
    let mut fields = match produced.output {
        Value::Object(fields) => fields,
        Value::Null => Map::new(),
        // an output that is no object has no fields to hold ids; it becomes one of them
        other => Map::from_iter([("output".to_owned(), other)]),
    };
    for file in produced.files {
        let id = FileId::new();
        let object_key = object_key(user, id);
        let size = i64::try_from(file.bytes.len()).unwrap_or(i64::MAX);
        put(store, &object_key, &file.content_type, file.bytes).await?;
        fields.insert(file.field, Value::String(id.to_string()));
        rows.push(FileRow {
            id,
            user,
            task,
            name: file.name,
            content_type: file.content_type,
            size,
            object_key,
        });
    }
    Ok((Value::Object(fields), rows))
}

async fn put(store: &dyn ObjectStore, key: &str, content_type: &str, bytes: Bytes) -> Result<(), CallError> {
    let until = Instant::now() + STORE_FOR;
    loop {
        match store.put(key, content_type, bytes.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => {
                tracing::error!(
                    error = %crate::causes(&error),
                    "a produced file could not be stored"
                );
                let message = "What the provider made could not be stored.";
                return Err(CallError::retryable("FILE_UNAVAILABLE", message));
            }
            Err(error) => {
                tracing::warn!(error = %crate::causes(&error), "a produced file is not stored yet");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
}

/// The files among the strings of a document: whatever looks like an id. Whose they are is asked in SQL.
pub(super) fn named_in(document: &Value) -> Vec<FileId> {
    let mut found = Vec::new();
    gather(document, &mut found);
    found
}

fn gather(document: &Value, found: &mut Vec<FileId>) {
    match document {
        Value::String(text) => found.extend(text.parse::<FileId>().ok()),
        Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| gather(field, found)),
        _ => {}
    }
}
