//! `POST /v1/uploads/direct`: gives a client a URL to put a file straight into the bucket, so that the API need not receive it.
//!
//! Nothing is written to the database. The key of the file is derived from the id, and [`complete`](super::complete) makes the
//! upload.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use common::admission;
use domain::id::UploadId;
use domain::{clock, upload};
use serde::Serialize;
use storage::database;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::location;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Code, Result};

/// How long the URL works.
const LIFETIME: Duration = Duration::from_mins(15);

/// How to put a file into the bucket.
#[derive(Debug, Serialize, ToSchema)]
pub struct DirectUpload {
    /// The id of the future upload.
    #[schema(value_type = String, example = "upl_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: UploadId,
    /// The HTTP method for `url`: always `PUT`.
    pub method: &'static str,
    /// Send the file to this URL as the body, until `expires_at`. No key is needed.
    pub url: String,
    /// Until when `url` works.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// What to do next.
    #[schema(inline)]
    pub links: DirectLinks,
}

/// What to do after the file was put into the bucket.
#[derive(Debug, Serialize, ToSchema)]
pub struct DirectLinks {
    /// The path to post to once the file is in the bucket.
    pub complete: String,
}

/// Start a direct upload
///
/// Offered if files are stored in S3 or Google Cloud Storage and the store's links may be given out. PUT the file at `url`, then POST
/// to `links.complete`.
#[utoipa::path(
    post,
    path = "/v1/uploads/direct",
    operation_id = "create_direct_upload",
    tag = "files",
    security(("key" = [])),
    responses(
        (status = 200, description = "How to put the file into the bucket", body = DirectUpload),
        (status = 409, description = "Direct uploads are not offered (`no_direct_uploads`; `direct_uploads` of `GET /v1/uploads` says it beforehand), or the storage limit is reached (`storage_full`)"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
) -> Result<Json<DirectUpload>> {
    app.owner.must_be_usable().await?;
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    // The size is not known yet. At least one more byte must be allowed.
    admission::check_storage_limit(&mut transaction, tenant, 1, &app.unbilled_limits).await?;
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
