//! `GET /v1/retention`: how long files and prompts are kept.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::retention::Retention;
use storage::database;

use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;

/// Get how long files and prompts are kept
#[utoipa::path(
    get,
    path = "/v1/retention",
    operation_id = "get_retention",
    tag = "files",
    security(("key" = [])),
    responses((status = 200, description = "Seconds after the end of a job, by class of file; `null`: as long as the account exists", body = Retention))
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
) -> Result<Json<Retention>> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    Ok(Json(
        storage::retention::get(&mut transaction, tenant).await?,
    ))
}
