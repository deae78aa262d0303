//! `/v1/admin/jobs`: the jobs of all tenants, the timeline of one job, and actions on many jobs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as AppState;
use axum::response::{IntoResponse, Response};
use common::people::operator::once::{self, OperatorRequest};
use common::people::operator::{self, ActionResult};
use domain::generation::Violation;
use domain::id::{JobId, TenantId};
use domain::idempotency::Answer;
use domain::job::{Job, State};
use domain::operator::TimelineEntry;
use domain::outcome::Class;
use serde::{Deserialize, Serialize};
use storage::jobs::Search;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, Schema};

use super::{actor, operator_response};
use crate::app::App;
use crate::auth::Operator;
use crate::error::{Problem, Result};
use crate::extract::{self, Id, JsonBody, Parameters, refuse_nul};
use crate::idempotency::IdempotencyKey;
use crate::paging::{Limit, Page};
use crate::routes::jobs::JobView;

/// The most jobs that one request acts on.
const MAX_JOBS: i64 = 1_000;

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAllJobsQuery {
    /// The most jobs to return.
    #[serde(default)]
    #[param(schema_with = Limit::schema)]
    limit: Limit,
    /// The id of the last job you have. Older jobs follow.
    #[param(schema_with = JobId::schema)]
    starting_after: Option<JobId>,
    /// Only jobs of this tenant.
    #[param(schema_with = TenantId::schema)]
    tenant: Option<TenantId>,
    /// Only jobs of this model.
    #[param(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    /// Only jobs in this state.
    #[param(inline)]
    state: Option<State>,
    /// Only jobs with an outcome of this class.
    #[param(inline)]
    outcome: Option<Class>,
    /// Only jobs submitted at this time or later.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<OffsetDateTime>,
    /// Only jobs submitted before this time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    before: Option<OffsetDateTime>,
}

/// A job and its tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantJob {
    /// The tenant that owns the job.
    #[schema(value_type = String)]
    pub tenant: TenantId,
    /// The job.
    pub job: JobView,
    /// The failed job that this job repeats; `null` if it repeats none.
    #[schema(value_type = Option<String>)]
    pub redrive_of: Option<JobId>,
}

impl TenantJob {
    /// Describes a job without its files, because operators may not see a tenant's files.
    fn new(job: &Job) -> Self {
        Self {
            tenant: job.tenant,
            job: JobView::new(job, Vec::new()),
            redrive_of: job.redrive_of,
        }
    }
}

/// List the jobs of all tenants, newest first
#[utoipa::path(
    get,
    path = "/v1/admin/jobs",
    operation_id = "list_all_jobs",
    tag = "operators",
    security(("operator" = [])),
    params(ListAllJobsQuery),
    responses((status = 200, description = "A page of jobs", body = Page<TenantJob>))
)]
pub async fn list(
    AppState(app): AppState<Arc<App>>,
    _: Operator,
    Parameters(query): Parameters<ListAllJobsQuery>,
) -> Result<Json<Page<TenantJob>>> {
    let limit = query.limit.get();
    refuse_nul("model", query.model.as_deref())?;
    let search = Search {
        ids: None,
        tenant: query.tenant,
        model: query.model,
        states: query.state.into_iter().collect(),
        outcome: query.outcome,
        since: query.since,
        before: query.before,
        after: query.starting_after,
    };
    let jobs = storage::jobs::search(&app.reader, &search, limit + 1).await?;
    Ok(Json(Page::new(jobs, limit).map(|job| TenantJob::new(&job))))
}

/// A job and everything that happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Timeline {
    /// The job and its tenant.
    #[serde(flatten)]
    pub job: TenantJob,
    /// What happened, oldest first.
    pub story: Vec<TimelineEntry>,
}

/// Get the timeline of a job: attempts, calls, transfers, files and operators' actions
#[utoipa::path(
    get,
    path = "/v1/admin/jobs/{id}",
    operation_id = "get_timeline",
    tag = "operators",
    security(("operator" = [])),
    params(("id" = String, Path, description = "The id of the job, `job_…`")),
    responses(
        (status = 200, description = "The job and its timeline", body = Timeline),
        (status = 404, description = "There is no job with this id"),
    )
)]
pub async fn timeline(
    AppState(app): AppState<Arc<App>>,
    _: Operator,
    Id(id): Id<JobId>,
) -> Result<Json<Timeline>> {
    let search = Search {
        ids: Some(vec![id]),
        ..Search::default()
    };
    let job = storage::jobs::search(&app.reader, &search, 1).await?.pop();
    let job = job.ok_or_else(|| Problem::no_such("job", id))?;
    let story = storage::operators::timeline(&app.reader, id).await?;
    Ok(Json(Timeline {
        job: TenantJob::new(&job),
        story,
    }))
}

/// An action on all jobs that match all of the given fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// Only jobs with these ids.
    #[schema(schema_with = ids_schema)]
    ids: Option<Vec<JobId>>,
    /// Only jobs of this tenant.
    #[schema(schema_with = super::tenant_schema)]
    tenant: Option<TenantId>,
    /// Only jobs of this model.
    #[schema(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    /// Only jobs in this state.
    #[schema(inline)]
    state: Option<State>,
    /// Only jobs with an outcome of this class.
    #[schema(inline)]
    outcome: Option<Class>,
    /// Only jobs submitted at this time or later.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<OffsetDateTime>,
    /// Only jobs submitted before this time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    before: Option<OffsetDateTime>,
    /// The most jobs to act on. If more jobs match, the newest are used. Send another request for the rest.
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// If `true`, only lists the jobs that match and changes nothing.
    #[serde(default)]
    dry_run: bool,
    /// Why you do this.
    #[serde(default)]
    #[schema(required, schema_with = super::reason_schema)]
    reason: String,
}

fn ids_schema() -> Schema {
    let id = RefOr::T(JobId::schema());
    ArrayBuilder::new()
        .items(id)
        .description(Some("Only jobs with these ids."))
        .into()
}

/// The result for each job.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkResponse {
    /// One result for each job.
    pub data: Vec<ActionResult>,
    /// Whether more jobs match than `limit` allows.
    pub has_more: bool,
}

impl BulkRequest {
    /// Finds the jobs that match. If the request names no state, finds only jobs in one of `default_states`.
    async fn find(&self, app: &App, default_states: &[State]) -> Result<Page<Job>> {
        // The same default as in the schema.
        let limit = self.limit.unwrap_or(100);
        if !(1..=MAX_JOBS).contains(&limit) {
            let detail = format!("1 to {MAX_JOBS}, not {limit}.");
            return Err(Problem::invalid(vec![Violation::new("/limit", detail)]));
        }
        if self
            .model
            .as_ref()
            .is_some_and(|model| model.contains('\0'))
        {
            let detail = "Leave out the NUL character.";
            return Err(Problem::invalid(vec![Violation::new("/model", detail)]));
        }
        let search = Search {
            ids: self.ids.clone(),
            tenant: self.tenant,
            model: self.model.clone(),
            states: self
                .state
                .map_or_else(|| default_states.to_vec(), |state| vec![state]),
            outcome: self.outcome,
            since: self.since,
            before: self.before,
            after: None,
        };
        let jobs = storage::jobs::search(&app.reader, &search, limit + 1).await?;
        Ok(Page::new(jobs, limit))
    }
}

/// An action on many jobs.
#[derive(Clone, Copy)]
enum BulkAction {
    Redrive,
    Cancel,
}

impl BulkAction {
    /// The states of the jobs to act on if the request names none.
    fn default_states(self) -> &'static [State] {
        match self {
            Self::Redrive => &[State::Failed],
            Self::Cancel => &[State::Queued, State::Running],
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Redrive => "/v1/admin/jobs/redrive",
            Self::Cancel => "/v1/admin/jobs/cancel",
        }
    }

    /// Parses a body and applies the action to each job that the body selects, one after the other.
    ///
    /// The jobs are chosen once for each idempotency key, and their ids are stored before the first job is changed. If the request
    /// breaks off and is repeated, it goes on with the same jobs.
    async fn apply(self, app: &App, key: &IdempotencyKey, body: &[u8]) -> Result<Response> {
        let bulk: BulkRequest = extract::json(body)?;
        let request = key.request("POST", self.path(), body);
        let operator_request = OperatorRequest {
            actor: actor(&bulk.reason)?,
            request: &request,
        };
        if bulk.dry_run {
            let Page { data, has_more } = bulk.find(app, self.default_states()).await?;
            let skipped = |job| ActionResult::skipped(job, "this was a dry run".to_owned());
            let data = data.iter().map(skipped).collect();
            return Ok(Json(BulkResponse { data, has_more }).into_response());
        }
        let jobs = match once::begin_many(&app.pool, &request).await? {
            once::BulkStart::Answered(answer) => return Ok(key.replay(answer)),
            once::BulkStart::Chosen { jobs, has_more } => Page {
                data: find_by_ids(app, jobs).await?,
                has_more,
            },
            once::BulkStart::New(transaction) => {
                let jobs = bulk.find(app, self.default_states()).await?;
                let ids: Vec<JobId> = jobs.data.iter().map(|job| job.id).collect();
                once::choose(transaction, &request, &ids, jobs.has_more).await?;
                jobs
            }
        };
        let mut data = Vec::with_capacity(jobs.data.len());
        for job in &jobs.data {
            data.push(match self {
                Self::Redrive => {
                    let (pool, bucket, catalog) = (&app.pool, &app.bucket, &app.catalog);
                    operator::redrive(pool, bucket, catalog, operator_request, job).await?
                }
                Self::Cancel => operator::cancel(&app.pool, operator_request, job).await?,
            });
        }
        let has_more = jobs.has_more;
        let answer = Answer::json(200, &BulkResponse { data, has_more });
        let answer = once::keep_many(&app.pool, &request, answer).await?;
        Ok(operator_response(key, answer))
    }
}

/// Loads the jobs that a request chose before it broke off, as they are now.
async fn find_by_ids(app: &App, ids: Vec<JobId>) -> Result<Vec<Job>> {
    let search = Search {
        ids: Some(ids),
        ..Search::default()
    };
    Ok(storage::jobs::search(&app.reader, &search, MAX_JOBS).await?)
}

/// Repeat failed jobs
///
/// Each job is submitted again as a new job, at today's price, and charged only if it delivers. A job that was repeated before is
/// skipped. Without `state`, only failed jobs are repeated. With `state`, expired jobs can be repeated, too.
#[utoipa::path(
    post,
    path = "/v1/admin/jobs/redrive",
    operation_id = "redrive_jobs",
    tag = "operators",
    security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = BulkRequest,
    responses(
        (status = 200, description = "The result for each job", body = BulkResponse),
        (status = 422, description = "The request is not valid, or the idempotency key belongs to another request"),
    )
)]
pub async fn redrive(
    AppState(app): AppState<Arc<App>>,
    _: Operator,
    key: IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    BulkAction::Redrive.apply(&app, &key, &body).await
}

/// Cancel open jobs
///
/// All held credits are released. Without `state`, queued and running jobs are canceled.
#[utoipa::path(
    post,
    path = "/v1/admin/jobs/cancel",
    operation_id = "cancel_jobs",
    tag = "operators",
    security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = BulkRequest,
    responses(
        (status = 200, description = "The result for each job", body = BulkResponse),
        (status = 422, description = "The request is not valid, or the idempotency key belongs to another request"),
    )
)]
pub async fn cancel(
    AppState(app): AppState<Arc<App>>,
    _: Operator,
    key: IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    BulkAction::Cancel.apply(&app, &key, &body).await
}
