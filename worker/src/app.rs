//! What every task of a worker works with, and the worker's start.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use common::bucket::Bucket;
use common::catalog::Catalog;
use common::config::{Config, ConfigError, Timing};
use common::database::{self, Role};
use common::queue::Ring;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::imaging::Darkroom;
use crate::leases::Leases;
use crate::providers::Providers;

/// Handles of a worker process.
pub struct App {
    /// New at each start, so that two workers are never taken for one.
    pub name: String,
    pub pool: PgPool,
    pub ring: Ring,
    pub bucket: Bucket,
    pub catalog: Arc<Catalog>,
    pub providers: Providers,
    pub darkroom: Darkroom,
    pub leases: Leases,
    pub timing: Timing,
    /// How many jobs are worked on at once.
    pub slots: usize,
    pub free_slots: Arc<Semaphore>,
    /// Whether the last top-up found no Redis.
    pub redis_away: AtomicBool,
    /// What shutdown waits for.
    pub tasks: TaskTracker,
}

impl App {
    /// Connects to everything the configuration names. Redis may be away; Postgres and a provider must be there.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let vertex = config.vertex.as_ref().ok_or(ConfigError::Missing {
            name: "GOOGLE_CLOUD_PROJECT",
            needed: "the project whose Vertex AI this worker calls; only `platen up` may start a fake in its place",
        })?;
        let redis_url = config.redis_url()?.expose_secret();
        // Every slot may want a connection, and the schedules want theirs.
        let connections = u32::try_from(config.slots).unwrap_or(u32::MAX).clamp(4, 28) + 4;
        Ok(Self {
            name: format!("{}-{}", host(), common::id::RequestId::new().0.simple()),
            pool: database::connect(
                config.database_url()?.expose_secret(),
                Role::Worker,
                connections,
            )
            .await
            .context("cannot reach Postgres")?,
            ring: Ring::new(redis_url, &config.queue).context("REDIS_URL is not usable")?,
            bucket: Bucket::local(config.bucket(), config.signing_key()?.clone())?,
            catalog: Arc::new(Catalog::load(config.models.as_deref())?),
            providers: Providers::new(vertex)?,
            darkroom: Darkroom::new(
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ),
            leases: Leases::default(),
            timing: config.timing.clone(),
            slots: config.slots,
            free_slots: Arc::new(Semaphore::new(config.slots)),
            redis_away: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        })
    }
}

fn host() -> String {
    std::fs::read_to_string("/etc/hostname")
        .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
}
