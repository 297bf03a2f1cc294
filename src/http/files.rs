//! Files: announced here, sent straight to the object store, and fetched from there by short-lived links.

use super::{
    bearer::{self, ReadFiles, Scoped},
    error::{ApiError, ErrorCode, FieldError},
    extract::Id,
    json::{OptionalJson, ValidJson},
    language::Text,
    paging::{NoQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, delete, get, http::header::LOCATION, post, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::{FileId, TaskId, UserId},
    object_store::PresignedUpload,
    records::files::{File, NewUpload},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use utoipa::ToSchema;

/// Longest name of a file, characters.
const NAME_MAX: usize = 200;

/// A file.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = File)]
pub(super) struct FileView {
    #[schema(value_type = String, format = Uuid)]
    id: FileId,
    name: String,
    #[schema(example = "image/jpeg")]
    content_type: String,
    /// Bytes.
    size: u64,
    /// `upload`: sent by the user; `output`: named by a task's output; `intermediate`: made on the way.
    #[schema(example = "upload")]
    kind: &'static str,
    /// The task that made it.
    #[schema(value_type = Option<String>, format = Uuid)]
    task_id: Option<TaskId>,
    /// Works for a few minutes and for anybody; null until the upload is complete.
    download_url: Option<String>,
    created_at: DateTime<Utc>,
}

impl FileView {
    /// The file with a fresh link.
    pub(super) fn new(file: File, state: &State) -> Self {
        let link = || {
            let (key, name, lasting) = (&file.object_key, &file.name, state.settings.link_lasting);
            state.files.store().presign_download(key, &file.content_type, name, lasting)
        };
        Self {
            download_url: file.is_complete.then(link),
            id: file.id,
            kind: file.kind.name(),
            task_id: file.task,
            name: file.name,
            content_type: file.content_type,
            size: file.size,
            created_at: file.created_at,
        }
    }

    /// The files that each of `tasks` made, for `Task.files`.
    ///
    /// # Errors
    /// 503 where PostgreSQL is away.
    pub(super) async fn of_tasks(
        tasks: &[TaskId],
        state: &State,
    ) -> Result<HashMap<TaskId, Vec<Self>>, ApiError> {
        let mut by_task: HashMap<TaskId, Vec<Self>> = HashMap::new();
        for file in state.files.of_tasks(tasks).await? {
            if let Some(task) = file.task {
                by_task.entry(task).or_default().push(Self::new(file, state));
            }
        }
        Ok(by_task)
    }
}

/// A file to be uploaded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewFile {
    /// One of the types this installation takes.
    #[schema(example = "image/jpeg")]
    content_type: String,
    /// Exactly as many bytes will be sent.
    #[schema(minimum = 1, example = 183_204)]
    size: u64,
    /// A name to show.
    #[schema(max_length = 200, example = "coat.jpg")]
    name: Option<String>,
}

/// Where to send the bytes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UploadView {
    #[schema(example = "PUT")]
    method: &'static str,
    url: String,
    /// To be sent exactly so.
    headers: BTreeMap<String, String>,
    expires_at: DateTime<Utc>,
}

impl From<PresignedUpload> for UploadView {
    fn from(upload: PresignedUpload) -> Self {
        let PresignedUpload { method, url, headers, expires_at } = upload;
        Self { method, url, headers, expires_at }
    }
}

/// A file whose bytes are still to come.
#[derive(Debug, Serialize, ToSchema)]
struct AnnouncedFile {
    #[schema(value_type = String, format = Uuid)]
    id: FileId,
    upload: UploadView,
}

impl NewFile {
    fn checked(self, user: UserId, state: &State) -> Result<NewUpload, ApiError> {
        let uploads = &state.settings.uploads;
        let mut errors = Vec::new();
        let mut refuse = |path: &str, message| errors.push(FieldError { path: path.to_owned(), message });
        let content_type = self.content_type.to_ascii_lowercase();
        if !uploads.types.contains(&content_type) {
            let types = uploads.types.join(", ");
            refuse(
                "/contentType",
                Text::new(format!("须为 {types} 之一。"), format!("It must be one of {types}.")),
            );
        }
        if self.size == 0 || self.size > uploads.max_bytes {
            let max = uploads.max_bytes;
            refuse(
                "/size",
                Text::new(format!("须为 1 到 {max} 字节。"), format!("1 to {max} bytes are taken.")),
            );
        }
        let name = self.name.unwrap_or_else(|| "upload".to_owned());
        if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
            refuse(
                "/name",
                Text::new(
                    format!("须为 1 到 {NAME_MAX} 个字符，且不含控制字符。"),
                    format!("1 to {NAME_MAX} characters without control characters are taken."),
                ),
            );
        }
        if errors.is_empty() {
            Ok(NewUpload { user, name, content_type, size: self.size })
        } else {
            Err(ApiError::new(ErrorCode::ValidationFailed).with_errors(errors))
        }
    }
}

/// Announces a file. Its bytes go to `upload.url`, then call `complete`.
#[utoipa::path(
    tag = "files",
    request_body = NewFile,
    responses(
        (status = 201, description = "Send the bytes now.", body = AnnouncedFile),
        (status = 422, description = "A type or size this installation does not take."),
    ),
    security(("bearer" = []), ("apiKey" = ["files"])),
)]
#[post("/files")]
pub(super) async fn create_file(
    caller: Scoped<bearer::Files>,
    state: web::Data<State>,
    body: ValidJson<NewFile>,
) -> Result<HttpResponse, ApiError> {
    let file = state.files.announce(&body.body.checked(caller.id, &state)?).await?;
    let lasting = state.settings.uploads.lasting;
    let upload = state.files.store().presign_upload(&file.object_key, &file.content_type, file.size, lasting);
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, format!("/api/v1/files/{}", file.id)))
        .json(AnnouncedFile { id: file.id, upload: upload.into() }))
}

/// A body without fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoFields {}

/// Says that the bytes have been sent. Again is the same.
#[utoipa::path(
    tag = "files",
    params(("id" = String, Path, description = "The file.")),
    responses(
        (status = 200, description = "The file can be used.", body = FileView),
        (status = 404, description = "No such file of yours."),
        (status = 409, description = "The bytes are not there in full: `UPLOAD_INCOMPLETE`."),
    ),
    security(("bearer" = []), ("apiKey" = ["files"])),
)]
#[post("/files/{id}/complete")]
pub(super) async fn complete_file(
    caller: Scoped<bearer::Files>,
    id: Id<FileId>,
    state: web::Data<State>,
    _: OptionalJson<NoFields>,
) -> Result<HttpResponse, ApiError> {
    let file = state.files.complete(caller.id, id.0).await?;
    Ok(HttpResponse::Ok().json(FileView::new(file, &state)))
}

/// Shows a file with a short-lived link to its bytes.
#[utoipa::path(
    tag = "files",
    params(("id" = String, Path, description = "The file.")),
    responses(
        (status = 200, description = "The file.", body = FileView),
        (status = 404, description = "No such file of yours."),
    ),
    security(("bearer" = []), ("apiKey" = ["files"]), ("apiKey" = ["read"])),
)]
#[get("/files/{id}")]
pub(super) async fn get_file(
    caller: Scoped<ReadFiles>,
    id: Id<FileId>,
    _: ValidQuery<NoQuery>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let file = state.files.get(caller.id, id.0).await?;
    Ok(HttpResponse::Ok().json(FileView::new(file, &state)))
}

/// Leads to a file's bytes.
#[utoipa::path(
    tag = "files",
    params(("id" = String, Path, description = "The file.")),
    responses(
        (status = 302, description = "To a short-lived link."),
        (status = 404, description = "No such file of yours."),
        (status = 409, description = "The bytes are not there in full: `UPLOAD_INCOMPLETE`."),
    ),
    security(("bearer" = []), ("apiKey" = ["files"]), ("apiKey" = ["read"])),
)]
#[get("/files/{id}/content")]
pub(super) async fn get_file_content(
    caller: Scoped<ReadFiles>,
    id: Id<FileId>,
    _: ValidQuery<NoQuery>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let file = FileView::new(state.files.get(caller.id, id.0).await?, &state);
    let link = file.download_url.ok_or_else(|| ApiError::new(ErrorCode::UploadIncomplete))?;
    Ok(HttpResponse::Found().insert_header((LOCATION, link)).finish())
}

/// Deletes a file and its bytes.
#[utoipa::path(
    tag = "files",
    params(("id" = String, Path, description = "The file.")),
    responses(
        (status = 204, description = "Gone."),
        (status = 404, description = "No such file of yours."),
        (status = 409, description = "A task of yours that has not ended uses it."),
    ),
    security(("bearer" = []), ("apiKey" = ["files"])),
)]
#[delete("/files/{id}")]
pub(super) async fn delete_file(
    caller: Scoped<bearer::Files>,
    id: Id<FileId>,
    _: ValidQuery<NoQuery>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    state.files.delete(caller.id, id.0).await?;
    Ok(HttpResponse::NoContent().finish())
}
