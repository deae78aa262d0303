//! Jobs, as clients see them.

pub mod cancel;
pub mod create;
pub mod get;
pub mod list;
mod waiting;

use std::collections::HashSet;

use axum::http::StatusCode;
use domain::generation::Kind;
use domain::id::{JobId, TenantId};
use domain::idempotency::Answer;
use domain::job::{Cost, Job, State};
use domain::outcome::Class;
use futures::future::join_all;
use serde::Serialize;
use sqlx::PgConnection;
use storage::database;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::routes::artifacts::ArtifactView;
use waiting::Waiting;

/// A job. Its prompt and inputs are not part of it, because they may be personal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    /// The id of the job.
    #[schema(value_type = String, example = "job_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: JobId,
    /// What the job makes.
    #[schema(inline)]
    pub kind: Kind,
    /// The model that makes it.
    #[schema(example = "gemini-3-pro-image")]
    pub model: String,
    /// The model that was asked for, if it was shut down and its successor is used; else `null`.
    pub switched_from: Option<String>,
    /// Whether fallbacks of the model may be used when its first lane is unavailable or full.
    pub fallback: bool,
    /// Where the job is in its life.
    #[schema(inline)]
    pub state: State,
    /// Your name for the job.
    pub name: Option<String>,
    /// Your own data about the job.
    #[schema(value_type = HashMap<String, String>)]
    pub metadata: serde_json::Value,
    /// How many outputs were asked for.
    pub outputs: i32,
    /// How many outputs were delivered and charged.
    pub delivered: i32,
    /// How many times a worker has claimed the job.
    pub attempts: i32,
    /// Among your own queued jobs, a higher priority starts first.
    pub priority: i16,
    /// How the job ended; `null` while it is open.
    pub outcome: Option<Outcome>,
    /// The job's place among your queued jobs. The next job has place 1. The field is only in `GET /v1/jobs/{id}`, and only while
    /// the job is queued.
    pub queue_position: Option<i64>,
    /// Why the job waits, and until when. Only in `GET /v1/jobs/{id}`, while the job is queued and the reason is known.
    pub waiting: Option<Waiting>,
    /// What the job costs.
    pub cost: Cost,
    /// The files that were made.
    pub artifacts: Vec<ArtifactView>,
    /// When the job was submitted.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When a worker first claimed the job.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When the job ended; `null` while it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// The job does not start before this time.
    #[serde(with = "time::serde::rfc3339")]
    pub run_after: OffsetDateTime,
    /// If the job is still open at this time, it expires and all held credits are released.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// The id of the request that submitted the job.
    pub request_id: String,
    /// What can be done next.
    pub links: Links,
}

/// How a job ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobOutcome)]
pub struct Outcome {
    /// The class of the outcome, for programs.
    #[schema(inline)]
    pub class: Class,
    /// The reason in words, for people.
    pub reason: Option<String>,
}

/// Paths that belong to a job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobLinks)]
pub struct Links {
    /// The path of the job.
    #[serde(rename = "self")]
    pub itself: String,
    /// The path to post to in order to cancel the job. `null` once the job has ended, and while it cannot be canceled because its calls
    /// have begun and this tenant has used up its allowance of abandoned calls.
    pub cancel: Option<String>,
}

impl JobView {
    /// Describes a job, without what only a query can find: its place in the queue, why it waits, and whether it may be canceled
    /// now.
    pub fn new(job: &Job, artifacts: Vec<ArtifactView>) -> Self {
        let itself = location(job.id);
        let ended = job.state.is_terminal();
        Self {
            id: job.id,
            kind: job.kind,
            model: job.attributes.model.clone(),
            switched_from: job.attributes.switched_from.clone(),
            fallback: job.attributes.fallback,
            state: job.state,
            name: job.attributes.name.clone(),
            metadata: job.attributes.metadata.clone(),
            outputs: job.n_requested,
            delivered: job.n_delivered,
            // Each claim raises the fence by one.
            attempts: job.fence,
            priority: job.attributes.priority,
            // The row of an open job holds the outcome of its last attempt, which would look final.
            outcome: job.outcome.filter(|_| ended).map(|class| Outcome {
                class,
                reason: job.reason.clone(),
            }),
            queue_position: None,
            waiting: None,
            cost: job.cost.clone(),
            artifacts,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            run_after: job.run_after,
            deadline: job.deadline,
            request_id: job.request_id.clone(),
            links: Links {
                cancel: (!ended).then(|| format!("{itself}/cancel")),
                itself,
            },
        }
    }

    /// Removes the link to cancel the job if it is one of `uncancelable`.
    fn hide_cancel_link(&mut self, uncancelable: &HashSet<JobId>) {
        if uncancelable.contains(&self.id) {
            self.links.cancel = None;
        }
    }

    /// Makes the answer to a POST from the view, with its `Location` if the job was accepted.
    pub fn answer(&self, status: StatusCode) -> Answer {
        Answer {
            status: status.as_u16(),
            location: (status == StatusCode::ACCEPTED).then(|| self.links.itself.clone()),
            body: serde_json::to_vec(self).expect("a view is JSON"),
        }
    }
}

/// The path of a job.
pub fn location(id: JobId) -> String {
    format!("/v1/jobs/{id}")
}

/// Finds which of these jobs cannot be canceled now: their calls have begun, and to abandon these would exceed the tenant's
/// allowance. Answers to a POST leave this out, because they are stored and repeated later, when it may no longer be true.
async fn uncancelable(
    connection: &mut PgConnection,
    app: &App,
    tenant: TenantId,
    jobs: &[Job],
) -> sqlx::Result<HashSet<JobId>> {
    let open = jobs.iter().filter(|job| !job.state.is_terminal());
    let open: Vec<JobId> = open.map(|job| job.id).collect();
    if open.is_empty() {
        return Ok(HashSet::new());
    }
    let begun_calls = storage::allowances::count_begun_calls(connection, &open).await?;
    if begun_calls.is_empty() {
        return Ok(HashSet::new());
    }
    let usage = storage::allowances::used(connection, tenant).await?;
    let over = begun_calls
        .into_iter()
        .filter(|(_, calls)| !usage.allows(*calls, app.unbilled_limits.cancel_allowance));
    Ok(over.map(|(job, _)| job).collect())
}

/// Loads a job of the tenant as it is now, with fresh links to its files; `None` if there is no such job.
///
/// # Errors
/// Returns [`Code::Overloaded`](crate::error::Code::Overloaded) if no connection became free in time, or the problem of a query
/// that failed.
pub async fn load_view(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    id: JobId,
) -> Result<Option<JobView>> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let Some(job) = storage::jobs::get(&mut transaction, id).await? else {
        return Ok(None);
    };
    let artifacts = storage::artifacts::of_jobs(&mut transaction, &[id]).await?;
    let jobs = std::slice::from_ref(&job);
    let uncancelable = uncancelable(&mut transaction, app, tenant, jobs).await?;
    let place_and_reason = match job.state {
        State::Queued => {
            let ahead = storage::jobs::count_ahead(&mut transaction, &job).await?;
            Some((
                ahead,
                Waiting::reason_from_postgres(&mut transaction, &job).await?,
            ))
        }
        _ => None,
    };
    transaction.commit().await?;
    // Signing links and asking Redis may take some time, and need no connection to Postgres.
    drop(connection);
    let artifacts = artifacts
        .iter()
        .map(|artifact| ArtifactView::new(app, base, artifact, job.attributes.name.as_deref()));
    let mut view = JobView::new(&job, join_all(artifacts).await);
    view.hide_cancel_link(&uncancelable);
    if let Some((ahead, waiting)) = place_and_reason {
        view.queue_position = Some(ahead + 1);
        view.waiting = match waiting {
            None => Waiting::reason_from_redis(app, &job, ahead).await,
            waiting => waiting,
        };
    }
    Ok(Some(view))
}
