//! `GET /v1/jobs/{id}`: one job.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::id::JobId;

use super::{JobView, load_view};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::{Problem, Result};
use crate::extract::Id;

/// Get a job
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "get_job",
    tag = "jobs",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id of the job, `job_…`")),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = 404, description = "There is no job with this id"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(id): Id<JobId>,
    base: BaseUrl,
) -> Result<Json<JobView>> {
    load_view(&app, &base, tenant, id)
        .await?
        .map(Json)
        .ok_or_else(|| Problem::no_such("job", id))
}
