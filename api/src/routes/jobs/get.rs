//! `GET /v1/jobs/{id}`: what became of a job.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::id::JobId;

use super::{JobView, load_view};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{Problem, ProblemBody, Result};
use crate::extract::Id;

/// What became of a job
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "get_job",
    tag = "jobs",
    security(("key" = [])),
    params(("id" = String, Path, description = "`job_…`")),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<JobId>,
    base: BaseUrl,
) -> Result<Json<JobView>> {
    load_view(&app, &base, tenant, id)
        .await?
        .map(Json)
        .ok_or_else(|| Problem::no_such("job", id))
}
