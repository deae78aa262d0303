//! `GET /v1/uploads/{id}`: an upload, with a fresh link.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::id::UploadId;

use super::{UploadView, find};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::extract::Id;

/// Get an upload, with a fresh link to its file
#[utoipa::path(
    get,
    path = "/v1/uploads/{id}",
    operation_id = "get_upload",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id of the upload, `upl_…`")),
    responses(
        (status = 200, description = "The upload", body = UploadView),
        (status = 404, description = "There is no upload with this id"),
        (status = 410, description = "The upload was deleted"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(id): Id<UploadId>,
    base: BaseUrl,
) -> Result<Json<UploadView>> {
    let upload = find(&app, tenant, id).await?;
    Ok(Json(UploadView::new(&app, &base, &upload).await))
}
