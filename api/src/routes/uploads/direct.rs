//! `POST /v1/uploads/direct`: where a client may put a file straight into the bucket, so that it does not come through us twice.
//! Nothing is written: the id says where the file goes, and [`complete`](super::complete) makes it an upload.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use common::id::UploadId;
use common::{admission, clock, database, upload};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::location;
use crate::app::App;
use crate::auth::Tenant;
use crate::error::{Code, ProblemBody, Result};

/// How long the file may be put there.
const LIFETIME: Duration = Duration::from_mins(15);

/// Where to put a file.
#[derive(Debug, Serialize, ToSchema)]
pub struct DirectUpload {
    /// What the upload will be called.
    #[schema(value_type = String, example = "upl_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: UploadId,
    /// Always `PUT`.
    pub method: &'static str,
    /// Takes the file as its body, until `expires_at`; no key is needed.
    pub url: String,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    #[schema(inline)]
    pub links: DirectLinks,
}

/// What comes next.
#[derive(Debug, Serialize, ToSchema)]
pub struct DirectLinks {
    /// To be posted to once the file is there.
    pub complete: String,
}

/// Put a file straight into the bucket
///
/// Offered where files are kept in S3 or Google Cloud Storage and its links may be given out. PUT the file at `url`, then POST to
/// `links.complete`.
#[utoipa::path(
    post,
    path = "/v1/uploads/direct",
    operation_id = "create_direct_upload",
    tag = "files",
    security(("key" = [])),
    responses(
        (status = 200, description = "Where to put it", body = DirectUpload),
        (status = 409, description = "This service takes files itself only: `direct_uploads` of `GET /v1/uploads` says so beforehand; or there is no room (`storage_full`)", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
) -> Result<Json<DirectUpload>> {
    app.owner.usable().await?;
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    admission::check_storage_limit(&mut transaction, tenant, 1, &app.unpaid).await?;
    transaction.commit().await?;
    let (id, now) = (UploadId::new(), clock::now());
    let key = upload::raw_key(tenant, id);
    let url = app.bucket.link_to_put(&key, LIFETIME).await?;
    Ok(Json(DirectUpload {
        id,
        method: "PUT",
        url: url.ok_or(Code::NoDirectUploads)?,
        expires_at: now + LIFETIME,
        links: DirectLinks {
            complete: format!("{}/complete", location(id)),
        },
    }))
}
