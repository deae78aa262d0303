//! `GET /v1/artifacts/{id}`: a file we made, with a fresh link.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::id::ArtifactId;
use common::{artifact, database};

use super::ArtifactView;
use crate::app::App;
use crate::auth::Tenant;
use crate::error::{Problem, ProblemBody, Result};
use crate::extract::{Base, Id};

/// A file, with a fresh link
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}",
    operation_id = "get_artifact",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "`art_…`")),
    responses(
        (status = 200, description = "The artifact", body = ArtifactView),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<ArtifactId>,
    base: Base,
) -> Result<Json<ArtifactView>> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    let artifact = artifact::store::get(&mut transaction, id)
        .await?
        .ok_or_else(|| Problem::no_such("artifact", id))?;
    Ok(Json(ArtifactView::new(&app, &base, &artifact)))
}
