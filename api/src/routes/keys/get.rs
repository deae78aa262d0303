//! `GET /v1/keys/{id}`: an API key, without its secret.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::api_key::KeyId;
use storage::database;

use super::{KeyView, no_such_key};
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::extract::Id;

/// Get an API key
#[utoipa::path(
    get,
    path = "/v1/keys/{id}",
    operation_id = "get_key",
    tag = "keys",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id of the key: the 12 characters after `pk_`")),
    responses(
        (status = 200, description = "The key, without its secret", body = KeyView),
        (status = 404, description = "There is no key with this id"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(KeyId(id)): Id<KeyId>,
) -> Result<Json<KeyView>> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let key = storage::api_keys::find(&mut transaction, tenant, &id).await?;
    transaction.commit().await?;
    let key = key.ok_or_else(|| no_such_key(&id))?;
    Ok(Json(KeyView::new(&key)))
}
