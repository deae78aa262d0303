//! `GET /v1/admin/workers`: the workers, and how much each is doing.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Operator;
use crate::error::Result;
use crate::paging::List;

/// A worker process.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Worker {
    /// The name of the process.
    pub name: String,
    /// How many jobs it can run at once; `null` if it has not reported to Redis for three seconds, because it has ended or Redis is
    /// down.
    pub slots: Option<usize>,
    /// How many jobs it holds a lease on.
    pub jobs: i64,
    /// Whether a pause keeps it from starting jobs.
    pub drained: bool,
}

/// List the workers and what each is doing
#[utoipa::path(
    get,
    path = "/v1/admin/workers",
    operation_id = "list_workers",
    tag = "operators",
    security(("operator" = [])),
    responses((status = 200, description = "Every worker that is alive or holds a lease", body = List<Worker>))
)]
pub async fn list(State(app): State<Arc<App>>, _: Operator) -> Result<Json<List<Worker>>> {
    let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
    // Without Redis, Postgres still knows the workers that hold a lease.
    for (name, slots) in app.ready_queue.workers().await.unwrap_or_default() {
        workers.entry(name).or_default().slots = Some(slots);
    }
    for (name, jobs) in storage::jobs::by_worker(&app.reader).await? {
        workers.entry(name).or_default().jobs = jobs;
    }
    for pause in storage::operators::pauses(&app.reader).await? {
        if let Some(worker) = pause.worker.and_then(|name| workers.get_mut(&name)) {
            worker.drained = true;
        }
    }
    let data = workers
        .into_iter()
        .map(|(name, worker)| Worker { name, ..worker })
        .collect();
    Ok(Json(List { data }))
}
