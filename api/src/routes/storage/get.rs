//! `GET /v1/storage`: how much a tenant keeps, and how much it may.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::{database, storage};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Tenant;
use crate::error::Result;

/// What a tenant keeps: uploads, pictures sent along with jobs, and pictures that were made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Storage {
    /// In use; `null` for some minutes after an update of the service, while it is counted.
    pub bytes: Option<i64>,
    /// Files that would make it more are refused with `storage_full`; `null` where there is no bound. What a job makes is never refused.
    pub limit: Option<i64>,
}

/// How much is kept, and how much may be
#[utoipa::path(
    get,
    path = "/v1/storage",
    operation_id = "get_storage",
    tag = "files",
    security(("key" = [])),
    responses((status = 200, description = "Bytes in use, and the bound", body = Storage))
)]
pub async fn handler(State(app): State<Arc<App>>, Tenant(tenant): Tenant) -> Result<Json<Storage>> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    let stored = storage::store::stored(&mut transaction, tenant).await?;
    Ok(Json(Storage {
        bytes: stored.bytes,
        limit: app.unpaid.storage,
    }))
}
