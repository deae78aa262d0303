//! `GET /v1/artifacts/{id}/content`: leads to the file. This is the link that never rots: it may stand in a history, a catalogue
//! or a page of the customer's own behind a login, for as long as the file is kept.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Redirect};
use common::id::ArtifactId;

use super::{ArtifactView, find};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{ProblemBody, Result};
use crate::extract::Id;

/// To the file itself
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}/content",
    operation_id = "get_artifact_content",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "`art_…`")),
    responses(
        (status = 303, description = "`Location` is a fresh link to the file; no key is needed there", headers(("Location" = String))),
        (status = 410, description = "It was deleted, its time was over", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<ArtifactId>,
    base: BaseUrl,
) -> Result<impl IntoResponse> {
    let (artifact, name) = find(&app, tenant, id).await?;
    let view = ArtifactView::new(&app, &base, &artifact, name.as_deref());
    let url = view.await.url;
    Ok(([(header::CACHE_CONTROL, "no-store")], Redirect::to(&url)))
}
