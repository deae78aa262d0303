//! Google's metadata server, which gives processes on Google Cloud their tokens: a worker that is told to ask here
//! (`GCE_METADATA_HOST`) calls the fake's Vertex AI with the vendor's own credentials library, and without a secret.

use axum::{Json, response::IntoResponse};
use serde_json::json;

/// Where the token of the machine's own account is asked for.
pub(super) const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// A token that opens nothing but the fake.
pub(super) async fn token() -> impl IntoResponse {
    let token = json!({"access_token": "fake", "expires_in": 3_599, "token_type": "Bearer"});
    ([("metadata-flavor", "Google")], Json(token))
}
