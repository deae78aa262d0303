//! `GET /v1/jobs`: a tenant's jobs, newest first.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as AppState;
use domain::id::JobId;
use domain::job::State;
use futures::future::join_all;
use serde::Deserialize;
use storage::database;
use storage::jobs::Filter;

use super::{JobView, uncancelable};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::extract::{Parameters, refuse_nul};
use crate::paging::{Limit, Page};
use crate::routes::artifacts::ArtifactView;

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobsQuery {
    /// The most jobs to return.
    #[serde(default)]
    #[param(schema_with = Limit::schema)]
    limit: Limit,
    /// The id of the last job you have. Older jobs follow.
    #[param(schema_with = JobId::schema)]
    starting_after: Option<JobId>,
    /// Only jobs in this state.
    #[param(inline)]
    state: Option<State>,
    /// Only jobs of this model.
    #[param(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    /// Only jobs whose name contains this text, in upper or lower case.
    #[param(pattern = "^[^\\u0000]*$")]
    q: Option<String>,
}

/// List your jobs, newest first
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    security(("key" = [])),
    params(ListJobsQuery),
    responses(
        (status = 200, description = "A page of jobs", body = Page<JobView>),
        (status = 400, description = "A parameter is not usable"),
    )
)]
pub async fn handler(
    AppState(app): AppState<Arc<App>>,
    Principal { tenant, .. }: Principal,
    base: BaseUrl,
    Parameters(query): Parameters<ListJobsQuery>,
) -> Result<Json<Page<JobView>>> {
    let limit = query.limit.get();
    refuse_nul("model", query.model.as_deref())?;
    refuse_nul("q", query.q.as_deref())?;
    let filter = Filter {
        state: query.state,
        model: query.model,
        name: query.q,
        after: query.starting_after,
    };
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let jobs = storage::jobs::list(&mut transaction, tenant, &filter, limit + 1).await?;
    let page = Page::new(jobs, limit);
    let jobs = &page.data;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let artifacts = storage::artifacts::of_jobs(&mut transaction, &ids).await?;
    let uncancelable = uncancelable(&mut transaction, &app, tenant, jobs).await?;
    transaction.commit().await?;
    drop(connection);
    let names: HashMap<JobId, Option<&str>> = jobs
        .iter()
        .map(|job| (job.id, job.attributes.name.as_deref()))
        .collect();
    let views = artifacts.iter().map(|artifact| {
        let name = names.get(&artifact.job).copied().flatten();
        ArtifactView::new(&app, &base, artifact, name)
    });
    let mut views_by_job: HashMap<JobId, Vec<ArtifactView>> = HashMap::new();
    // All at once, because some stores sign each link over the network.
    for view in join_all(views).await {
        views_by_job.entry(view.job).or_default().push(view);
    }
    Ok(Json(page.map(|job| {
        let artifacts = views_by_job.remove(&job.id).unwrap_or_default();
        let mut view = JobView::new(&job, artifacts);
        view.hide_cancel_link(&uncancelable);
        view
    })))
}
