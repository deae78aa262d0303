//! The operators' routes. `platen admin` does the same. Every action needs a reason and is written to the audit log.

pub mod actions;
pub mod jobs;
pub mod pauses;
pub mod tenants;
pub mod workers;

use axum::response::Response;
use common::people::operator::MAX_REASON;
use common::people::operator::once::{OperatorReply, OperatorRequest};
use domain::generation::Violation;
use domain::id::TenantId;
use domain::idempotency::Request;
use domain::operator::Actor;
use domain::visible;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::auth::Operator;
use crate::error::{Problem, Result};
use crate::idempotency::IdempotencyKey;

/// The reason for an action.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    #[serde(default)]
    #[schema(required, schema_with = reason_schema)]
    reason: String,
}

/// Checks the reason, and returns the actor of an operator's action, with the reason.
fn actor(reason: &str) -> Result<Actor<'_>> {
    let length = reason.trim().chars().count();
    if visible::is_blank(reason) || length > MAX_REASON || reason.contains('\0') {
        let detail = format!(
            "Say why, in 1 to {MAX_REASON} characters: the reason is kept in the audit log."
        );
        return Err(Problem::invalid(vec![Violation::new("/reason", detail)]));
    }
    Ok(Actor {
        by: Operator::NAME,
        reason: reason.trim(),
    })
}

impl Reason {
    /// Makes the request of an operator whose body is only a reason.
    fn operator_request<'a>(&'a self, request: &'a Request) -> Result<OperatorRequest<'a>> {
        Ok(OperatorRequest {
            actor: actor(&self.reason)?,
            request,
        })
    }
}

/// Makes the response to an operator's POST, new or repeated.
fn operator_response(key: &IdempotencyKey, reply: OperatorReply) -> Response {
    match reply {
        OperatorReply::New(answer) => key.answer(answer),
        OperatorReply::Repeated(answer) => key.replay(answer),
    }
}

/// The schema of a tenant to filter by, for `/openapi.json`.
fn tenant_schema() -> Schema {
    let mut schema = TenantId::schema();
    if let Schema::Object(object) = &mut schema {
        object.description = Some("Only jobs of this tenant.".to_owned());
    }
    schema
}

/// The schema of a reason, for `/openapi.json`.
fn reason_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(
            "Why you do this. The reason is kept in the audit log.",
        ))
        .min_length(Some(1))
        .max_length(Some(MAX_REASON))
        .pattern(Some(visible::visible_pattern()))
        .examples(["this morning's outage at the provider"])
        .into()
}
