//! What operators do over HTTP; `platen admin` does the same. Each act says why, and is kept.

pub mod actions;
pub mod jobs;
pub mod pauses;
pub mod tenants;
pub mod workers;

use axum::response::Response;
use common::generation::Violation;
use common::idempotency::Request;
use common::operator::once::{OperatorRequest, Replied};
use common::operator::{Actor, MAX_REASON};
use common::visible;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::auth::Operator;
use crate::error::{Problem, Result};
use crate::idempotency::Key;

/// Why, in words.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    #[serde(default)]
    #[schema(required, schema_with = reason)]
    reason: String,
}

impl Reason {
    fn act(&self) -> Result<Actor<'_>> {
        act(&self.reason)
    }
}

/// An act of this operator's, for a reason.
fn act(reason: &str) -> Result<Actor<'_>> {
    let length = reason.trim().chars().count();
    if visible::is_blank(reason) || length > MAX_REASON || reason.contains('\0') {
        let detail =
            format!("Say why, in 1 to {MAX_REASON} characters: it is kept with what is done.");
        return Err(Problem::invalid(vec![Violation::new("/reason", detail)]));
    }
    Ok(Actor {
        by: Operator::NAME,
        reason: reason.trim(),
    })
}

impl Reason {
    /// What an operator asks for with no more than a reason.
    fn order<'a>(&'a self, request: &'a Request) -> Result<OperatorRequest<'a>> {
        Ok(OperatorRequest {
            act: self.act()?,
            request,
        })
    }
}

/// The answer to an operator's POST, the first time or again.
fn replied(key: &Key, replied: Replied) -> Response {
    match replied {
        Replied::New(answer) => key.answer(answer),
        Replied::Repeated(answer) => key.replay(answer),
    }
}

/// A reason, for `/openapi.json`.
fn reason() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("Why, in words: it is kept with what is done."))
        .min_length(Some(1))
        .max_length(Some(MAX_REASON))
        .pattern(Some(visible::visible_pattern()))
        .examples(["the provider's outage of this morning"])
        .into()
}
