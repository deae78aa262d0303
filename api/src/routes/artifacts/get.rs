//! `GET /v1/artifacts/{id}`: a file we made, with a fresh link.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use common::config::LINKS;
use common::id::ArtifactId;
use serde::Deserialize;

use super::{ArtifactView, find};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, ProblemBody, Result};
use crate::extract::{Id, Parameters};

/// How the link should be.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LinkQuery {
    /// Seconds the link works.
    #[param(minimum = 60, maximum = 86_400, default = 900)]
    expires_in: Option<u64>,
}

/// A file, with a fresh link
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}",
    operation_id = "get_artifact",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "`art_…`"), LinkQuery),
    responses(
        (status = 200, description = "The artifact", body = ArtifactView),
        (status = 400, description = "`expires_in` is out of bounds", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "It was deleted, its time was over", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<ArtifactId>,
    base: BaseUrl,
    Parameters(wanted): Parameters<LinkQuery>,
) -> Result<Json<ArtifactView>> {
    let lifetime = match wanted.expires_in.map(Duration::from_secs) {
        None => app.link_lifetime,
        Some(lifetime) if LINKS.contains(&lifetime) => lifetime,
        Some(_) => {
            let detail = "`expires_in` takes 60 to 86400 seconds.";
            return Err(Problem::new(Code::InvalidQuery, detail));
        }
    };
    let (artifact, name) = find(&app, tenant, id).await?;
    let view = ArtifactView::linked_for(&app, &base, &artifact, name.as_deref(), lifetime);
    Ok(Json(view.await))
}
