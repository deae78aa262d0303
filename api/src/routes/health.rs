//! `/livez` and `/readyz`: whether to restart this process, and whether to send it requests.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use common::files::ownership::OwnershipChecker;
use queue::ReadyQueue;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::app::App;
use crate::readiness::{self, CheckResult, Dependency};

/// Whether the process runs
///
/// Checks no dependency, because a restart would not repair a database.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "livez",
    tag = "service",
    responses((status = 200, description = "The process runs", body = String, content_type = "text/plain"))
)]
pub async fn live() -> &'static str {
    "ok\n"
}

/// Whether requests can be served.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether to send requests to this process.
    pub ready: bool,
    /// Whether the process is about to end.
    pub stopping: bool,
    /// What is wrong and what to do about it. Also lists problems that do not stop the process from being ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub problems: Vec<String>,
    /// Every dependency. Only with `?verbose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Vec<Dependency>>,
}

/// Whether requests can be served
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "service",
    params(("verbose" = Option<String>, Query, description = "Also list each dependency, with the time its check took", allow_reserved)),
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready: the process is stopping, Postgres or its migrations are missing, or the bucket belongs to another database", body = Readiness),
    )
)]
pub async fn ready(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, Json<Readiness>) {
    let CheckResult {
        dependencies,
        usable,
        ..
    } = app
        .readiness
        .check(&app.reader, &app.ready_queue, &app.owner)
        .await;
    let stopping = app.stopping.is_cancelled();
    let ready = !stopping && usable;
    let problems = dependencies
        .iter()
        .filter_map(|Dependency { name, problem, .. }| Some(format!("{name}: {}", (*problem)?)))
        .collect();
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Readiness {
            ready,
            stopping,
            problems,
            dependencies: verbose.then_some(dependencies),
        }),
    )
}

/// What a worker's readiness depends on.
#[derive(Clone)]
pub struct WorkerHealth {
    /// Canceled when the worker begins to stop.
    pub stopping: CancellationToken,
    /// Knows whether the bucket belongs to this database.
    pub owner: OwnershipChecker,
    /// The queue the worker takes jobs from.
    pub ready_queue: ReadyQueue,
}

/// Answers whether a worker takes jobs. It takes jobs until it is told to stop, as long as the bucket belongs to its database.
/// Without Redis it takes jobs from Postgres and stays ready, and the answer says what is wrong with Redis.
pub async fn worker_readiness(State(worker): State<WorkerHealth>) -> (StatusCode, String) {
    let (bucket, usable) = readiness::check_bucket(&worker.owner).await;
    if worker.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let (status, mut text) = if usable {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, String::new())
    };
    // Writing to a string does not fail.
    if let Some(problem) = bucket.problem {
        let _written = writeln!(text, "bucket: {problem}");
    }
    if let Some(failure) = worker.ready_queue.failure() {
        let _written = writeln!(text, "redis: {}", failure.explanation());
    }
    (status, text)
}
