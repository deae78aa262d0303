//! A job: what a tenant pays for. It begins in `common::admission` and ends once, in `common::settlement`.
//!
//! ```text
//! queued ──claim (fence+1)──▶ running ──settle──▶ succeeded | partial | failed
//!   │  ▲                        │  │
//!   │  └── retry, reap, hand-back ┘  │
//!   ├──cancel──▶ canceled ◀──cancel──┤
//!   └──deadline─▶ expired ◀─deadline─┘
//! ```
//!
//! Terminal states have no exits; a trigger in the database refuses whatever this file would forget.
#![warn(clippy::arithmetic_side_effects, clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::credits::Credits;
use crate::generation::Kind;
use crate::id::{JobId, TenantId};
use crate::outcome::Class;
use crate::traceparent::TraceParent;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Everything asked for was delivered and charged.
    Succeeded,
    /// Some of it was delivered and charged, the rest released.
    Partial,
    /// Nothing was delivered; everything was released.
    Failed,
    /// The tenant canceled it; everything was released.
    Canceled,
    /// Its deadline passed; everything was released.
    Expired,
}

impl State {
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Partial,
        Self::Failed,
        Self::Canceled,
        Self::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// A job as its row tells it.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub tenant: TenantId,
    pub kind: Kind,
    pub model: String,
    pub name: Option<String>,
    pub metadata: serde_json::Value,
    /// The HTTP request that submitted it.
    pub request_id: String,
    pub state: State,
    /// Class of the newest outcome; final once the job has ended.
    pub outcome: Option<Class>,
    /// The outcome in plain words.
    pub reason: Option<String>,
    /// Number of the newest attempt.
    pub fence: i32,
    pub crash_count: i32,
    pub calls_started: i32,
    pub max_calls: i32,
    pub priority: i16,
    pub virtual_time: i64,
    pub run_after: OffsetDateTime,
    pub deadline: OffsetDateTime,
    pub cost: Cost,
    pub n_requested: i32,
    pub n_delivered: i32,
    /// Whether it may be made on another lane than its model's own.
    pub fallback: bool,
    /// The model asked for, where its successor was taken instead.
    pub switched_from: Option<String>,
    /// The job that failed, which this one does once more.
    pub redrive_of: Option<JobId>,
    pub created_at: OffsetDateTime,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
}

/// The money of a job, as it stands on its row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Cost {
    /// Credits for one delivered output.
    pub unit_price: Credits,
    /// Which price of the catalogue this is.
    pub price_version: String,
    /// Credits held at admission.
    pub held: Credits,
    /// Credits charged: unit price × delivered.
    pub captured: Credits,
    /// Credits given back at the end.
    pub released: Credits,
    /// Credits given back after the end.
    pub refunded: Credits,
}

/// Before its deadline a job that has something to deliver is worked on though its lanes are closed.
pub const DELIVERY_MARGIN: Duration = Duration::from_secs(10);

/// How many jobs of each model may be started, of all models this process knows: of those that may leave their model's
/// own lane, and of those that may not; and whose jobs may not be started at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    models: Vec<ModelCapacity>,
    exclusions: Vec<Exclusion>,
}

/// The room for one model's jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCapacity {
    pub model: String,
    pub with_fallback: i64,
    pub primary_only: i64,
}

/// Jobs that may not be started though there is room: those that fit all that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// Of this model; `None`: of any.
    pub model: Option<String>,
    /// Of this tenant, by [`TenantId::pseudonym`]; `None`: of any.
    pub tenant: Option<String>,
    /// Of all that fit; else only of those that may not leave their model's own lane.
    pub everywhere: bool,
}

/// The same in columns, for the database.
#[derive(Default)]
pub struct CapacityColumns {
    pub models: Vec<String>,
    pub with_fallback: Vec<i64>,
    pub primary_only: Vec<i64>,
    pub excluded_models: Vec<Option<String>>,
    pub excluded_tenants: Vec<Option<String>>,
    pub excluded_everywhere: Vec<bool>,
}

impl Capacity {
    pub fn new(rooms: impl IntoIterator<Item = ModelCapacity>) -> Self {
        Self {
            models: rooms.into_iter().collect(),
            exclusions: Vec::new(),
        }
    }

    /// The same without these jobs.
    #[must_use]
    pub fn without(mut self, shut: impl IntoIterator<Item = Exclusion>) -> Self {
        self.exclusions.extend(shut);
        self
    }

    /// Whether a job may be started.
    pub fn admits(&self, job: &Job) -> bool {
        let room = self.models.iter().find(|room| room.model == job.model);
        let has_room = room.is_some_and(|room| {
            0 < if job.fallback {
                room.with_fallback
            } else {
                room.primary_only
            }
        });
        // Hashed only where somebody is shut out.
        has_room
            && (self.exclusions.is_empty() || {
                let pseudonym = job.tenant.pseudonym();
                !self.exclusions.iter().any(|shut| {
                    shut.model.as_ref().is_none_or(|model| *model == job.model)
                        && shut
                            .tenant
                            .as_ref()
                            .is_none_or(|tenant| *tenant == pseudonym)
                        && (shut.everywhere || !job.fallback)
                })
            })
    }

    /// Whether some jobs may not be started though there is room.
    pub fn has_exclusions(&self) -> bool {
        !self.exclusions.is_empty()
    }

    pub fn columns(&self) -> CapacityColumns {
        let mut rooms = CapacityColumns::default();
        for room in &self.models {
            rooms.models.push(room.model.clone());
            rooms.with_fallback.push(room.with_fallback);
            rooms.primary_only.push(room.primary_only);
        }
        for shut in &self.exclusions {
            rooms.excluded_models.push(shut.model.clone());
            rooms.excluded_tenants.push(shut.tenant.clone());
            rooms.excluded_everywhere.push(shut.everywhere);
        }
        rooms
    }
}

/// A job claimed by a worker: the right to work on it until the lease runs out. Every write names the fence.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: JobId,
    pub tenant: TenantId,
    pub fence: i32,
    pub model: String,
    pub request_id: String,
    /// What submitted it, in its client's trace.
    pub traceparent: Option<TraceParent>,
    pub n_requested: i32,
    /// Whether it may be made on another lane than its model's own.
    pub fallback: bool,
    /// Paid calls it has made, and may still make.
    pub calls_made: i32,
    pub calls_left: i32,
    /// Seconds between the moment the job could first run and this claim.
    pub waited_seconds: f64,
    /// Seconds until the deadline, on the database's clock.
    pub seconds_left: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_name() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
    }
}
