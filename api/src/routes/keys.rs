//! API keys, as clients see them.

pub mod create;
pub mod get;
pub mod list;
pub mod revoke;
pub mod rotate;

use axum::http::header;
use axum::response::Response;
use common::people::api_keys::{KeyError, MAX_KEYS, NewKey};
use domain::api_key::{ApiKey, KeyRecord};
use domain::idempotency::Answer;
use domain::permission::{Permission, Permissions};
use ipnet::IpNet;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::auth::Principal;
use crate::auth::permission::forbidden;
use crate::error::{Code, Problem, Result};
use crate::idempotency::IdempotencyKey;

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyView {
    /// The public part of the key: the 12 characters after `pk_`.
    #[schema(example = "5m0q7xk2c9af")]
    pub id: String,
    /// The name of the key.
    pub name: String,
    /// The permissions of the key.
    #[schema(example = json!(["jobs:read", "jobs:write"]))]
    pub scopes: Vec<&'static str>,
    /// The networks that the key may be used from, in CIDR notation; empty for all.
    pub networks: Vec<String>,
    /// When the key was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// From when on the key is refused; `null` for never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When the key was last used. It is written about once a minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// When the key was revoked; `null` if it was not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// The id of the key that replaces this one; `null` if it was not rotated.
    pub successor: Option<String>,
    /// The whole key. Only the first answer to the request that made it has this field; it cannot be read again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl KeyView {
    fn new(record: &KeyRecord) -> Self {
        let scopes = record.terms.permissions().iter();
        Self {
            id: record.id.clone(),
            name: record.terms.name.clone(),
            scopes: scopes.map(Permission::as_str).collect(),
            networks: record.terms.networks.iter().map(IpNet::to_string).collect(),
            created_at: record.created_at,
            expires_at: record.terms.expires_at,
            last_used_at: record.last_used_at,
            revoked_at: record.revoked_at,
            successor: record.successor.clone(),
            key: None,
        }
    }
}

/// The answer that is kept for repetitions. It does not contain the secret.
fn kept_answer(record: &KeyRecord) -> Answer {
    Answer {
        location: Some(format!("/v1/keys/{}", record.id)),
        ..Answer::json(201, &KeyView::new(record))
    }
}

/// Makes the response to a POST that made a key, new or repeated. Only a new one shows the secret, and caches must not keep it.
fn key_response(key: &IdempotencyKey, made: NewKey) -> Result<Response> {
    match made {
        NewKey::Made(secret, answer) => {
            let mut response = key.answer(with_secret(answer, &secret)?);
            let no_store = header::HeaderValue::from_static("no-store");
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, no_store);
            Ok(response)
        }
        NewKey::Repeated(answer) => Ok(key.replay(answer)),
    }
}

fn with_secret(answer: Answer, secret: &ApiKey) -> Result<Answer> {
    let failed = |_| Problem::from(Code::Internal);
    let mut body: serde_json::Value = serde_json::from_slice(&answer.body).map_err(failed)?;
    body["key"] = secret.expose().into();
    let body = serde_json::to_vec(&body).map_err(failed)?;
    Ok(Answer { body, ..answer })
}

/// Checks that a key would hold no more than its maker, who could otherwise gain permissions.
fn must_hold(principal: &Principal, scopes: Permissions) -> Result<()> {
    let Some(missing) = scopes.first_missing_in(principal.permissions) else {
        return Ok(());
    };
    let name = missing.as_str();
    let detail = format!("A key can hold only what you hold, and you do not hold `{name}`.");
    Err(forbidden(missing, detail))
}

fn no_such_key(id: &str) -> Problem {
    Problem::no_such("key", id)
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::TooMany => Self::new(
                Code::TooManyKeys,
                format!("There are {MAX_KEYS} keys already: revoke one that is not needed."),
            ),
            KeyError::NotFound => Self::new(Code::NotFound, "There is no such key."),
            KeyError::NotActive => Self::from(Code::KeyNotActive),
            KeyError::Admission(error) => error.into(),
        }
    }
}
