//! `/livez` and `/readyz`: whether to restart this process, and whether to send it requests.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use common::database;
use common::ownership::Owner;
use common::queue::{ReadyQueue, Trouble};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::app::App;

/// A dependency that takes longer is not there.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what was found is told again.
const CACHE_TTL: Duration = Duration::from_millis(500);

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
    /// What is wrong, and what to do about it; also of what does not stand in the way of being ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub problems: Vec<String>,
    /// With `?verbose` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Vec<Dependency>>,
}

/// Something this process needs.
#[derive(Clone, Debug, Serialize, ToSchema)]
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
        (status = 503, description = "Stopping, or Postgres or its migrations are missing, or the bucket is another database's", body = Readiness),
    )
)]
pub async fn ready(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, Json<Readiness>) {
    let Found {
        dependencies,
        usable,
        ..
    } = found(&app).await;
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

/// What an examination found.
#[derive(Clone, Debug)]
pub struct Found {
    at: Instant,
    dependencies: Vec<Dependency>,
    /// Whether requests can be served with what was found.
    usable: bool,
}

/// The newest examination. Nobody needs a key to ask, so however many ask, one examines at a time, and twice a second.
pub type Examined = Arc<Mutex<Option<Found>>>;

async fn found(app: &App) -> Found {
    let mut examined = app.examined.lock().await;
    match &*examined {
        Some(found) if found.at.elapsed() < CACHE_TTL => found.clone(),
        _ => examined.insert(examine_all(app).await).clone(),
    }
}

async fn examine_all(app: &App) -> Found {
    let (postgres, redis, (bucket, usable)) = tokio::join!(
        examine("postgres", true, async {
            match database::is_migrated(&app.reader).await {
                Ok(true) => None,
                Ok(false) => Some("migrations are missing: run `platen migrate`"),
                Err(_) => Some("cannot be asked"),
            }
        }),
        examine("redis", false, async {
            let failure = app.ready_queue.check().await.err()?;
            let trouble = Trouble::of(&failure).unwrap_or(Trouble::Other);
            Some(trouble.plain_words())
        }),
        examine_bucket(&app.owner),
    );
    Found {
        at: Instant::now(),
        usable: usable && postgres.problem.is_none(),
        dependencies: vec![postgres, redis, bucket],
    }
}

/// What a worker's readiness depends on.
#[derive(Clone)]
pub struct WorkerHealth {
    pub stopping: CancellationToken,
    pub owner: Owner,
    pub ring: ReadyQueue,
}

/// Whether a worker takes jobs: until it is told to stop, and while the bucket is its database's. Without Redis it takes them from
/// Postgres, and says why.
pub async fn worker_ready(State(worker): State<WorkerHealth>) -> (StatusCode, String) {
    let (bucket, usable) = examine_bucket(&worker.owner).await;
    if worker.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let (status, mut says) = if usable {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, String::new())
    };
    if let Some(problem) = bucket.problem {
        let _written = writeln!(says, "bucket: {problem}");
    }
    if let Some(trouble) = worker.ring.trouble() {
        let _written = writeln!(says, "redis: {}", trouble.plain_words());
    }
    (status, says)
}

/// How the bucket stands, and whether files may be written to it: not while it is another database's, or lacks its marker. One
/// that does not answer is waited for, and what needs no files goes on.
async fn examine_bucket(owner: &Owner) -> (Dependency, bool) {
    let mut usable = true;
    let mut bucket = examine("bucket", false, async {
        match owner.check().await {
            Ok(ownership) => {
                usable = ownership.is_usable();
                ownership.problem()
            }
            Err(_) => Some("does not answer, or Postgres does not"),
        }
    })
    .await;
    bucket.required = !usable;
    (bucket, usable)
}

async fn examine(
    name: &'static str,
    required: bool,
    examination: impl Future<Output = Option<&'static str>>,
) -> Dependency {
    let started = Instant::now();
    let problem = tokio::time::timeout(CHECK_TIMEOUT, examination)
        .await
        .unwrap_or(Some("does not answer in time"));
    Dependency {
        name,
        required,
        problem,
        latency_ms: started.elapsed().as_secs_f64() * 1000.0,
    }
}
