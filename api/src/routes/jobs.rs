//! Jobs, as clients see them.

pub mod cancel;
pub mod create;
pub mod get;
pub mod list;
mod waiting;

use std::collections::HashSet;

use axum::http::StatusCode;
use common::generation::Kind;
use common::id::{JobId, TenantId};
use common::idempotency::Answer;
use common::job::{self, Cost, Job, State};
use common::outcome::Class;
use common::{allowance, artifact, database};
use futures::future::join_all;
use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::routes::artifacts::ArtifactView;
use waiting::Waiting;

/// A job. What was asked for in words and pictures is not repeated: it is personal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    #[schema(value_type = String, example = "job_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: JobId,
    #[schema(inline)]
    pub kind: Kind,
    #[schema(example = "gemini-3-pro-image")]
    pub model: String,
    /// The model asked for, where that was shut down and its successor was taken.
    pub switched_from: Option<String>,
    /// Whether it may be made elsewhere when the model's own place is closed or full.
    pub fallback: bool,
    #[schema(inline)]
    pub state: State,
    pub name: Option<String>,
    #[schema(value_type = HashMap<String, String>)]
    pub metadata: serde_json::Value,
    /// Pictures asked for.
    pub outputs: i32,
    /// Pictures delivered and charged.
    pub delivered: i32,
    /// How often a worker has taken the job.
    pub attempts: i32,
    pub priority: i16,
    /// How it ended; `null` while it is open.
    pub outcome: Option<Outcome>,
    /// 1 when it is the next of your queued jobs. Only told by `GET /v1/jobs/{id}`, while the job is queued.
    pub queue_position: Option<i64>,
    /// Why it waits, and until when. Only told by `GET /v1/jobs/{id}`, while the job is queued and that is known.
    pub waiting: Option<Waiting>,
    pub cost: Cost,
    pub artifacts: Vec<ArtifactView>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// It is not worked on before.
    #[serde(with = "time::serde::rfc3339")]
    pub run_after: OffsetDateTime,
    /// When it expires, with everything held given back.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// The request that submitted it.
    pub request_id: String,
    pub links: Links,
}

/// How a job ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobOutcome)]
pub struct Outcome {
    #[schema(inline)]
    pub class: Class,
    /// The same in plain words.
    pub reason: Option<String>,
}

/// Where to go from a job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobLinks)]
pub struct Links {
    #[serde(rename = "self")]
    pub itself: String,
    /// `null` once the job has ended, and while it cannot be canceled: its calls have begun, and this tenant has abandoned as many as it
    /// may in an hour.
    pub cancel: Option<String>,
}

impl JobView {
    pub fn new(job: &Job, artifacts: Vec<ArtifactView>) -> Self {
        let itself = location(job.id);
        let ended = job.state.is_terminal();
        Self {
            id: job.id,
            kind: job.kind,
            model: job.model.clone(),
            switched_from: job.switched_from.clone(),
            fallback: job.fallback,
            state: job.state,
            name: job.name.clone(),
            metadata: job.metadata.clone(),
            outputs: job.n_requested,
            delivered: job.n_delivered,
            attempts: job.fence,
            priority: job.priority,
            // An open job's row tells of its last attempt, in words that would sound final.
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

    /// Leaves the link to cancel it out, where it is one of those that cannot be.
    fn fix(&mut self, fixed: &HashSet<JobId>) {
        if fixed.contains(&self.id) {
            self.links.cancel = None;
        }
    }

    /// The view as an answer to a POST.
    pub fn answer(&self, status: StatusCode) -> Answer {
        Answer {
            status: status.as_u16(),
            location: (status == StatusCode::ACCEPTED).then(|| self.links.itself.clone()),
            body: serde_json::to_vec(self).expect("a view is JSON"),
        }
    }
}

/// Where a job is.
pub fn location(id: JobId) -> String {
    format!("/v1/jobs/{id}")
}

/// Those of these jobs that cannot be canceled at present. What a POST is answered is kept and does not tell it.
async fn fixed(
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
    let begun = allowance::store::begun(connection, &open).await?;
    if begun.is_empty() {
        return Ok(HashSet::new());
    }
    let used = allowance::store::used(connection, tenant).await?;
    let fixed = begun.into_iter();
    let fixed = fixed.filter(|(_, calls)| !used.allows(*calls, app.unpaid.cancel_allowance));
    Ok(fixed.map(|(job, _)| job).collect())
}

/// A job as it is now, with links that are fresh.
pub async fn load_view(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    id: JobId,
) -> Result<Option<JobView>> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let Some(job) = job::store::get(&mut transaction, id).await? else {
        return Ok(None);
    };
    let kept = artifact::store::of_jobs(&mut transaction, &[id]).await?;
    let fixed = fixed(&mut transaction, app, tenant, std::slice::from_ref(&job)).await?;
    let queued = match job.state {
        State::Queued => {
            let ahead = job::store::count_ahead(&mut transaction, &job).await?;
            Some((ahead, Waiting::by_postgres(&mut transaction, &job).await?))
        }
        _ => None,
    };
    transaction.commit().await?;
    drop(connection);
    let artifacts = kept
        .iter()
        .map(|artifact| ArtifactView::new(app, base, artifact, job.name.as_deref()));
    let mut view = JobView::new(&job, join_all(artifacts).await);
    view.fix(&fixed);
    if let Some((ahead, waiting)) = queued {
        view.queue_position = Some(ahead + 1);
        view.waiting = match waiting {
            None => Waiting::by_redis(app, &job, ahead).await,
            waiting => waiting,
        };
    }
    Ok(Some(view))
}
