//! `POST /v1/uploads`: keeps a picture, to be named in jobs. The body is the file itself.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use common::admission::Refusal;
use common::id::UploadId;
use common::upload;
use common::uploading::Stored;

use super::{UploadQuery, UploadView, answered, answered_before, keep, store};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{ProblemBody, Result};
use crate::extract::{AnyBody, Parameters};
use crate::idempotency::Key;

/// Keep a picture
///
/// The body is the file itself: PNG, JPEG or WebP, whatever its `Content-Type` says. It is written anew before it is kept: upright, in
/// sRGB, of at most 4096 pixels a side and 7 MiB, and without metadata such as where it was taken.
#[utoipa::path(
    post,
    path = "/v1/uploads",
    operation_id = "create_upload",
    tag = "files",
    security(("key" = [])),
    params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The file, at most 20 MiB and 64 megapixels"),
    responses(
        (status = 201, description = "It is kept", body = UploadView,
            headers(("Location" = String, description = "Where it is"), ("Idempotency-Key" = String), ("Idempotent-Replayed" = Option<bool>))),
        (status = 403, description = "This tenant may not submit at present", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "There is no room for it (`storage_full`)", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More than 20 MiB", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "It is no picture we can read", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    key: Key,
    base: BaseUrl,
    uri: Uri,
    Parameters(named): Parameters<UploadQuery>,
    AnyBody(file): AnyBody,
) -> Result<Response> {
    let name = named.check()?;
    let request = key.request("POST", &uri.to_string(), &file);
    if key.sent
        && let Some(answer) = answered_before(&app, tenant, &request).await?
    {
        return Ok(key.replay(answer));
    }
    let id = UploadId::new();
    let upload = store(&app, tenant, id, name, file).await?;
    let kept = keep(&app, &base, tenant, &upload, Some(&request)).await;
    // After a lost connection the row may stand, and needs its file; else the sweeper finds it.
    if !matches!(kept, Ok(Ok(Stored::New(_)) | Err(Refusal::Database(_))))
        && let Err(error) = app.bucket.delete(&upload::key(tenant, id)).await
    {
        tracing::warn!(%error, upload.id = %id, "A file of no upload stays in the bucket until it is swept");
    }
    Ok(answered(&key, kept??))
}
