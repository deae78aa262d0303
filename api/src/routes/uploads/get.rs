//! `GET /v1/uploads/{id}`: a picture that is kept, with a fresh link.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::id::UploadId;

use super::{UploadView, find};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{ProblemBody, Result};
use crate::extract::Id;

/// A picture that is kept
#[utoipa::path(
    get,
    path = "/v1/uploads/{id}",
    operation_id = "get_upload",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "`upl_…`")),
    responses(
        (status = 200, description = "The upload", body = UploadView),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It was deleted", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<UploadId>,
    base: BaseUrl,
) -> Result<Json<UploadView>> {
    let upload = find(&app, tenant, id).await?;
    Ok(Json(UploadView::new(&app, &base, &upload).await))
}
