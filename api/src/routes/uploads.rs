//! Uploads, as clients see them: pictures that are kept to be named in jobs.

pub mod complete;
pub mod create;
pub mod delete;
pub mod direct;
pub mod get;
pub mod list;

use axum::response::Response;
use bytes::Bytes;
use common::admission::{self, Refusal};
use common::generation::image::{MAX_INPUT_BYTES, MediaType};
use common::id::{TenantId, UploadId};
use common::idempotency::{Answer, Request};
use common::upload::{self, Upload};
use common::uploading::{self, Stored};
use common::{database, generation::Violation, visible};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::app::App;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, Result};
use crate::idempotency::Key;
use crate::link::{File, FileLink};

/// Largest file, in bytes. What is kept of it is smaller.
const MAX_BYTES: usize = 20 * 1024 * 1024;
const MAX_NAME: usize = 200;

/// A picture that is kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Upload)]
pub struct UploadView {
    /// What jobs name it by: `{"upload": "upl_…", "role": "product"}`.
    #[schema(value_type = String, example = "upl_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: UploadId,
    pub name: Option<String>,
    /// As it is kept: written anew, upright, in sRGB, without a word of where it comes from.
    #[schema(inline)]
    pub media_type: MediaType,
    pub width: u32,
    pub height: u32,
    pub bytes: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Option<OffsetDateTime>,
    /// Where the file is, until `expires_at`; no key is needed. Each answer has a fresh one.
    pub url: String,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    pub links: Links,
}

/// Where an upload is for good, for whoever has a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadLinks)]
pub struct Links {
    #[serde(rename = "self")]
    pub itself: String,
}

impl UploadView {
    /// With a fresh link.
    pub async fn new(app: &App, base: &BaseUrl, upload: &Upload) -> Self {
        let file = File {
            key: &upload.object_key,
            media_type: upload.media_type,
            name: &upload.file_name(),
        };
        let fresh = FileLink::to(app, base, file, app.link_lifetime).await;
        Self {
            id: upload.id,
            name: upload.name.clone(),
            media_type: upload.media_type,
            width: upload.pixels.width,
            height: upload.pixels.height,
            bytes: upload.bytes,
            created_at: upload.created_at,
            url: fresh.url,
            expires_at: fresh.expires_at,
            links: Links {
                itself: location(upload.id),
            },
        }
    }

    /// As the answer to a POST, once it is known since when it is kept.
    fn answer(mut self, created_at: OffsetDateTime) -> Answer {
        self.created_at = Some(created_at);
        Answer {
            status: 201,
            location: Some(self.links.itself.clone()),
            body: serde_json::to_vec(&self).expect("a view is JSON"),
        }
    }
}

/// Where an upload is.
fn location(id: UploadId) -> String {
    format!("/v1/uploads/{id}")
}

/// What it is called.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// For you, to find it again: at most 200 characters.
    #[param(max_length = 200, pattern = "^[^\\u0000]*$")]
    name: Option<String>,
}

impl UploadQuery {
    fn check(self) -> Result<Option<String>> {
        match self.name.filter(|name| !visible::is_blank(name)) {
            Some(name) if name.chars().count() > MAX_NAME || name.contains('\0') => {
                let detail = format!("`name` takes at most {MAX_NAME} characters, without NUL.");
                Err(Problem::new(Code::InvalidQuery, detail))
            }
            name => Ok(name),
        }
    }
}

/// Writes a file anew and stores what comes of it: all but the row. It takes a turn of its tenant's, a place and memory.
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
    app.owner.usable().await?;
    let share = app.shares.of(tenant);
    let cleaned = app.budget.clean(&share, file, MAX_INPUT_BYTES).await?;
    let cleaned = cleaned.map_err(|why| Problem::invalid(vec![Violation::new("", why)]))?;
    let object_key = upload::key(tenant, id);
    let stored = app.bucket.put_new(&object_key, cleaned.bytes).await?;
    // What was put into another's bucket is taken back, and no row names it.
    if let Err(not_ours) = app.owner.usable_since(Instant::now()).await {
        if let Err(error) = app.bucket.delete(&object_key).await {
            tracing::warn!(%error, upload.id = %id, "A file of no upload stays in a bucket that is not ours");
        }
        return Err(not_ours.into());
    }
    Ok(Upload {
        id,
        name,
        object_key,
        sha256: stored.sha256,
        bytes: stored.bytes,
        media_type: cleaned.media_type,
        pixels: cleaned.pixels,
        created_at: None,
    })
}

/// Names what was stored, in a row. It is answered as an upload.
async fn keep(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    upload: &Upload,
    request: Option<&Request>,
) -> Result<std::result::Result<Stored, Refusal>> {
    let view = UploadView::new(app, base, upload).await;
    let answer = |created_at| view.answer(created_at);
    let connection = app.wallet(tenant).await?;
    Ok(uploading::store(&connection, tenant, upload, request, &app.unpaid, answer).await)
}

/// The answer to the first request like this one, where it was answered.
async fn answered_before(app: &App, tenant: TenantId, request: &Request) -> Result<Option<Answer>> {
    let connection = app.connection(tenant).await?;
    Ok(admission::answered_before(&connection, tenant, request).await?)
}

/// The answer to a POST that keeps something.
fn answered(key: &Key, kept: Stored) -> Response {
    match kept {
        Stored::New(answer) => key.answer(answer),
        Stored::Repeated(answer) => key.replay(answer),
    }
}

fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, "A file has at most 20 MiB.")
}

/// An upload of the tenant's, or what has become of it.
async fn find(app: &App, tenant: TenantId, id: UploadId) -> Result<Upload> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    if let Some(upload) = upload::store::some(&mut transaction, &[id]).await?.pop() {
        return Ok(upload);
    }
    if upload::store::is_gone(&mut transaction, id).await? {
        return Err(gone(id));
    }
    Err(Problem::no_such("upload", id))
}

fn gone(id: UploadId) -> Problem {
    Problem::new(
        Code::Gone,
        format!("{id} was deleted, as its owner wanted."),
    )
}
