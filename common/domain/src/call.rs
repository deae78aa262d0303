//! A call: one paid request to a provider, journaled before it is made.
//!
//! What the model made is stored under the call's own key and then named on its row, so the next attempt
//! takes it over instead of buying it again, whichever attempt bought it.

use std::time::Duration;

use serde_json::Value;

use crate::catalog::Lane;
use crate::generation::image::{MediaType, Pixels};
use crate::id::{CallId, TenantId};
use crate::outcome::{Class, Failure};

/// The file a model made, as it stands in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    pub object_key: String,
    pub sha256: [u8; 32],
    pub bytes: i64,
    pub media_type: MediaType,
    pub pixels: Pixels,
}

/// A call of some attempt of the job, as the next attempt finds it.
#[derive(Clone, Debug)]
pub struct Journaled {
    pub id: CallId,
    pub output_idx: i32,
    pub lane: Lane,
    /// How long ago it was made, on the database's clock.
    pub age: Duration,
    /// `None` while nobody knows: the provider still works, or the worker died.
    pub outcome: Option<Class>,
    pub detail: Option<String>,
    /// The outcome in plain words, where there are better ones than the class's own.
    pub reason: Option<String>,
    /// The provider's handle for long work.
    pub operation: Option<String>,
    pub original: Option<Original>,
}

impl Journaled {
    /// Whether it ended without anybody knowing what became of its picture.
    pub fn is_lost(&self) -> bool {
        self.outcome.is_some_and(|class| LOST.contains(&class))
    }

    /// How it ended, short of a picture.
    pub fn failure(&self) -> Option<Failure> {
        let class = self.outcome.filter(|class| *class != Class::Ok)?;
        let mut failure = Failure::new(class, self.detail.clone().unwrap_or_default());
        failure.reason.clone_from(&self.reason);
        Some(failure)
    }
}

/// How calls end whose picture may have been made, and stored, all the same.
pub const LOST: [Class; 2] = [Class::Unknown, Class::Internal];

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Ending<'a> {
    pub outcome: Class,
    /// For the operator; never contains the prompt.
    pub detail: Option<&'a str>,
    /// For the tenant, where there is more to say than the class does.
    pub reason: Option<&'a str>,
    pub provider_request_id: Option<&'a str>,
    pub usage: Option<&'a Value>,
    /// What it cost us, in millionths of a US dollar; `None` keeps what it was expected to cost.
    pub cost_micros: Option<i64>,
    pub original: Option<&'a Original>,
}

/// Where a call's original is stored: a key of its own, so a late worker overwrites nothing.
pub fn original_key(tenant: TenantId, call: CallId) -> String {
    format!("t/{}/c/{}", tenant.0, call.0)
}
