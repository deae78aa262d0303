//! `POST /v1/keys/{id}/rotate`: replaces an API key by a new one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use common::people::api_keys;
use domain::api_key::{KeyId, KeyRecord};
use domain::generation::Violation;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{KeyView, kept_answer, key_response, must_hold};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Problem, Result};
use crate::extract::{self, Id, JsonBody};
use crate::idempotency::IdempotencyKey;

/// The longest time for which both keys are valid: 30 days, in seconds.
const MAX_OVERLAP: u64 = 30 * 24 * 3_600;
/// The time for which both keys are valid if the request does not say: a day, in seconds.
const DEFAULT_OVERLAP: u64 = 24 * 3_600;

/// How to rotate a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// For how many seconds the old key stays valid.
    #[schema(minimum = 0, maximum = 2_592_000, default = 86_400)]
    overlap_seconds: Option<u64>,
}

/// Replace an API key by a new one
///
/// The new key has the same name, scopes, networks and time to live. The old one stays valid for `overlap_seconds`, so that its users
/// can change to the new one. The answer is the only one that contains the new key.
#[utoipa::path(
    post,
    path = "/v1/keys/{id}/rotate",
    operation_id = "rotate_key",
    tag = "keys",
    security(("key" = [])),
    params(
        ("id" = String, Path, description = "The id of the key: the 12 characters after `pk_`"),
        ("Idempotency-Key" = Option<String>, Header),
    ),
    request_body = RotateKey,
    responses(
        (status = 201, description = "The new key", body = KeyView,
            headers(
                ("Location" = String, description = "The path of the new key"),
                ("Idempotency-Key" = String, description = "The key that was sent or generated"),
                ("Idempotent-Replayed" = Option<bool>, description = "`true` if this is the stored answer to an earlier request"),
            )),
        (status = 404, description = "There is no key with this id"),
        (status = 409, description = "The key was revoked, has expired or was rotated before, or there are too many keys"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    Id(KeyId(id)): Id<KeyId>,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let wanted: RotateKey = extract::json(&body)?;
    let overlap = wanted.overlap_seconds.unwrap_or(DEFAULT_OVERLAP);
    if overlap > MAX_OVERLAP {
        let detail = format!("0 to {MAX_OVERLAP} seconds (30 days).");
        let violation = Violation::new("/overlap_seconds", detail);
        return Err(Problem::invalid(vec![violation]));
    }
    let request = key.request("POST", &format!("/v1/keys/{id}/rotate"), &body);
    let tenant = principal.tenant;
    let connection = app.wallet(tenant).await?;
    let check = |old: &KeyRecord| must_hold(&principal, old.terms.permissions());
    let old = (id.as_str(), Duration::from_secs(overlap));
    let made =
        api_keys::rotate::<Problem>(&connection, tenant, &request, old, check, kept_answer).await?;
    key_response(&key, made)
}
