//! `GET /v1/credits`: the balance.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::credits::Credits;
use serde::Serialize;
use storage::database;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Principal;
use crate::error::{Code, Problem, Result};

/// The credits of a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct Balance {
    /// Credits that can be spent.
    pub available: Credits,
    /// Credits set aside for open jobs.
    pub held: Credits,
}

/// Get your balance
#[utoipa::path(
    get,
    path = "/v1/credits",
    operation_id = "get_credits",
    tag = "credits",
    security(("key" = [])),
    responses(
        (status = 200, description = "The balance", body = Balance),
        (status = 403, description = "This tenant is not active"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
) -> Result<Json<Balance>> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let wallet = storage::ledger::wallet(&mut transaction, tenant)
        .await?
        // Every tenant is created with a wallet, so a tenant without one is not complete.
        .ok_or_else(|| Problem::from(Code::TenantInactive))?;
    Ok(Json(Balance {
        available: wallet.available,
        held: wallet.held,
    }))
}
