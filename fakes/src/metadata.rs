//! Google's metadata server, which gives access tokens to processes on Google Cloud.
//!
//! A worker with `GCE_METADATA_HOST` set to the fake uses Google's own credentials library against the fake's Vertex
//! AI, without a secret.

use axum::{Json, response::IntoResponse};
use serde_json::json;

/// The path of the token of the machine's service account.
pub(super) const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// Answers with a token that only the fake accepts.
pub(super) async fn token() -> impl IntoResponse {
    let token = json!({"access_token": "fake", "expires_in": 3_599, "token_type": "Bearer"});
    ([("metadata-flavor", "Google")], Json(token))
}
