//! What operators say and are told.

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::id::TenantId;

/// Who does it, and why.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    pub by: &'a str,
    pub reason: &'a str,
}

/// Whose jobs are not started: of those that fit everything that is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    pub model: Option<String>,
    pub tenant: Option<TenantId>,
    /// It is drained: what it has under way ends, and it starts nothing.
    pub worker: Option<String>,
}

/// A pause that stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pause {
    pub id: i64,
    pub model: Option<String>,
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    pub worker: Option<String>,
    pub reason: String,
    #[serde(with = "time::serde::rfc3339")]
    pub paused_at: OffsetDateTime,
}

/// Something that was done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    pub id: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub by: String,
    pub action: String,
    pub reason: String,
    #[schema(value_type = Object)]
    pub subject: Value,
}

/// Something that happened to a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TimelineEntry {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `job`, `call`, `transfer`, `artifact`, `deletion`, `operator`.
    pub of: String,
    /// What, in words.
    pub what: String,
    #[schema(value_type = Option<String>)]
    pub id: Option<Uuid>,
}
