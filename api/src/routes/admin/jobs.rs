//! `/v1/admin/jobs`: all tenants' jobs, the whole timeline of one, and what is done to many.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as AppState;
use axum::response::{IntoResponse, Response};
use common::generation::Violation;
use common::id::{JobId, TenantId};
use common::idempotency::Answer;
use common::job::store::Search;
use common::job::{self, Job, State};
use common::operator::once::{self, OperatorRequest};
use common::operator::{self, ActionResult, TimelineEntry};
use common::outcome::Class;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, Schema};

use super::{act, replied};
use crate::app::App;
use crate::auth::Operator;
use crate::error::{Problem, ProblemBody, Result};
use crate::extract::{self, Id, JsonBody, Parameters, limit, page, searchable};
use crate::idempotency::Key;
use crate::routes::jobs::JobView;

/// Most jobs one request does something to.
const MAX_JOBS: i64 = 1_000;

/// Which jobs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAllJobsQuery {
    /// At most so many.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The id of the last job you have: older ones follow.
    #[param(schema_with = JobId::schema)]
    starting_after: Option<JobId>,
    #[param(schema_with = TenantId::schema)]
    tenant: Option<TenantId>,
    #[param(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    #[param(inline)]
    state: Option<State>,
    #[param(inline)]
    outcome: Option<Class>,
    /// Submitted from then on.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<OffsetDateTime>,
    /// Submitted before then.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    before: Option<OffsetDateTime>,
}

/// A job, and whose it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct OwnedJob {
    #[schema(value_type = String)]
    pub tenant: TenantId,
    pub job: JobView,
    /// The job that failed, which this one does once more.
    #[schema(value_type = Option<String>)]
    pub redrive_of: Option<JobId>,
}

impl OwnedJob {
    /// Its files are not shown: they are the tenant's.
    fn new(job: &Job) -> Self {
        Self {
            tenant: job.tenant,
            job: JobView::new(job, Vec::new()),
            redrive_of: job.redrive_of,
        }
    }
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub struct OwnedJobs {
    pub data: Vec<OwnedJob>,
    /// Whether older ones follow.
    pub has_more: bool,
}

/// All tenants' jobs, newest first
#[utoipa::path(
    get,
    path = "/v1/admin/jobs",
    operation_id = "list_all_jobs",
    tag = "operators",
    security(("operator" = [])),
    params(ListAllJobsQuery),
    responses((status = 200, description = "A page of jobs", body = OwnedJobs))
)]
pub async fn list(
    AppState(app): AppState<Arc<App>>,
    _: Operator,
    Parameters(which): Parameters<ListAllJobsQuery>,
) -> Result<Json<OwnedJobs>> {
    let limit = limit(which.limit)?;
    searchable("model", which.model.as_deref())?;
    let search = Search {
        ids: None,
        tenant: which.tenant,
        model: which.model,
        states: which.state.into_iter().collect(),
        outcome: which.outcome,
        since: which.since,
        before: which.before,
        after: which.starting_after,
    };
    let jobs = job::store::search(&app.reader, &search, limit + 1).await?;
    let (jobs, has_more) = page(jobs, limit);
    let data = jobs.iter().map(OwnedJob::new).collect();
    Ok(Json(OwnedJobs { data, has_more }))
}

/// A job and everything that happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Timeline {
    #[serde(flatten)]
    pub job: OwnedJob,
    /// In order.
    pub story: Vec<TimelineEntry>,
}

/// The whole timeline of a job: attempts, calls, transfers, files, operators
#[utoipa::path(
    get,
    path = "/v1/admin/jobs/{id}",
    operation_id = "get_timeline",
    tag = "operators",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`job_…`")),
    responses(
        (status = 200, description = "The timeline", body = Timeline),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
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
    let job = job::store::search(&app.reader, &search, 1).await?.pop();
    let job = job.ok_or_else(|| Problem::no_such("job", id))?;
    let story = operator::store::timeline(&app.reader, id).await?;
    Ok(Json(Timeline {
        job: OwnedJob::new(&job),
        story,
    }))
}

/// Many jobs: those that fit everything that is said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// These.
    #[schema(schema_with = ids)]
    ids: Option<Vec<JobId>>,
    #[schema(schema_with = TenantId::schema)]
    tenant: Option<TenantId>,
    #[schema(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    #[schema(inline)]
    state: Option<State>,
    #[schema(inline)]
    outcome: Option<Class>,
    /// Submitted from then on.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<OffsetDateTime>,
    /// Submitted before then.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    before: Option<OffsetDateTime>,
    /// At most so many, the newest; ask again for the rest.
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// Only say which.
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    #[schema(required, schema_with = super::reason)]
    reason: String,
}

fn ids() -> Schema {
    let id = RefOr::T(JobId::schema());
    ArrayBuilder::new().items(id).into()
}

/// What became of each.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkResponse {
    pub data: Vec<ActionResult>,
    /// Whether more fit.
    pub has_more: bool,
}

impl BulkRequest {
    /// The jobs, in one of `states` where none is said.
    async fn find(&self, app: &App, states: &[State]) -> Result<(Vec<Job>, bool)> {
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
                .map_or_else(|| states.to_vec(), |state| vec![state]),
            outcome: self.outcome,
            since: self.since,
            before: self.before,
            after: None,
        };
        let jobs = job::store::search(&app.reader, &search, limit + 1).await?;
        Ok(page(jobs, limit))
    }
}

/// What is done to many jobs.
#[derive(Clone, Copy)]
enum BulkAction {
    Redrive,
    Cancel,
}

impl BulkAction {
    /// The jobs that are meant where no state is said.
    fn eligible_states(self) -> &'static [State] {
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

    /// Does it to each of the jobs a body names, one after the other. Which jobs that is is decided once for a key.
    async fn apply(self, app: &App, key: &Key, body: &[u8]) -> Result<Response> {
        let many: BulkRequest = extract::json(body)?;
        let request = key.request("POST", self.path(), body);
        let order = OperatorRequest {
            act: act(&many.reason)?,
            request: &request,
        };
        if many.dry_run {
            let (jobs, has_more) = many.find(app, self.eligible_states()).await?;
            let only_asked = |job| ActionResult::skipped(job, "it was only asked which".to_owned());
            let data = jobs.iter().map(only_asked).collect();
            return Ok(Json(BulkResponse { data, has_more }).into_response());
        }
        let (jobs, has_more) = match once::begin_many(&app.pool, &request).await? {
            once::BulkStart::Answered(answer) => return Ok(key.replay(answer)),
            once::BulkStart::Chosen { jobs, has_more } => (named(app, jobs).await?, has_more),
            once::BulkStart::New(choosing) => {
                let (jobs, has_more) = many.find(app, self.eligible_states()).await?;
                let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
                once::choose(choosing, &request, &ids, has_more).await?;
                (jobs, has_more)
            }
        };
        let mut data = Vec::with_capacity(jobs.len());
        for job in &jobs {
            data.push(match self {
                Self::Redrive => {
                    operator::redrive(&app.pool, &app.bucket, &app.catalog, order, job).await?
                }
                Self::Cancel => operator::cancel(&app.pool, order, job).await?,
            });
        }
        let answer = Answer::json(200, &BulkResponse { data, has_more });
        let answer = once::keep_many(&app.pool, &request, answer).await?;
        Ok(replied(key, answer))
    }
}

/// The jobs a request chose before it broke off.
async fn named(app: &App, ids: Vec<JobId>) -> Result<Vec<Job>> {
    let search = Search {
        ids: Some(ids),
        ..Search::default()
    };
    Ok(job::store::search(&app.reader, &search, MAX_JOBS).await?)
}

/// Do failed jobs once more
///
/// Each becomes a new job, at today's price and charged only if it delivers; one that was done once more before stays as it is. Without
/// `state` failed jobs are meant; expired ones may be.
#[utoipa::path(
    post,
    path = "/v1/admin/jobs/redrive",
    operation_id = "redrive_jobs",
    tag = "operators",
    security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again")),
    request_body = BulkRequest,
    responses(
        (status = 200, description = "What became of each", body = BulkResponse),
        (status = 422, description = "The request cannot be carried out as it is, or the idempotency key belongs to another", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn redrive(
    AppState(app): AppState<Arc<App>>,
    _: Operator,
    key: Key,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    BulkAction::Redrive.apply(&app, &key, &body).await
}

/// End open jobs
///
/// Everything they hold goes back. Without `state` queued and running ones are meant.
#[utoipa::path(
    post,
    path = "/v1/admin/jobs/cancel",
    operation_id = "cancel_jobs",
    tag = "operators",
    security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again")),
    request_body = BulkRequest,
    responses(
        (status = 200, description = "What became of each", body = BulkResponse),
        (status = 422, description = "The request cannot be carried out as it is, or the idempotency key belongs to another", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn cancel(
    AppState(app): AppState<Arc<App>>,
    _: Operator,
    key: Key,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    BulkAction::Cancel.apply(&app, &key, &body).await
}
