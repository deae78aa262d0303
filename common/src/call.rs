//! A call: one paid request to a provider, journaled before it is made.
//!
//! What the model made is stored under the call's own key and then named on its row, so the next attempt
//! takes it over instead of buying it again, whichever attempt bought it.

pub mod store;

use serde_json::Value;

use crate::generation::image::{MediaType, Pixels};
use crate::id::{CallId, TenantId};
use crate::outcome::Class;

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
    /// `None` while the call runs, and for ever when its worker died.
    pub outcome: Option<Class>,
    pub detail: Option<String>,
    pub original: Option<Original>,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Ending<'a> {
    pub outcome: Class,
    /// For the operator; never contains the prompt.
    pub detail: Option<&'a str>,
    pub provider_request_id: Option<&'a str>,
    pub usage: Option<&'a Value>,
    /// What it cost us, in millionths of a US dollar.
    pub cost_micros: Option<i64>,
    pub original: Option<&'a Original>,
}

/// Where a call's original is stored: a key of its own, so a late worker overwrites nothing.
pub fn original_key(tenant: TenantId, call: CallId) -> String {
    format!("t/{}/c/{}", tenant.0, call.0)
}
