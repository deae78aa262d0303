//! Calls: paid requests to providers. Each call is journaled in the database before it is made.
//!
//! The image that the model made is stored under the call's own key and then named on the call's
//! row. A later attempt of the job finds it there and uses it instead of paying for another one.

use std::time::Duration;

use serde_json::Value;

use crate::catalog::Lane;
use crate::id::{CallId, TenantId};
use crate::outcome::{Class, Failure};
use crate::stored_file::StoredFile;

/// A call that an attempt of a job has made, as a later attempt reads it from the journal.
#[derive(Clone, Debug)]
pub struct JournaledCall {
    /// The call.
    pub id: CallId,
    /// Which output of the job it was made for, from 0.
    pub output_idx: i32,
    /// Where it was made.
    pub lane: Lane,
    /// Time since it was journaled, on the database's clock.
    pub age: Duration,
    /// Class of the outcome. `None` if no end is recorded: the provider still works, or the worker
    /// died. [`Class::Unknown`] is a recorded end.
    pub outcome: Option<Class>,
    /// What happened, for the operator. Never contains the prompt.
    pub detail: Option<String>,
    /// The outcome in plain words, if there are better ones than the class's own.
    pub reason: Option<String>,
    /// The provider's handle for long work. Any worker can ask for its result.
    pub operation: Option<String>,
    /// The image, if it was made and stored.
    pub original: Option<StoredFile>,
}

impl JournaledCall {
    /// Whether it failed although its image may exist ([`LOST`]).
    pub fn is_lost(&self) -> bool {
        self.outcome.is_some_and(|class| LOST.contains(&class))
    }

    /// How it failed. `None` if it delivered an image or has not ended.
    pub fn failure(&self) -> Option<Failure> {
        let class = self.outcome.filter(|class| *class != Class::Ok)?;
        // The detail is missing if it was deleted together with the job's prompt.
        let mut failure = Failure::new(class, self.detail.clone().unwrap_or_default());
        failure.reason.clone_from(&self.reason);
        Some(failure)
    }
}

/// Classes of calls whose image may exist in spite of the failure: the answer was lost, or we
/// failed after the model had made the image. A worker that was only slow may still store it.
pub const LOST: [Class; 2] = [Class::Unknown, Class::Internal];

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Ending<'a> {
    /// Class of the outcome.
    pub outcome: Class,
    /// What happened, for the operator. Never contains the prompt.
    pub detail: Option<&'a str>,
    /// What happened, for the tenant, if there is more to say than the class says.
    pub reason: Option<&'a str>,
    /// The provider's id for the request.
    pub provider_request_id: Option<&'a str>,
    /// What the provider metered, as it reported it.
    pub usage: Option<&'a Value>,
    /// What it cost us, in millionths of a US dollar. `None` keeps the expected cost.
    pub cost_micros: Option<i64>,
    /// The image, if it was made and stored.
    pub original: Option<&'a StoredFile>,
}

/// Key under which a call's original is stored. Each call has its own key, so a slow worker
/// overwrites nothing.
pub fn original_key(tenant: TenantId, call: CallId) -> String {
    format!("t/{}/c/{}", tenant.0, call.0)
}
