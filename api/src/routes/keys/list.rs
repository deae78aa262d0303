//! `GET /v1/keys`: a tenant's API keys, newest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::api_key::KeyId;
use serde::Deserialize;
use storage::database;

use super::KeyView;
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::extract::Parameters;
use crate::paging::{Limit, Page};

/// Which keys to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListKeysQuery {
    /// The most keys to return.
    #[serde(default)]
    #[param(schema_with = Limit::schema)]
    limit: Limit,
    /// The id of the last key you have. Older keys follow.
    #[param(schema_with = KeyId::schema)]
    starting_after: Option<KeyId>,
}

/// List the API keys of your tenant, newest first
///
/// Revoked and expired keys are in the list, too.
#[utoipa::path(
    get,
    path = "/v1/keys",
    operation_id = "list_keys",
    tag = "keys",
    security(("key" = [])),
    params(ListKeysQuery),
    responses(
        (status = 200, description = "A page of keys", body = Page<KeyView>),
        (status = 400, description = "A parameter is not usable"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Parameters(query): Parameters<ListKeysQuery>,
) -> Result<Json<Page<KeyView>>> {
    let limit = query.limit.get();
    let after = query.starting_after.as_ref().map(|id| id.0.as_str());
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let keys = storage::api_keys::list(&mut transaction, tenant, after, limit + 1).await?;
    transaction.commit().await?;
    Ok(Json(Page::new(keys, limit).map(|key| KeyView::new(&key))))
}
