//! `GET /v1/admin/workers`: who works, and on how much.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::{job, operator};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Operator;
use crate::error::Result;

/// A worker.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Worker {
    pub name: String,
    /// `null` for one that has not been heard of for three seconds: it is gone, or Redis is.
    pub slots: Option<usize>,
    /// Jobs it holds a lease on.
    pub jobs: i64,
    /// Whether it is to start nothing.
    pub drained: bool,
}

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Workers {
    pub data: Vec<Worker>,
}

/// Who works, and on how much
#[utoipa::path(
    get,
    path = "/v1/admin/workers",
    operation_id = "list_workers",
    tag = "operators",
    security(("operator" = [])),
    responses((status = 200, description = "Every worker that lives or holds a lease", body = Workers))
)]
pub async fn list(State(app): State<Arc<App>>, _: Operator) -> Result<Json<Workers>> {
    let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
    // Without Redis those that hold a lease are known all the same.
    for (name, slots) in app.ready_queue.workers().await.unwrap_or_default() {
        workers.entry(name).or_default().slots = Some(slots);
    }
    for (name, jobs) in job::store::by_worker(&app.reader).await? {
        workers.entry(name).or_default().jobs = jobs;
    }
    for pause in operator::store::pauses(&app.reader).await? {
        if let Some(worker) = pause.worker.and_then(|name| workers.get_mut(&name)) {
            worker.drained = true;
        }
    }
    let named = workers
        .into_iter()
        .map(|(name, worker)| Worker { name, ..worker });
    Ok(Json(Workers {
        data: named.collect(),
    }))
}
