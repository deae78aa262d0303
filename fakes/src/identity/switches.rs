//! What can be changed about the identity provider.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The switches of the identity provider. `PUT /__fake/identity` takes them as JSON and replaces all of them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySwitches {
    /// Whether every request gets 503.
    pub outage: bool,
    /// How many milliseconds each request takes.
    pub latency_ms: u64,
    /// The `max-age` of keys and of the discovery document, in seconds.
    pub max_age: u64,
    /// What ID tokens are signed with: `RS256` or `ES256`.
    pub algorithm: String,
    /// Claims that replace those of ID tokens. `null` removes a claim.
    pub claims: Map<String, Value>,
    /// Fields that replace those of the discovery document. `null` removes a field.
    pub discovery: Map<String, Value>,
    /// Fields that replace those of the token endpoint's answer. `null` removes a field.
    pub answer: Map<String, Value>,
    /// Parameters that replace those of the redirect to the client. `null` removes a parameter.
    pub redirect: Map<String, Value>,
}

impl Default for IdentitySwitches {
    fn default() -> Self {
        Self {
            outage: false,
            latency_ms: 0,
            max_age: 3_600,
            algorithm: "RS256".to_owned(),
            claims: Map::new(),
            discovery: Map::new(),
            answer: Map::new(),
            redirect: Map::new(),
        }
    }
}

/// Replaces fields of an object. `null` removes a field.
pub(super) fn merge(object: &mut Value, changes: &Map<String, Value>) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    for (name, value) in changes {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
}
