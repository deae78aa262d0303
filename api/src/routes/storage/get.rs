//! `GET /v1/storage`: how much a tenant stores, and its limit.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use storage::database;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;

/// What a tenant stores: uploads, input images sent with jobs, and artifacts.
#[derive(Debug, Serialize, ToSchema)]
pub struct Storage {
    /// Bytes in use; `null` for some minutes after an update of the service, while they are counted.
    pub bytes: Option<i64>,
    /// The most bytes you may store; `null` if there is no limit. Files that would exceed it are refused with `storage_full`, but
    /// the artifacts of a job are always kept.
    pub limit: Option<i64>,
}

/// Get how much you store, and your limit
#[utoipa::path(
    get,
    path = "/v1/storage",
    operation_id = "get_storage",
    tag = "files",
    security(("key" = [])),
    responses((status = 200, description = "Bytes in use, and the limit", body = Storage))
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
) -> Result<Json<Storage>> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    let stored = storage::stored_bytes::stored(&mut transaction, tenant).await?;
    Ok(Json(Storage {
        bytes: stored.bytes,
        limit: app.unbilled_limits.storage,
    }))
}
