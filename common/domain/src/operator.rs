//! What operators say and are told.

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::id::TenantId;

/// An operator, and the reason of an action.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// The operator's name.
    pub by: &'a str,
    /// Why, in the operator's words; at most `MAX_REASON` characters.
    pub reason: &'a str,
}

/// What a pause applies to: jobs that match every value that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Jobs of this model.
    pub model: Option<String>,
    /// Jobs of this tenant.
    pub tenant: Option<TenantId>,
    /// Jobs on this worker. Alone it drains the worker: running jobs end, and none is started.
    pub worker: Option<String>,
}

/// A pause that is in force.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pause {
    /// Its number, to end it.
    pub id: i64,
    /// The model it applies to; absent for all.
    pub model: Option<String>,
    /// The tenant it applies to; absent for all.
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    /// The worker it applies to; absent for all.
    pub worker: Option<String>,
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub paused_at: OffsetDateTime,
}

/// One action of an operator.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its number; a newer entry has a greater one.
    pub id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The operator.
    pub by: String,
    /// What was done, such as `cancel` or `adjust`.
    pub action: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// What it was done to.
    #[schema(value_type = Object)]
    pub subject: Value,
}

/// One event in the life of a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TimelineEntry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What it happened to: `job`, `call`, `transfer`, `artifact`, `deletion` or `operator`.
    pub of: String,
    /// What happened, in words.
    pub what: String,
    /// The id of the job, call or artifact; absent for others.
    #[schema(value_type = Option<String>)]
    pub id: Option<Uuid>,
}
