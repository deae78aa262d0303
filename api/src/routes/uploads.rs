//! Uploads, as clients see them: images that a tenant sent once and names in any number of jobs.

pub mod complete;
pub mod create;
pub mod delete;
pub mod direct;
pub mod get;
pub mod list;

use axum::response::Response;
use bytes::Bytes;
use common::admission::{self, AdmissionError};
use common::files::uploading::{self, StoreResult};
use domain::generation::Violation;
use domain::generation::image::{MAX_INPUT_BYTES, MediaType};
use domain::id::{TenantId, UploadId};
use domain::idempotency::{Answer, Request};
use domain::stored_file::StoredFile;
use domain::upload::{self, Upload};
use domain::visible;
use serde::{Deserialize, Serialize};
use storage::database;
use time::OffsetDateTime;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::app::App;
use crate::base_url::BaseUrl;
use crate::budget::CleanError;
use crate::error::{Code, Problem, Result};
use crate::idempotency::IdempotencyKey;
use crate::link::{File, FileLink};

/// The largest file that may be sent, in bytes. The stored image has at most [`MAX_INPUT_BYTES`].
const MAX_BYTES: usize = 20 * 1024 * 1024;
/// The longest name of an upload, in characters.
const MAX_NAME_LENGTH: usize = 200;

/// An image that a tenant has uploaded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Upload)]
pub struct UploadView {
    /// The id to name in a job: `{"upload": "upl_…", "role": "product"}`.
    #[schema(value_type = String, example = "upl_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: UploadId,
    /// Your name for the upload.
    pub name: Option<String>,
    /// The type of the stored file. Every upload is encoded again: upright, in sRGB and without metadata.
    #[schema(inline)]
    pub media_type: MediaType,
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The size of the stored file.
    pub bytes: i64,
    // `None` until the row is written; an answer always has it.
    /// When the upload was stored.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Option<OffsetDateTime>,
    /// A link to the file, which works until `expires_at` and needs no key. Each answer has a fresh link.
    pub url: String,
    /// Until when `url` works.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Paths that do not expire.
    pub links: Links,
}

/// Paths of an upload. They do not expire and need a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadLinks)]
pub struct Links {
    /// The path of the upload.
    #[serde(rename = "self")]
    pub itself: String,
}

impl UploadView {
    /// Describes an upload, with a fresh link to its file.
    pub async fn new(app: &App, base: &BaseUrl, upload: &Upload) -> Self {
        let file = File {
            key: &upload.file.object_key,
            media_type: upload.file.media_type,
            name: &upload.file_name(),
        };
        let fresh = FileLink::to(app, base, file, app.link_lifetime).await;
        Self {
            id: upload.id,
            name: upload.name.clone(),
            media_type: upload.file.media_type,
            width: upload.file.pixels.width,
            height: upload.file.pixels.height,
            bytes: upload.file.bytes,
            created_at: upload.created_at,
            url: fresh.url,
            expires_at: fresh.expires_at,
            links: Links {
                itself: location(upload.id),
            },
        }
    }

    /// Makes the answer to a POST from the view, once it is known when its row was written.
    fn answer(mut self, created_at: OffsetDateTime) -> Answer {
        self.created_at = Some(created_at);
        Answer {
            status: 201,
            location: Some(self.links.itself.clone()),
            body: serde_json::to_vec(&self).expect("a view is JSON"),
        }
    }
}

/// The path of an upload.
fn location(id: UploadId) -> String {
    format!("/v1/uploads/{id}")
}

/// The parameters of a new upload.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// Your name for the upload: at most 200 characters.
    #[param(max_length = 200, pattern = "^[^\\u0000]*$")]
    name: Option<String>,
}

impl UploadQuery {
    /// Returns the name, or `None` if it is blank. Returns a problem if it is too long or contains a NUL character.
    fn into_valid_name(self) -> Result<Option<String>> {
        match self.name.filter(|name| !visible::is_blank(name)) {
            Some(name) if name.chars().count() > MAX_NAME_LENGTH || name.contains('\0') => {
                let detail = format!(
                    "`name` may have at most {MAX_NAME_LENGTH} characters and no NUL character (U+0000)."
                );
                Err(Problem::new(Code::InvalidQuery, detail))
            }
            name => Ok(name),
        }
    }
}

/// Encodes a file again and stores it in the bucket, but writes no row: [`insert`] does that. Waits for a permit of the tenant, a
/// render slot and memory.
async fn store(
    app: &App,
    tenant: TenantId,
    id: UploadId,
    name: Option<String>,
    file: Bytes,
) -> Result<Upload> {
    if file.len() > MAX_BYTES {
        return Err(too_large());
    }
    app.owner.must_be_usable().await?;
    let share = app.shares.for_tenant(tenant);
    let cleaned = app.budget.clean(&share, file, MAX_INPUT_BYTES).await;
    let cleaned = cleaned.map_err(|error| match error {
        CleanError::Image(why) => Problem::invalid(vec![Violation::new("", why)]),
        CleanError::Request(problem) => problem,
    })?;
    let object_key = upload::key(tenant, id);
    let stored = app.bucket.put_new(&object_key, cleaned.bytes).await?;
    // If another database has adopted the bucket in the meantime, the file is deleted again and no row is written. A check that
    // began before the file was stored proves nothing.
    if let Err(not_ours) = app.owner.must_be_usable_since(Instant::now()).await {
        if let Err(error) = app.bucket.delete(&object_key).await {
            tracing::warn!(%error, upload.id = %id, "A file without an upload stays in a bucket that belongs to another database");
        }
        return Err(not_ours.into());
    }
    Ok(Upload {
        id,
        name,
        file: StoredFile {
            object_key,
            sha256: stored.sha256,
            bytes: stored.bytes,
            media_type: cleaned.media_type,
            pixels: cleaned.pixels,
        },
        created_at: None,
    })
}

/// Why the row of a stored file was not written. The caller decides whether to delete the file.
#[derive(Debug)]
enum InsertError {
    /// The request failed before the row could be written.
    Request(Problem),
    /// The row was refused, or the database failed.
    Refused(AdmissionError),
}

impl From<Problem> for InsertError {
    fn from(problem: Problem) -> Self {
        Self::Request(problem)
    }
}

impl From<AdmissionError> for InsertError {
    fn from(refusal: AdmissionError) -> Self {
        Self::Refused(refusal)
    }
}

impl From<InsertError> for Problem {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Request(problem) => problem,
            InsertError::Refused(refusal) => refusal.into(),
        }
    }
}

/// Writes the row of a stored file. If `request` is given, stores the answer for repetitions of it in the same transaction.
async fn insert(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    upload: &Upload,
    request: Option<&Request>,
) -> std::result::Result<StoreResult, InsertError> {
    let view = UploadView::new(app, base, upload).await;
    let answer = |created_at| view.answer(created_at);
    let connection = app.wallet(tenant).await?;
    Ok(uploading::store(
        &connection,
        tenant,
        upload,
        request,
        &app.unbilled_limits,
        answer,
    )
    .await?)
}

/// The stored answer to an earlier request, if this one repeats it. A key that belongs to another request is an error.
async fn answered_before(app: &App, tenant: TenantId, request: &Request) -> Result<Option<Answer>> {
    let connection = app.connection(tenant).await?;
    Ok(admission::answered_before(&connection, tenant, request).await?)
}

/// Makes the response to a POST that stored an upload, new or repeated.
fn upload_response(key: &IdempotencyKey, stored: StoreResult) -> Response {
    match stored {
        StoreResult::New(answer) => key.answer(answer),
        StoreResult::Repeated(answer) => key.replay(answer),
    }
}

fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, "A file has at most 20 MiB.")
}

/// Finds an upload of the tenant. The problem says whether the upload was deleted or never existed.
async fn find(app: &App, tenant: TenantId, id: UploadId) -> Result<Upload> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    if let Some(upload) = storage::uploads::find_existing(&mut transaction, &[id])
        .await?
        .pop()
    {
        return Ok(upload);
    }
    if storage::uploads::is_gone(&mut transaction, id).await? {
        return Err(gone(id));
    }
    Err(Problem::no_such("upload", id))
}

fn gone(id: UploadId) -> Problem {
    Problem::new(
        Code::Gone,
        format!("{id} was deleted by its owner or at the end of its retention."),
    )
}
