//! Checks what a process depends on: Postgres, Redis and the bucket.

use std::sync::Arc;
use std::time::Duration;

use common::files::ownership::OwnershipChecker;
use queue::{ReadyQueue, RedisFailure};
use serde::Serialize;
use sqlx::PgPool;
use storage::database;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

/// How long a check may take. A dependency that takes longer counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a result is reused.
const CACHE_LIFETIME: Duration = Duration::from_millis(500);

/// A service this process depends on, and whether it works.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Dependency {
    /// `postgres`, `redis` or `bucket`.
    pub name: &'static str,
    /// Whether requests are refused without this dependency. Redis is not required: without it, jobs are accepted, and start when
    /// it is available again.
    pub required: bool,
    /// What is wrong and what to do; `null` when the dependency works.
    pub problem: Option<&'static str>,
    /// How long the check took, in milliseconds.
    pub latency_ms: f64,
}

/// The result of checking every dependency.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// When the check ended.
    at: Instant,
    /// Postgres, Redis and the bucket, in this order.
    pub dependencies: Vec<Dependency>,
    /// Whether requests can be served.
    pub usable: bool,
}

/// The newest check of all dependencies. No API key is needed to ask for readiness, so results are cached: one check runs at a
/// time, at most twice a second. Clones share the cache.
#[derive(Clone, Debug, Default)]
pub struct ReadinessCache(Arc<Mutex<Option<CheckResult>>>);

impl ReadinessCache {
    /// Returns the cached result, or checks all dependencies if it is too old.
    pub async fn check(
        &self,
        reader: &PgPool,
        ready_queue: &ReadyQueue,
        owner: &OwnershipChecker,
    ) -> CheckResult {
        let mut cached = self.0.lock().await;
        match &*cached {
            Some(result) if result.at.elapsed() < CACHE_LIFETIME => result.clone(),
            _ => cached
                .insert(check_all(reader, ready_queue, owner).await)
                .clone(),
        }
    }
}

/// Checks the three dependencies at the same time.
async fn check_all(
    reader: &PgPool,
    ready_queue: &ReadyQueue,
    owner: &OwnershipChecker,
) -> CheckResult {
    let (postgres, redis, (bucket, usable)) = tokio::join!(
        check("postgres", true, async {
            match database::is_migrated(reader).await {
                Ok(true) => None,
                Ok(false) => Some("migrations are missing: run `platen migrate`"),
                Err(_) => Some("does not answer"),
            }
        }),
        check("redis", false, async {
            let failure = ready_queue.check().await.err()?;
            let failure = RedisFailure::classify(&failure).unwrap_or(RedisFailure::Other);
            Some(failure.explanation())
        }),
        check_bucket(owner),
    );
    CheckResult {
        at: Instant::now(),
        usable: usable && postgres.problem.is_none(),
        dependencies: vec![postgres, redis, bucket],
    }
}

/// Checks the bucket. Also returns whether it is usable, which means that files may be written to it. They may not while the bucket
/// belongs to another database or lacks its marker. A bucket that does not answer counts as usable, because it may become available
/// again, and requests without files go on.
pub async fn check_bucket(owner: &OwnershipChecker) -> (Dependency, bool) {
    let mut usable = true;
    let mut bucket = check("bucket", false, async {
        match owner.check().await {
            Ok(ownership) => {
                usable = ownership.is_usable();
                ownership.problem()
            }
            Err(_) => Some("does not answer, or Postgres does not"),
        }
    })
    .await;
    // Requests are refused only because of a bucket that is not usable, so only then is the bucket reported as required.
    bucket.required = !usable;
    (bucket, usable)
}

/// Runs one check, within [`CHECK_TIMEOUT`], and measures how long it takes.
async fn check(
    name: &'static str,
    required: bool,
    check: impl Future<Output = Option<&'static str>>,
) -> Dependency {
    let started = Instant::now();
    let problem = tokio::time::timeout(CHECK_TIMEOUT, check)
        .await
        .unwrap_or(Some("does not answer in time"));
    Dependency {
        name,
        required,
        problem,
        latency_ms: started.elapsed().as_secs_f64() * 1000.0,
    }
}
