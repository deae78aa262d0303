//! `POST /v1/uploads`: stores an image to be named in jobs. The body is the file itself.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use common::admission::AdmissionError;
use common::files::uploading::StoreResult;
use domain::id::UploadId;
use domain::upload;

use super::{
    InsertError, UploadQuery, UploadView, answered_before, insert, store, upload_response,
};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::extract::{AnyBody, Parameters};
use crate::idempotency::IdempotencyKey;

/// Upload an image
///
/// The body is the file itself: PNG, JPEG or WebP, whatever its `Content-Type` says. It is encoded again before it is stored: upright, in
/// sRGB, with at most 4096 pixels a side and 7 MiB, and without metadata such as the place where a photo was taken.
#[utoipa::path(
    post,
    path = "/v1/uploads",
    operation_id = "create_upload",
    tag = "files",
    security(("key" = [])),
    params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The file, at most 20 MiB and 64 megapixels"),
    responses(
        (status = 201, description = "The upload is stored", body = UploadView,
            headers(
                ("Location" = String, description = "The path of the upload"),
                ("Idempotency-Key" = String, description = "The key that was sent or generated"),
                ("Idempotent-Replayed" = Option<bool>, description = "`true` if this is the stored answer to an earlier request"),
            )),
        (status = 403, description = "This tenant may not submit jobs or uploads at present"),
        (status = 409, description = "The upload would exceed the storage limit (`storage_full`)"),
        (status = 413, description = "The file has more than 20 MiB"),
        (status = 422, description = "The file is not an image this service can read"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    key: IdempotencyKey,
    base: BaseUrl,
    uri: Uri,
    Parameters(query): Parameters<UploadQuery>,
    AnyBody(file): AnyBody,
) -> Result<Response> {
    let name = query.into_valid_name()?;
    let request = key.request("POST", &uri.to_string(), &file);
    if key.sent
        && let Some(answer) = answered_before(&app, tenant, &request).await?
    {
        return Ok(key.replay(answer));
    }
    let id = UploadId::new();
    let upload = store(&app, tenant, id, name, file).await?;
    let inserted = insert(&app, &base, tenant, &upload, Some(&request)).await;
    // After a database error the commit may have succeeded, and the row would need its file. If it did not, the file is swept later.
    if !matches!(
        inserted,
        Ok(StoreResult::New(_)) | Err(InsertError::Refused(AdmissionError::Database(_)))
    ) && let Err(error) = app.bucket.delete(&upload::key(tenant, id)).await
    {
        tracing::warn!(%error, upload.id = %id, "A file without an upload stays in the bucket until it is swept");
    }
    Ok(upload_response(&key, inserted?))
}
