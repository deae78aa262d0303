//! `/livez` and `/readyz`: whether to restart this process, and whether to send it requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use common::database;
use common::queue::{Ring, Trouble};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::app::App;

/// A dependency that takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the process runs
///
/// Touches nothing else: a restart would not mend a database.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "livez",
    tag = "service",
    responses((status = 200, description = "It runs", body = String, content_type = "text/plain"))
)]
pub async fn live() -> &'static str {
    "ok\n"
}

/// Whether requests can be served.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    pub ready: bool,
    /// The process is about to end.
    pub stopping: bool,
    /// All of them with `?verbose`; else those that have a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Vec<Dependency>>,
}

/// Something this process needs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Dependency {
    pub name: &'static str,
    /// Without it requests are not served. Jobs are accepted without Redis: they start when it is back.
    pub required: bool,
    /// `null` when all is well.
    pub problem: Option<&'static str>,
    pub latency_ms: f64,
}

/// Whether requests can be served
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "service",
    params(("verbose" = Option<String>, Query, description = "Also list each dependency, with its latency", allow_reserved)),
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Stopping, or Postgres or its migrations are missing", body = Readiness),
    )
)]
pub async fn ready(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, Json<Readiness>) {
    let (postgres, redis) = tokio::join!(
        examine("postgres", true, async {
            match database::is_migrated(&app.reader).await {
                Ok(true) => None,
                Ok(false) => Some("migrations are missing: run `platen migrate`"),
                Err(_) => Some("cannot be asked"),
            }
        }),
        examine("redis", false, async {
            let failure = app.ring.check().await.err()?;
            let trouble = Trouble::of(&failure).unwrap_or(Trouble::Other);
            Some(trouble.plain_words())
        }),
    );
    let stopping = app.stopping.is_cancelled();
    let ready = !stopping && postgres.problem.is_none();
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let told = [postgres, redis].into_iter();
    let told: Vec<_> = told
        .filter(|dependency| verbose || dependency.problem.is_some())
        .collect();
    (
        status,
        Json(Readiness {
            ready,
            stopping,
            dependencies: (!told.is_empty()).then_some(told),
        }),
    )
}

/// What a worker's readiness is made of.
#[derive(Clone)]
pub struct WorkerState {
    pub stopping: CancellationToken,
    pub ring: Ring,
}

/// Whether a worker takes jobs: until it is told to stop. Without Redis it takes them from Postgres, and says why.
pub async fn worker_ready(State(state): State<WorkerState>) -> (StatusCode, String) {
    if state.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let told = state.ring.trouble().map_or_else(String::new, |trouble| {
        let (reason, words) = (trouble.as_str(), trouble.plain_words());
        format!("Redis is away ({reason}): {words}\n")
    });
    (StatusCode::OK, format!("ok\n{told}"))
}

async fn examine(
    name: &'static str,
    required: bool,
    examination: impl Future<Output = Option<&'static str>>,
) -> Dependency {
    let started = Instant::now();
    let problem = tokio::time::timeout(PATIENCE, examination)
        .await
        .unwrap_or(Some("does not answer in time"));
    Dependency {
        name,
        required,
        problem,
        latency_ms: started.elapsed().as_secs_f64() * 1000.0,
    }
}
