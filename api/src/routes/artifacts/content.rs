//! `GET /v1/artifacts/{id}/content`: redirects to the file. This path does not expire, so customers can store it for as long as the
//! file is kept.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Redirect};
use domain::id::ArtifactId;

use super::{ArtifactView, find};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::extract::Id;

/// Get the file of an artifact
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}/content",
    operation_id = "get_artifact_content",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id of the artifact, `art_…`")),
    responses(
        (status = 303, description = "`Location` is a fresh link to the file; no key is needed there", headers(("Location" = String, description = "A fresh link to the file"))),
        (status = 410, description = "The file was deleted: its retention time ended"),
        (status = 404, description = "There is no artifact with this id"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(id): Id<ArtifactId>,
    base: BaseUrl,
) -> Result<impl IntoResponse> {
    let (artifact, name) = find(&app, tenant, id).await?;
    let view = ArtifactView::new(&app, &base, &artifact, name.as_deref());
    let url = view.await.url;
    Ok(([(header::CACHE_CONTROL, "no-store")], Redirect::to(&url)))
}
