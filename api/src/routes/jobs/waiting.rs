//! Explains why a queued job waits, and until when.
//!
//! Postgres knows what is planned or paused. Redis knows the state of the model's lanes. If Redis does not answer, a reason that
//! only Redis knows is left out, because an unknown reason is not an error.

use domain::clock;
use domain::job::Job;
use domain::lanes::{LaneState, PauseReason};
use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;

/// Why a queued job waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct Waiting {
    /// The reason, for programs. New reasons may be added.
    #[schema(inline)]
    pub reason: Reason,
    /// The reason in words, for people.
    pub detail: String,
    /// Since when the job waits for this reason; `null` if it is not known.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<OffsetDateTime>,
    /// When the job is expected to be tried next; `null` if it is not known. This is an estimate and not a promise.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<OffsetDateTime>,
}

/// What a job waits for.
///
/// - `planned`: its time (`run_at`) has not come.
/// - `paused`: the operators have paused jobs like this one.
/// - `lane_unavailable`: the model's provider cannot be used, nor can the fallbacks that the job allows.
/// - `lane_full`: the provider has as many calls under way as it accepts.
/// - `retry`: an attempt did not succeed, and the next one is due later.
/// - `turn`: other jobs are first, or no worker is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The job is planned for later (`run_at`).
    Planned,
    /// The operators have paused jobs like this one.
    Paused,
    /// The model's provider cannot be used now, nor can the fallbacks that the job allows.
    LaneUnavailable,
    /// The model's provider has as many calls under way as it accepts.
    LaneFull,
    /// An attempt did not succeed, and the next one is due later.
    Retry,
    /// Other jobs are first, or no worker is free.
    Turn,
}

impl Waiting {
    /// Finds why this job waits, as far as Postgres knows: whether it is planned for later, or paused. Returns `None` if neither
    /// holds it back.
    pub async fn reason_from_postgres(
        connection: &mut PgConnection,
        job: &Job,
    ) -> sqlx::Result<Option<Self>> {
        // Before the first attempt, `run_after` is the time that the client chose. Later it is the time of the next attempt.
        if job.fence == 0 && job.run_after > clock::now() {
            return Ok(Some(Self {
                reason: Reason::Planned,
                detail: "The job is planned for a later time.".to_owned(),
                since: Some(job.created_at),
                retry_at: Some(job.run_after),
            }));
        }
        let paused =
            storage::operators::paused_since(connection, job.tenant, &job.attributes.model).await?;
        Ok(paused.map(|since| Self {
            reason: Reason::Paused,
            detail: "The operators of this service have paused jobs like this one.".to_owned(),
            since: Some(since.max(job.created_at)),
            retry_at: None,
        }))
    }

    /// Finds why this job waits if [`Self::reason_from_postgres`] found nothing. Returns `None` if Redis does not answer, or if the
    /// catalogue does not have the model. `ahead` is the number of the tenant's jobs that run before this one.
    pub async fn reason_from_redis(app: &App, job: &Job, ahead: i64) -> Option<Self> {
        let model = app.catalog.get(&job.attributes.model)?;
        let lanes = model.lanes(job.attributes.fallback);
        let states = app.lanes.states_of(lanes).await.ok()?.into_iter();
        let states: Vec<_> = states.map(|state| state.for_tenant(job.tenant)).collect();
        let now = clock::now();
        Some(
            waits_for_lane(&states, now)
                .or_else(|| waits_for_retry(job, now))
                .or_else(|| waits_for_capacity(&states, now))
                .unwrap_or_else(|| waits_for_turn(job, ahead)),
        )
    }
}

/// The reason if every lane that the job may use is unavailable.
fn waits_for_lane(states: &[LaneState], now: OffsetDateTime) -> Option<Waiting> {
    let unavailable = states
        .iter()
        .filter(|state| state.unavailable_because().is_some());
    let unavailable: Vec<&LaneState> = unavailable.collect();
    if unavailable.is_empty() || unavailable.len() < states.len() {
        return None;
    }
    // A lane without a pause is half-open: its next call may be made now.
    let waits = unavailable.iter().map(|state| {
        state
            .pause
            .map_or_else(Default::default, |pause| pause.wait)
    });
    let retry_at = waits.min().map(|wait| now + wait);
    // The job waits since the last of its lanes became unavailable.
    let since = unavailable.iter().filter_map(|state| state.since).max();
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

/// The reason if the job waits for its next attempt, which is not due yet. The caller knows that it is not the first attempt.
fn waits_for_retry(job: &Job, now: OffsetDateTime) -> Option<Waiting> {
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

/// The reason if every lane that the job may use accepts no call at the moment, because it has as many calls under way as it
/// accepts or because too many of its calls are retries.
fn waits_for_capacity(states: &[LaneState], now: OffsetDateTime) -> Option<Waiting> {
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
        detail: "The model's provider has as many calls under way as it accepts.".to_owned(),
        since: None,
        retry_at: Some(now + wait),
    })
}

/// The reason if nothing else holds the job back: it waits for its turn.
fn waits_for_turn(job: &Job, ahead: i64) -> Waiting {
    let detail = match ahead {
        0 => "It is the next of your jobs and waits for a free worker.".to_owned(),
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

/// A time as RFC 3339 in UTC, to the second.
fn time_of(at: OffsetDateTime) -> String {
    let at = at
        .to_offset(time::UtcOffset::UTC)
        .replace_nanosecond(0)
        .unwrap_or(at);
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}
