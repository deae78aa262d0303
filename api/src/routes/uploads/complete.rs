//! `POST /v1/uploads/{id}/complete`: turns a file that was put straight into the bucket into an upload.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bucket::BucketError;
use common::admission::AdmissionError;
use domain::id::UploadId;
use domain::upload;

use super::{
    InsertError, MAX_BYTES, UploadQuery, UploadView, find, insert, store, too_large,
    upload_response,
};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, Result};
use crate::extract::{Id, Parameters};
use crate::idempotency::IdempotencyKey;

/// Complete a direct upload
///
/// Checks the file that was put into the bucket and stores it as an upload. The request may be repeated. The answer is then the
/// same upload.
#[utoipa::path(
    post,
    path = "/v1/uploads/{id}/complete",
    operation_id = "complete_upload",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id in the answer of `POST /v1/uploads/direct`, `upl_…`"), UploadQuery),
    responses(
        (status = 201, description = "The upload is stored", body = UploadView, headers(("Location" = String, description = "The path of the upload"))),
        (status = 403, description = "This tenant may not submit jobs or uploads at present"),
        (status = 404, description = "No file was put into the bucket for this id yet"),
        (status = 410, description = "The upload was deleted"),
        (status = 409, description = "The upload would exceed the storage limit (`storage_full`)"),
        (status = 413, description = "The file has more than 20 MiB"),
        (status = 422, description = "The file is not an image this service can read"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(id): Id<UploadId>,
    key: IdempotencyKey,
    base: BaseUrl,
    Parameters(query): Parameters<UploadQuery>,
) -> Result<Response> {
    let name = query.into_valid_name()?;
    match find(&app, tenant, id).await {
        // An earlier request has completed the upload.
        Ok(upload) => {
            let created_at = upload.created_at.expect("a stored upload has a time");
            let view = UploadView::new(&app, &base, &upload).await;
            return Ok(key.replay(view.answer(created_at)));
        }
        Err(problem) if problem.code() == Code::NotFound => {}
        Err(problem) => return Err(problem),
    }
    // The size is known only after the file was read, so memory for the largest file is reserved.
    let mut permit = app.budget.body(app.shares.for_tenant(tenant), 1);
    permit.grow(MAX_BYTES).await?;
    let raw_key = upload::raw_key(tenant, id);
    let file = match app.bucket.get_at_most(&raw_key, MAX_BYTES as u64).await {
        Ok(Some(file)) => file,
        Ok(None) => {
            // In the bucket of another database, a missing file means nothing.
            app.owner.must_be_usable().await?;
            let detail = format!("No file was put at the URL of {id} yet: PUT it there first.");
            return Err(Problem::new(Code::NotFound, detail));
        }
        Err(BucketError::TooLarge { .. }) => return Err(too_large()),
        Err(error) => return Err(error.into()),
    };
    let upload = store(&app, tenant, id, name, permit.hold(file)).await?;
    let inserted = insert(&app, &base, tenant, &upload, None).await;
    // A concurrent request for this id uses the same object key. So the file is deleted only if there is certainly no row for it.
    if matches!(
        inserted,
        Err(InsertError::Refused(AdmissionError::StorageFull { .. }))
    ) && let Err(error) = app.bucket.delete(&upload.file.object_key).await
    {
        tracing::warn!(%error, upload.id = %id, "A file without an upload stays in the bucket until it is swept");
    }
    let stored = inserted?;
    // The file as the client sent it is not needed any more. If it cannot be deleted now, it is swept later.
    if let Err(error) = app.bucket.delete(&raw_key).await {
        tracing::warn!(%error, upload.id = %id, "The original file of a direct upload stays in the bucket until it is swept");
    }
    Ok(upload_response(&key, stored))
}
