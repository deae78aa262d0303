//! Why a queued job waits, and until when.
//!
//! Postgres says what is planned and paused, Redis what the places are like where the job's model is called. Without Redis that
//! part stays unsaid: it is told as far as it is known, and is never an error.

use common::clock;
use common::job::Job;
use common::operator;
use common::queue::lanes::{LaneState, PauseReason};
use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;

/// Why a queued job waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct Waiting {
    #[schema(inline)]
    pub reason: Reason,
    /// The same in plain words.
    pub detail: String,
    /// Since when, where that is known.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<OffsetDateTime>,
    /// When it is tried next, where that is known. A guess, not a promise.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<OffsetDateTime>,
}

/// What it waits for. More can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is planned for later, by `run_at`.
    Planned,
    /// Whoever runs this service has paused it.
    Paused,
    /// The model's provider cannot be used just now, nor can its fallbacks where the job allows them.
    LaneUnavailable,
    /// As many calls as the model's provider takes are under way.
    LaneFull,
    /// An attempt did not succeed; the next one is due later.
    Retry,
    /// It is its turn soon: other jobs come first, or no worker is free.
    Turn,
}

impl Waiting {
    /// Why this job waits, as far as Postgres knows; `None`: it may be started.
    pub async fn by_postgres(
        connection: &mut PgConnection,
        job: &Job,
    ) -> sqlx::Result<Option<Self>> {
        if job.fence == 0 && job.run_after > clock::now() {
            return Ok(Some(Self {
                reason: Reason::Planned,
                detail: "The job is planned for later.".to_owned(),
                since: Some(job.created_at),
                retry_at: Some(job.run_after),
            }));
        }
        let paused = operator::store::paused_since(connection, job.tenant, &job.model).await?;
        Ok(paused.map(|since| Self {
            reason: Reason::Paused,
            detail: "Jobs like this one are paused by whoever runs this service.".to_owned(),
            since: Some(since.max(job.created_at)),
            retry_at: None,
        }))
    }

    /// Why it waits where nothing else holds it back; `None`: Redis does not say.
    pub async fn by_redis(app: &App, job: &Job, ahead: i64) -> Option<Self> {
        let model = app.catalog.get(&job.model)?;
        let lanes: Vec<_> = model.lanes(job.fallback).iter().collect();
        let states = app.lanes.states_of(&lanes).await.ok()?.into_iter();
        let states: Vec<_> = states.map(|state| state.seen_by(job.tenant)).collect();
        let now = clock::now();
        Some(
            unavailable(&states, now)
                .or_else(|| retry(job, now))
                .or_else(|| full(&states, now))
                .unwrap_or_else(|| turn(job, ahead)),
        )
    }
}

/// Every place it may be made at is closed, or pauses.
fn unavailable(states: &[LaneState], now: OffsetDateTime) -> Option<Waiting> {
    let closed = states
        .iter()
        .filter(|state| state.unavailable_because().is_some());
    let closed: Vec<&LaneState> = closed.collect();
    if closed.is_empty() || closed.len() < states.len() {
        return None;
    }
    let waits = closed.iter().map(|state| {
        state
            .pause
            .map_or_else(Default::default, |pause| pause.wait)
    });
    let retry_at = waits.min().map(|wait| now + wait);
    // There was a place until the last of them closed.
    let since = closed.iter().filter_map(|state| state.since).max();
    let until = retry_at.map_or_else(String::new, |at| {
        format!(" It is tried again at {}.", time_of(at))
    });
    let from = since.map_or_else(String::new, |at| format!(" since {}", time_of(at)));
    Some(Waiting {
        reason: Reason::LaneUnavailable,
        detail: format!("The model's provider cannot be used{from}.{until}"),
        since,
        retry_at,
    })
}

/// Its last attempt did not succeed.
fn retry(job: &Job, now: OffsetDateTime) -> Option<Waiting> {
    (job.run_after > now).then(|| Waiting {
        reason: Reason::Retry,
        detail: format!(
            "An attempt did not succeed. The next one is due at {}.",
            time_of(job.run_after)
        ),
        since: None,
        retry_at: Some(job.run_after),
    })
}

/// Every place it may be made at has as many calls as it bears, or too many retries.
fn full(states: &[LaneState], now: OffsetDateTime) -> Option<Waiting> {
    let waits: Option<Vec<_>> = states
        .iter()
        .map(|state| {
            let pause = state
                .pause
                .filter(|pause| matches!(pause.reason, PauseReason::Full | PauseReason::Retries))?;
            Some(pause.wait)
        })
        .collect();
    let wait = waits?.into_iter().min()?;
    Some(Waiting {
        reason: Reason::LaneFull,
        detail: "As many calls as the model's provider takes are under way.".to_owned(),
        since: None,
        retry_at: Some(now + wait),
    })
}

fn turn(job: &Job, ahead: i64) -> Waiting {
    let detail = match ahead {
        0 => "It is the next of your jobs, and waits for a free worker.".to_owned(),
        1 => "One of your jobs comes first.".to_owned(),
        jobs => format!("{jobs} of your jobs come first."),
    };
    Waiting {
        reason: Reason::Turn,
        detail,
        since: Some(job.run_after.max(job.created_at)),
        retry_at: None,
    }
}

/// A time in words, to the second.
fn time_of(at: OffsetDateTime) -> String {
    let at = at
        .to_offset(time::UtcOffset::UTC)
        .replace_nanosecond(0)
        .unwrap_or(at);
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}
