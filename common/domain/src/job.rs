//! Jobs: what a tenant pays for. A job begins in `common::admission` and ends once, in
//! `common::settlement`.
//!
//! ```text
//! queued ──claim (fence+1)──▶ running ──settle──▶ succeeded | partial | failed
//!   │  ▲                        │  │
//!   │  └── retry, reap, hand-back ┘  │
//!   ├──cancel──▶ canceled ◀──cancel──┤
//!   └──deadline─▶ expired ◀─deadline─┘
//! ```
//!
//! A terminal state is final. A trigger in the database rejects every change of a terminal job, so
//! a mistake in this code cannot reopen one.
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

/// State of a job.
///
/// - `queued`: it waits for a worker.
/// - `running`: a worker is working on it.
/// - `succeeded`: every requested output was delivered and charged.
/// - `partial`: some outputs were delivered and charged; the credits for the others were given back.
/// - `failed`: nothing was delivered; all credits were given back.
/// - `canceled`: the tenant or an operator canceled it; all credits were given back.
/// - `expired`: its deadline passed; all credits were given back.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// The job waits for a worker.
    Queued,
    /// A worker holds the job's lease.
    Running,
    /// Every requested output was delivered and captured.
    Succeeded,
    /// Some outputs were delivered and captured. The rest of the hold was released.
    Partial,
    /// Nothing was delivered. The hold was released.
    Failed,
    /// The tenant or an operator canceled the job. The hold was released.
    Canceled,
    /// The deadline passed. The hold was released.
    Expired,
}

impl State {
    /// Every state.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the job has ended. The state can then never change again.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// What the submitter of a job chose about it. These values pass unchanged from the request to the
/// job's row and back to the API. `CONTRIBUTING.md` lists the places that know one of them.
#[derive(Clone, Debug, Default)]
pub struct JobAttributes {
    /// Catalogue id of the model.
    pub model: String,
    /// The requested model, if its successor replaces it.
    pub switched_from: Option<String>,
    /// The tenant's own name for the job.
    pub name: Option<String>,
    /// The tenant's own data, a JSON object. We store it and never read it.
    pub metadata: serde_json::Value,
    /// Priority among the tenant's own jobs, -10 to 10. Higher runs first.
    pub priority: i16,
    /// Whether the job may run on a fallback lane of its model.
    pub fallback: bool,
}

/// A job, as its row in the database has it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job.
    pub id: JobId,
    /// The tenant that owns and pays for it.
    pub tenant: TenantId,
    /// What it makes.
    pub kind: Kind,
    /// What its submitter chose.
    pub attributes: JobAttributes,
    /// The HTTP request that submitted it.
    pub request_id: String,
    /// Current state.
    pub state: State,
    /// Class of the newest outcome. Final once the job has ended.
    pub outcome: Option<Class>,
    /// The outcome in plain words.
    pub reason: Option<String>,
    /// Number of the newest attempt, from 1. 0 before the first one.
    pub fence: i32,
    /// Leases of the job that expired.
    pub crash_count: i32,
    /// Paid calls that were begun and count against `max_calls`.
    pub calls_started: i32,
    /// Most paid calls that the job may make, over all outputs and attempts.
    pub max_calls: i32,
    /// Place in the fair queue, in microseconds of the tenant's virtual clock. Lower runs first.
    pub virtual_time: i64,
    /// It does not run before this time.
    pub run_after: OffsetDateTime,
    /// It expires at this time.
    pub deadline: OffsetDateTime,
    /// Its credits.
    pub cost: Cost,
    /// Requested outputs.
    pub n_requested: i32,
    /// Delivered outputs.
    pub n_delivered: i32,
    /// The failed job that this one repeats.
    pub redrive_of: Option<JobId>,
    /// When it was submitted.
    pub created_at: OffsetDateTime,
    /// When it was first claimed.
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    pub finished_at: Option<OffsetDateTime>,
}

/// The credits of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Cost {
    /// Credits for one delivered output.
    pub unit_price: Credits,
    /// Version of the price in the catalogue: the first day it was in force.
    pub price_version: String,
    /// Credits set aside when the job was submitted.
    pub held: Credits,
    /// Credits charged: unit price × delivered outputs.
    pub captured: Credits,
    /// Credits of the hold that were given back when the job ended.
    pub released: Credits,
    /// Credits returned after they had been charged.
    pub refunded: Credits,
}

/// How long before its deadline a job that has an image to deliver runs even though its lanes are
/// unavailable. Delivering needs no further call.
pub const DELIVERY_MARGIN: Duration = Duration::from_secs(10);

/// How many jobs may be started now: a number for each model that this process knows, and tenants
/// whose jobs may not be started although their model has capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    models: Vec<ModelCapacity>,
    exclusions: Vec<Exclusion>,
}

/// How many jobs of one model may be started now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCapacity {
    /// Catalogue id of the model.
    pub model: String,
    /// How many jobs may be started if each may use every lane of the model.
    pub jobs_on_all_lanes: i64,
    /// How many jobs may be started if each may use only the model's first lane.
    pub jobs_on_first_lane: i64,
}

/// Jobs that may not be started although their model has capacity. A job is excluded if it matches
/// `model` and `tenant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// Catalogue id of the model. `None` matches every model.
    pub model: Option<String>,
    /// The tenant's [`TenantId::pseudonym`]. `None` matches every tenant.
    pub tenant: Option<String>,
    /// `true` excludes every matching job; `false` excludes only those that may not use a fallback
    /// lane.
    pub on_all_lanes: bool,
}

impl Capacity {
    /// A capacity for these models, without exclusions. Jobs of other models may not be started.
    pub fn new(models: impl IntoIterator<Item = ModelCapacity>) -> Self {
        Self {
            models: models.into_iter().collect(),
            exclusions: Vec::new(),
        }
    }

    /// Adds exclusions.
    #[must_use]
    pub fn without(mut self, exclusions: impl IntoIterator<Item = Exclusion>) -> Self {
        self.exclusions.extend(exclusions);
        self
    }

    /// The models whose jobs may be started, and how many.
    pub fn models(&self) -> &[ModelCapacity] {
        &self.models
    }

    /// The jobs that may not be started although their model has capacity.
    pub fn exclusions(&self) -> &[Exclusion] {
        &self.exclusions
    }
}

/// A job that a worker has claimed: the worker may work on it until the lease expires. Every write
/// of the attempt names the fence.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The job.
    pub id: JobId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Number of this attempt.
    pub fence: i32,
    /// Catalogue id of the model.
    pub model: String,
    /// The HTTP request that submitted it.
    pub request_id: String,
    /// The client's trace that it belongs to (W3C `traceparent`).
    pub traceparent: Option<TraceParent>,
    /// Requested outputs.
    pub n_requested: i32,
    /// Whether it may run on a fallback lane of its model.
    pub fallback: bool,
    /// Paid calls that were begun and count against the job's `max_calls`.
    pub calls_made: i32,
    /// Paid calls that it may still make: `max_calls` less `calls_made`.
    pub calls_left: i32,
    /// Seconds from the moment the job could run until this claim.
    pub waited_seconds: f64,
    /// Seconds until the deadline, on the database's clock.
    pub seconds_left: f64,
}
