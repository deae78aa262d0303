//! What every task of a worker works with, and the worker's start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use anyhow::Context;
use common::bucket::Bucket;
use common::catalog::Catalog;
use common::config::{Config, Timing, Unpaid};
use common::database::{self, DatabaseRole};
use common::job::Capacity;
use common::memory::Memory;
use common::outcome::Class;
use common::ownership::Owner;
use common::queue::{Lanes, ReadyQueue, lanes};
use common::telemetry;
use imaging::RenderPool;
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::leases::Leases;
use crate::memory;
use crate::providers::Providers;
use crate::slots::{self, Slots};
use crate::spool::Spool;
use crate::tasks::reap::Contact;

/// Handles of a worker process.
pub struct App {
    /// New at each start, so that two workers are never taken for one.
    pub name: String,
    pub pool: PgPool,
    /// Where a reader connects, for what concerns all tenants.
    pub reader_url: SecretString,
    /// What anchors are signed with.
    pub signing_key: SecretString,
    pub ready_queue: ReadyQueue,
    pub lanes: Lanes,
    open: RwLock<Capacity>,
    pub spool: Spool,
    pub catalog: Arc<Catalog>,
    pub providers: Providers,
    pub render_pool: RenderPool,
    pub memory: Memory,
    pub leases: Leases,
    pub timing: Timing,
    /// What a tenant may use that it does not pay for.
    pub unpaid: Unpaid,
    /// How many jobs are worked on at once, and whose.
    pub slots: Slots,
    /// Lanes that were closed at the last look, and by what.
    pub unavailable_lanes: Mutex<BTreeMap<String, Class>>,
    /// Since when top-ups find no Redis.
    pub redis_unavailable_since: Mutex<Option<Instant>>,
    pub started: Instant,
    /// What shutdown waits for.
    pub tasks: TaskTracker,
    /// Cancelled when the worker begins to stop: calls that are under way end, nothing new begins.
    pub stopping: CancellationToken,
    /// When the reaper last heard of the database.
    pub contact: Mutex<Contact>,
}

impl App {
    /// Connects to everything the configuration names. Redis may be away; Postgres and what the providers need must
    /// be there.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let catalog = config.catalog()?;
        let places = Slots::new(config.slots, config.tenant_slots_percent);
        let memory = memory::within(config.memory, places.total());
        let providers = Providers::new(&catalog, config, &memory)?;
        let ring =
            ReadyQueue::new(config.redis()?, &config.queue).context("REDIS_URL is not usable")?;
        let bucket = Bucket::open(&config.bucket()?, config.signing_keys()?)
            .context("PLATEN_BUCKET is not usable")?;
        for model in catalog.models() {
            if model.timeout >= config.timing.grace {
                tracing::warn!(
                    model = model.id,
                    "Its calls may outlast a stop: its timeout is not below the worker's grace"
                );
            }
        }
        let pool = database::connect(
            config.database_url(DatabaseRole::Worker)?.expose_secret(),
            DatabaseRole::Worker,
            connections(config.slots) - READER_CONNECTIONS,
        )
        .await
        .context("cannot reach Postgres")?;
        telemetry::process::watch("worker", &pool);
        let owner = Owner::new(pool.clone(), bucket.clone());
        owner
            .at_start()
            .await
            .context("the worker does not start")?;
        Ok(Self {
            name: format!("{}-{}", host(), common::id::RequestId::new().0.simple()),
            pool,
            reader_url: config.database_url(DatabaseRole::Reader)?.clone(),
            signing_key: config.signing_key()?.clone(),
            lanes: Lanes::new(&ring, config.timing.lanes),
            ready_queue: ring,
            open: RwLock::new(lanes::available(&catalog, &[])),
            spool: Spool::new(bucket, owner, config.spool),
            providers,
            catalog: Arc::new(catalog),
            render_pool: RenderPool::new(imaging::cores()),
            memory,
            leases: Leases::default(),
            timing: config.timing.clone(),
            unpaid: config.unpaid,
            slots: places,
            unavailable_lanes: Mutex::default(),
            redis_unavailable_since: Mutex::default(),
            started: Instant::now(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            contact: Mutex::default(),
        })
    }

    /// Whose the bucket is.
    pub fn owner(&self) -> &Owner {
        self.spool.owner()
    }

    /// Starts nothing until then: takes the slots, as they become free, so that what is popped is popped by others, and nobody
    /// has to ask.
    pub async fn start_nothing_until(&self, until: impl Future<Output = ()>) {
        let every = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let Slots {
            slots,
            free_slots,
            reserve,
            free_reserve,
            ..
        } = &self.slots;
        let take = async {
            let _taken = tokio::join!(
                free_slots.acquire_many(every(*slots)),
                free_reserve.acquire_many(every(*reserve))
            );
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = take => {}
            () = until => {}
            () = self.stopping.cancelled() => {}
        }
    }

    /// How many jobs of each model may be started, as last seen.
    pub fn capacity(&self) -> Capacity {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn set_capacity(&self, open: Capacity) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = open;
    }
}

/// Connections that one worker takes at most: every slot may want one, and the schedules want theirs.
pub fn connections(slots: usize) -> u32 {
    let places = slots + slots::reserve(slots);
    u32::try_from(places).unwrap_or(u32::MAX).clamp(4, 28) + 4 + READER_CONNECTIONS
}

/// One of them, now and then: for what concerns all tenants.
const READER_CONNECTIONS: u32 = 1;

fn host() -> String {
    std::fs::read_to_string("/etc/hostname")
        .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
}
