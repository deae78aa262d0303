//! The shared state of a worker process, and how it is built at the start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use anyhow::Context;
use bucket::Bucket;
use common::config::{Config, Timing, UnbilledLimits};
use common::dispatch::SearchMarks;
use common::files::ownership::OwnershipChecker;
use common::memory::Memory;
use domain::catalog::Catalog;
use domain::job::Capacity;
use domain::outcome::Class;
use imaging::RenderPool;
use queue::{Lanes, ReadyQueue};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use storage::database::{self, DatabaseRole};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::database_contact::DatabaseContact;
use crate::lane_waiters::LaneWaiters;
use crate::leases::Leases;
use crate::low_water::LowWater;
use crate::memory;
use crate::providers::Providers;
use crate::settlements::Settlements;
use crate::slots::{self, Slots};
use crate::spool::Spool;

/// The shared state of a worker process; every task gets it.
pub struct App {
    /// The worker's name: the host and a new id at each start, so that no two workers share a name.
    pub name: String,
    /// Connections to Postgres in the worker's role. In most tables this role sees one tenant at a
    /// time.
    pub pool: PgPool,
    /// The URL of Postgres in the reader's role, for tasks that concern all tenants.
    pub reader_url: SecretString,
    /// The key that anchors of the ledger are signed with.
    pub signing_key: SecretString,
    /// The queue of job ids in Redis.
    pub ready_queue: ReadyQueue,
    /// Rate limits and circuit breakers of the lanes, shared by all workers.
    pub lanes: Lanes,
    /// The attempts of this worker that wait for a full lane.
    pub lane_waiters: Arc<LaneWaiters>,
    /// How many jobs of each model may start, as the dispatcher last read from the lanes.
    capacity: RwLock<Capacity>,
    /// Where this worker's searches for due jobs begin.
    pub search_marks: SearchMarks,
    /// Where this worker's searches for expired leases, and for lines to fold, begin.
    pub(crate) low_water: LowWater,
    /// The bucket, and the results that wait for it.
    pub spool: Spool,
    /// The models and providers that can be used.
    pub catalog: Arc<Catalog>,
    /// The clients of the providers.
    pub providers: Providers,
    /// The threads that decode, resize and encode images.
    pub render_pool: RenderPool,
    /// The memory that images may take.
    pub memory: Memory,
    /// Further memory that only rendering may take.
    pub(crate) render_reserve: Memory,
    /// The turns of attempts that read a stored original before there is memory to render it.
    pub(crate) read_ahead_turns: Semaphore,
    /// The leases this worker holds.
    pub leases: Leases,
    /// The jobs that wait to be settled together with others of their tenant.
    pub(crate) settlements: Settlements,
    /// How long things may take, and how often schedules run.
    pub timing: Timing,
    /// Limits on what tenants may use without paying.
    pub unbilled_limits: UnbilledLimits,
    /// How many jobs run at once, and whose they are.
    pub slots: Slots,
    /// The lanes whose circuit breaker was open or half-open at the last check, and the class that
    /// opened each.
    pub unavailable_lanes: Mutex<BTreeMap<String, Class>>,
    /// Since when Redis has not answered the dispatcher; `None` while it answers.
    pub redis_unavailable_since: Mutex<Option<Instant>>,
    /// When this worker started.
    pub started: Instant,
    /// The tasks that shutdown waits for.
    pub tasks: TaskTracker,
    /// Canceled when the worker begins to stop. Running calls may end after that, but nothing new
    /// begins.
    pub stop_signal: CancellationToken,
    /// When this worker last reached Postgres, and whether expired leases may be reaped yet.
    pub(crate) database_contact: Mutex<DatabaseContact>,
}

impl App {
    /// Builds the state from the configuration, connects to Postgres and checks the bucket's
    /// marker. Redis and the bucket may be unavailable at the start. Postgres must be reachable,
    /// and the providers' credentials must be there.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is missing or unusable, if Postgres cannot be reached, or if
    /// the bucket belongs to another installation or lacks its marker.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let catalog = config.catalog()?;
        let slots = Slots::new(config.slots, config.tenant_slots_percent);
        let memory = memory::within(config.memory, slots.total());
        let providers = Providers::new(&catalog, config, &memory)?;
        let ready_queue =
            ReadyQueue::new(config.redis()?, &config.queue).context("REDIS_URL is not usable")?;
        let bucket = Bucket::open(&config.bucket()?, config.signing_keys()?)
            .context("PLATEN_BUCKET is not usable")?;
        for model in catalog.models() {
            if model.timeout >= config.timing.grace {
                tracing::warn!(
                    model = model.id,
                    "A stop may cut off this model's calls, because the model's timeout is not below the worker's grace period"
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
        database::report_connections("worker", &pool);
        let owner = OwnershipChecker::new(pool.clone(), bucket.clone());
        owner
            .check_at_start()
            .await
            .context("the worker does not start")?;
        Ok(Self {
            name: format!("{}-{}", host(), domain::id::RequestId::new().0.simple()),
            pool,
            reader_url: config.database_url(DatabaseRole::Reader)?.clone(),
            signing_key: config.signing_key()?.clone(),
            lanes: Lanes::new(&ready_queue, config.timing.lanes, &catalog),
            lane_waiters: Arc::default(),
            ready_queue,
            // The state of no lane is known yet, so no model is limited.
            capacity: RwLock::new(domain::lanes::available(&catalog, &[])),
            search_marks: SearchMarks::default(),
            low_water: LowWater::default(),
            spool: Spool::new(bucket, owner, config.spool, config.spool_disk),
            providers,
            catalog: Arc::new(catalog),
            render_pool: RenderPool::new(imaging::cores()),
            read_ahead_turns: memory::read_ahead_turns(&memory),
            memory,
            render_reserve: memory::render_reserve(),
            leases: Leases::default(),
            settlements: Settlements::default(),
            timing: config.timing.clone(),
            unbilled_limits: config.unbilled_limits,
            slots,
            unavailable_lanes: Mutex::default(),
            redis_unavailable_since: Mutex::default(),
            started: Instant::now(),
            tasks: TaskTracker::new(),
            stop_signal: CancellationToken::new(),
            database_contact: Mutex::default(),
        })
    }

    /// The check that the bucket belongs to this installation.
    pub fn owner(&self) -> &OwnershipChecker {
        self.spool.owner()
    }

    /// Keeps this worker from starting jobs until `until` ends or the worker stops. Running jobs go
    /// on.
    ///
    /// This function takes the slots and the places of the reserve as they become free. Without a
    /// free slot or place this worker pops nothing from the ready queue, so other workers get the
    /// jobs.
    pub async fn start_no_job_until(&self, until: impl Future<Output = ()>) {
        let permits = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let Slots {
            regular,
            free_regular,
            reserve,
            free_reserve,
            ..
        } = &self.slots;
        let hold_slots = async {
            let _held = tokio::join!(
                free_regular.acquire_many(permits(*regular)),
                free_reserve.acquire_many(permits(*reserve))
            );
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = hold_slots => {}
            () = until => {}
            () = self.stop_signal.cancelled() => {}
        }
    }

    /// How many jobs of each model may start, as the dispatcher last read from the lanes.
    pub fn capacity(&self) -> Capacity {
        self.capacity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces what [`Self::capacity`] returns.
    pub fn set_capacity(&self, capacity: Capacity) {
        *self
            .capacity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = capacity;
    }
}

/// The most connections to Postgres that one worker with this many slots opens: one for each slot
/// and place of the reserve (at least 4, at most 28), four for the schedules, one for the reader.
pub fn connections(slots: usize) -> u32 {
    let jobs = slots + slots::reserve(slots);
    u32::try_from(jobs).unwrap_or(u32::MAX).clamp(4, 28) + 4 + READER_CONNECTIONS
}

/// Connections in the reader's role, opened only while a schedule needs them.
const READER_CONNECTIONS: u32 = 1;

fn host() -> String {
    std::fs::read_to_string("/etc/hostname")
        .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
}
