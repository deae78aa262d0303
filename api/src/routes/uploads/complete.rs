//! `POST /v1/uploads/{id}/complete`: makes an upload of a file that was put straight into the bucket.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use common::admission::Refusal;
use common::bucket::BucketError;
use common::id::UploadId;
use common::upload;

use super::{MAX_BYTES, UploadQuery, UploadView, answered, find, keep, store, too_large};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, ProblemBody, Result};
use crate::extract::{Id, Parameters};
use crate::idempotency::Key;

/// Keep what was put into the bucket
///
/// May be repeated: the upload is answered again.
#[utoipa::path(
    post,
    path = "/v1/uploads/{id}/complete",
    operation_id = "complete_upload",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "`upl_…` of `POST /v1/uploads/direct`"), UploadQuery),
    responses(
        (status = 201, description = "It is kept", body = UploadView, headers(("Location" = String, description = "Where it is"))),
        (status = 403, description = "This tenant may not submit at present", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No file was put there yet", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It was deleted", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "There is no room for it (`storage_full`)", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More than 20 MiB", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "It is no picture we can read", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<UploadId>,
    key: Key,
    base: BaseUrl,
    Parameters(named): Parameters<UploadQuery>,
) -> Result<Response> {
    let name = named.check()?;
    match find(&app, tenant, id).await {
        Ok(upload) => {
            let created_at = upload.created_at.expect("it is kept");
            let view = UploadView::new(&app, &base, &upload).await;
            return Ok(key.replay(view.answer(created_at)));
        }
        Err(problem) if problem.code() == Code::NotFound => {}
        Err(problem) => return Err(problem),
    }
    // How large it is shows when it is there; until then the most it may be.
    let mut room = app.budget.body(app.shares.of(tenant), 1);
    room.grow(MAX_BYTES).await?;
    let raw = upload::raw_key(tenant, id);
    let file = match app.bucket.get_at_most(&raw, MAX_BYTES as u64).await {
        Ok(Some(file)) => file,
        Ok(None) => {
            app.owner.usable().await?;
            let detail = format!("No file was put at the url of {id} yet: PUT it there first.");
            return Err(Problem::new(Code::NotFound, detail));
        }
        Err(BucketError::TooLarge { .. }) => return Err(too_large()),
        Err(error) => return Err(error.into()),
    };
    let upload = store(&app, tenant, id, name, room.hold(file)).await?;
    let kept = keep(&app, &base, tenant, &upload, None).await?;
    // A repeated request names the same object, so only what was surely not kept is removed.
    if matches!(kept, Err(Refusal::StorageFull { .. }))
        && let Err(error) = app.bucket.delete(&upload.object_key).await
    {
        tracing::warn!(%error, upload.id = %id, "A file of no upload stays in the bucket until it is swept");
    }
    let kept = kept?;
    // What is left behind is swept.
    if let Err(error) = app.bucket.delete(&raw).await {
        tracing::warn!(%error, upload.id = %id, "A file that was put into the bucket stays there until it is swept");
    }
    Ok(answered(&key, kept))
}
