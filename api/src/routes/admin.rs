//! What operators do over HTTP; `platen admin` does the same. Each act says why, and is kept.

pub mod actions;
pub mod jobs;
pub mod pauses;
pub mod tenants;
pub mod workers;

use common::generation::Violation;
use common::operation::{Act, MAX_REASON};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::auth::Operator;
use crate::error::{Problem, Result};

/// Why, in words.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    #[serde(default)]
    #[schema(
        required,
        min_length = 1,
        max_length = 500,
        example = "the provider's outage of this morning"
    )]
    reason: String,
}

impl Reason {
    fn act(&self) -> Result<Act<'_>> {
        act(&self.reason)
    }
}

/// An act of this operator's, for a reason.
fn act(reason: &str) -> Result<Act<'_>> {
    let length = reason.trim().chars().count();
    if length == 0 || length > MAX_REASON || reason.contains('\0') {
        let detail =
            format!("Say why, in 1 to {MAX_REASON} characters: it is kept with what is done.");
        return Err(Problem::invalid(vec![Violation::new("/reason", detail)]));
    }
    Ok(Act {
        by: Operator::NAME,
        reason: reason.trim(),
    })
}
