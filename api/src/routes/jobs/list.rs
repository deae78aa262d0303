//! `GET /v1/jobs`: a tenant's jobs, newest first.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as AppState;
use common::id::JobId;
use common::job::store::Filter;
use common::job::{self, State};
use common::{artifact, database};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JobView, fixed};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{ProblemBody, Result};
use crate::extract::{Parameters, limit, page, searchable};
use crate::routes::artifacts::ArtifactView;

/// Which jobs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobsQuery {
    /// At most so many.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The id of the last job you have: jobs older than this one follow.
    #[param(schema_with = JobId::schema)]
    starting_after: Option<JobId>,
    #[param(inline)]
    state: Option<State>,
    #[param(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    /// Only jobs whose name contains this, in any case.
    #[param(pattern = "^[^\\u0000]*$")]
    q: Option<String>,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Jobs {
    pub data: Vec<JobView>,
    /// Whether older jobs follow.
    pub has_more: bool,
}

/// Your jobs, newest first
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    security(("key" = [])),
    params(ListJobsQuery),
    responses(
        (status = 200, description = "A page of jobs", body = Jobs),
        (status = 400, description = "A parameter is not usable", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    AppState(app): AppState<Arc<App>>,
    Tenant(tenant): Tenant,
    base: BaseUrl,
    Parameters(which): Parameters<ListJobsQuery>,
) -> Result<Json<Jobs>> {
    let limit = limit(which.limit)?;
    searchable("model", which.model.as_deref())?;
    searchable("q", which.q.as_deref())?;
    let filter = Filter {
        state: which.state,
        model: which.model,
        name: which.q,
        after: which.starting_after,
    };
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let jobs = job::store::list(&mut transaction, tenant, &filter, limit + 1).await?;
    let (jobs, has_more) = page(jobs, limit);
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let mut artifacts: HashMap<JobId, Vec<ArtifactView>> = HashMap::new();
    let kept = artifact::store::of_jobs(&mut transaction, &ids).await?;
    let fixed = fixed(&mut transaction, &app, tenant, &jobs).await?;
    transaction.commit().await?;
    drop(connection);
    // Side by side: some stores sign each link over the network.
    let names: HashMap<JobId, Option<&str>> = jobs
        .iter()
        .map(|job| (job.id, job.name.as_deref()))
        .collect();
    let views = kept.iter().map(|artifact| {
        let name = names.get(&artifact.job).copied().flatten();
        ArtifactView::new(&app, &base, artifact, name)
    });
    for view in join_all(views).await {
        artifacts.entry(view.job).or_default().push(view);
    }
    let data = jobs
        .iter()
        .map(|job| {
            let mut view = JobView::new(job, artifacts.remove(&job.id).unwrap_or_default());
            view.fix(&fixed);
            view
        })
        .collect();
    Ok(Json(Jobs { data, has_more }))
}
