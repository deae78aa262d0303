//! `DELETE /v1/keys/{id}`: revokes an API key.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use common::people::api_keys;
use domain::api_key::KeyId;

use super::no_such_key;
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::extract::Id;

/// Revoke an API key
///
/// It is refused everywhere within five seconds, and stays in the list. May be repeated.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    operation_id = "revoke_key",
    tag = "keys",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id of the key: the 12 characters after `pk_`")),
    responses(
        (status = 204, description = "The key is revoked"),
        (status = 404, description = "There is no key with this id"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(KeyId(id)): Id<KeyId>,
) -> Result<StatusCode> {
    let connection = app.connection(tenant).await?;
    if api_keys::revoke(&connection, tenant, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_key(&id))
    }
}
