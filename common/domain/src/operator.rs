//! The values of operators' actions: who acts and why, pauses, audit entries and timelines.

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
    /// Why, in the operator's words; 1 to 500 characters.
    pub reason: &'a str,
}

/// What a pause applies to: jobs that match every value that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Jobs of this model.
    pub model: Option<String>,
    /// Jobs of this tenant.
    pub tenant: Option<TenantId>,
    /// Jobs on this worker. If no other value is set, the worker is drained: it starts no job, and
    /// its running jobs go on to their end.
    pub worker: Option<String>,
}

/// A pause that is in force.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pause {
    /// The number of the pause; `POST /v1/admin/pauses/{id}/resume` ends it.
    pub id: i64,
    /// The model whose jobs are not started; absent for all.
    pub model: Option<String>,
    /// The tenant whose jobs are not started; absent for all.
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    /// The worker that starts no such job; absent for all.
    pub worker: Option<String>,
    /// Why the operator paused them, in the operator's words.
    pub reason: String,
    /// When the pause began.
    #[serde(with = "time::serde::rfc3339")]
    pub paused_at: OffsetDateTime,
}

/// One action of an operator.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// The number of the entry; a newer entry has a greater one.
    pub id: i64,
    /// When the action was recorded, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The name of the operator who acted.
    pub by: String,
    /// What was done, such as `cancel` or `adjust`.
    pub action: String,
    /// Why it was done, in the operator's words.
    pub reason: String,
    /// What it was done to, and with which values: an object such as `{"tenant": "ten_…"}`.
    #[schema(value_type = Object)]
    pub subject: Value,
}

/// One event in the life of a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TimelineEntry {
    /// When it happened, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What it happened to: `job`, `call`, `transfer`, `artifact`, `deletion` or `operator`.
    pub of: String,
    /// What happened, as a sentence for operators. Its wording may change.
    pub what: String,
    /// The id in the database of the job, call or artifact, as a UUID; absent for others.
    #[schema(value_type = Option<String>)]
    pub id: Option<Uuid>,
}
