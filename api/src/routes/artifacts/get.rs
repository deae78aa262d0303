//! `GET /v1/artifacts/{id}`: an artifact, with a fresh link.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use domain::id::ArtifactId;
use serde::Deserialize;

use super::{ArtifactView, find};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, Result};
use crate::extract::{Id, Parameters};

/// The parameters of the link.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LinkQuery {
    /// How many seconds the link works. If it is missing, the service decides: 900 seconds unless its operators set another time.
    #[param(minimum = 60, maximum = 86_400, default = 900)]
    expires_in: Option<u64>,
}

/// Get an artifact, with a fresh link to its file
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}",
    operation_id = "get_artifact",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id of the artifact, `art_…`"), LinkQuery),
    responses(
        (status = 200, description = "The artifact", body = ArtifactView),
        (status = 400, description = "`expires_in` is out of bounds"),
        (status = 410, description = "The file was deleted: its retention time was over"),
        (status = 404, description = "There is no artifact with this id"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(id): Id<ArtifactId>,
    base: BaseUrl,
    Parameters(query): Parameters<LinkQuery>,
) -> Result<Json<ArtifactView>> {
    let lifetime = match query.expires_in.map(Duration::from_secs) {
        None => app.link_lifetime,
        Some(lifetime) if bucket::LINK_LIFETIMES.contains(&lifetime) => lifetime,
        Some(_) => {
            let detail = "`expires_in` takes 60 to 86400 seconds.";
            return Err(Problem::new(Code::InvalidQuery, detail));
        }
    };
    let (artifact, name) = find(&app, tenant, id).await?;
    let view = ArtifactView::with_link_lifetime(&app, &base, &artifact, name.as_deref(), lifetime);
    Ok(Json(view.await))
}
