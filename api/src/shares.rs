//! Fair shares: how much one tenant's requests may use at once of connections, memory and render slots. The tenant's other requests
//! wait in a separate queue in this process. So requests of other tenants find free connections, however many requests one tenant
//! sends.
//!
//! A request that locks the tenant's wallet first waits for a wallet permit. One transaction holds the lock, one waits for it in
//! Postgres, and all others wait here, without a connection. Queues are limited in length and time. Beyond these limits the answer
//! is 503.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::id::TenantId;
use sqlx::PgPool;
use telemetry::{API_OVERLOADED, API_WAITING};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::{Code, Problem};

/// The most Postgres connections one tenant's requests hold at once: a quarter of all.
pub const CONNECTIONS: usize = 4;
/// The most transactions of one tenant that hold or wait for the lock of its wallet: one works, and the next is ready when it commits.
const WALLET_PERMITS: usize = 2;
/// The most lookups of the same API key at once.
const AUTHENTICATIONS: usize = 2;
/// The most requests of one tenant that wait for the end of a job.
pub const WAITERS: usize = 200;
/// The most requests of one tenant that are queued for a permit, of all kinds together.
const MAX_QUEUED: usize = 2_000;
/// The longest wait for a connection or for the wallet.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The longest wait for memory or for a render slot, which are held longer than connections.
pub const MAX_UPLOAD_WAIT: Duration = Duration::from_secs(20);
/// If there are this many shares, those that nobody uses are dropped before another one is created. A dropped share is created
/// again when it is needed.
const MAX_IDLE_SHARES: usize = 1_000;

/// What a request can wait for. Metrics call it a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Resource {
    /// Postgres connections.
    Connections,
    /// The lock of a tenant's wallet.
    Wallet,
    /// Memory for bodies.
    Bodies,
    /// Render slots and memory for images.
    // The label is older than the word `images`. Dashboards ask for it.
    #[strum(serialize = "pictures")]
    Images,
    /// Memory for downloads.
    Downloads,
}

impl Resource {
    const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label `pool` in metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The longest wait for it.
    fn max_wait(self) -> Duration {
        match self {
            Self::Connections | Self::Wallet => MAX_WAIT,
            Self::Bodies | Self::Images | Self::Downloads => MAX_UPLOAD_WAIT,
        }
    }

    /// Counts a request that waited too long or could not be queued, and returns the problem to answer it with.
    pub fn overloaded(self) -> Problem {
        API_OVERLOADED.with_label_values(&[self.as_str()]).inc();
        let why = match self {
            Self::Connections | Self::Wallet => "Many of your other requests are still under way.",
            Self::Bodies => "There is no memory for a large body at the moment.",
            Self::Images => "Many images are being processed at the moment.",
            Self::Downloads => "Many files are being downloaded at the moment.",
        };
        Problem::new(
            Code::Overloaded,
            format!("{why} {}", Code::Overloaded.advice()),
        )
    }
}

/// The owner of a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ShareOwner {
    Tenant(TenantId),
    /// Requests that send the API key with this public part. Whether the key is valid is not known yet.
    Key(String),
    /// Operators, and requests without a key.
    Nobody,
}

/// The shares of all tenants. Clones share them.
#[derive(Clone)]
pub struct Shares {
    all: Arc<Mutex<HashMap<ShareOwner, Arc<Share>>>>,
    /// The most images of one tenant that are rendered at once.
    images: usize,
    /// The most memory for the bodies of one tenant, in KiB.
    body_kib: usize,
}

/// The permits of one tenant, and the number of its requests that wait for one.
pub struct Share {
    connections: Arc<Semaphore>,
    wallet: Arc<Semaphore>,
    authentications: Arc<Semaphore>,
    waiters: Arc<Semaphore>,
    images: Arc<Semaphore>,
    /// One permit for each KiB.
    bodies: Arc<Semaphore>,
    /// How many permits `bodies` has in all.
    body_kib: usize,
    /// How many requests wait for a permit, of all kinds together.
    queued: AtomicUsize,
}

impl Shares {
    /// Gives each tenant at most half of `render_slots` and half of `body_bytes`, which are the totals of all tenants.
    pub fn new(render_slots: usize, body_bytes: usize) -> Self {
        // Counters are exported as 0 from the start: an alert needs to see a count grow.
        for &resource in Resource::ALL {
            API_WAITING.with_label_values(&[resource.as_str()]);
            API_OVERLOADED.with_label_values(&[resource.as_str()]);
        }
        Self {
            all: Arc::default(),
            images: (render_slots / 2).max(1),
            body_kib: (body_bytes / 1024 / 2).max(1),
        }
    }

    /// The share of a tenant.
    pub fn for_tenant(&self, tenant: TenantId) -> Arc<Share> {
        self.get(ShareOwner::Tenant(tenant))
    }

    /// The share of a tenant, or the share that all requests without a tenant use together.
    pub fn for_tenant_or_nobody(&self, tenant: Option<TenantId>) -> Arc<Share> {
        self.get(tenant.map_or(ShareOwner::Nobody, ShareOwner::Tenant))
    }

    /// Waits for a permit to look up the API key with this public part.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if the wait took too long or too many requests wait already.
    pub async fn authentication(&self, key_id: &str) -> Result<OwnedSemaphorePermit, Problem> {
        let share = self.get(ShareOwner::Key(key_id.to_owned()));
        share
            .acquire(&share.authentications, 1, Resource::Connections)
            .await
    }

    fn get(&self, owner: ShareOwner) -> Arc<Share> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = all.get(&owner) {
            return Arc::clone(share);
        }
        if all.len() >= MAX_IDLE_SHARES {
            all.retain(|_, share| Arc::strong_count(share) > 1 || share.is_in_use());
        }
        let share = Arc::new(Share::new(self.images, self.body_kib));
        all.insert(owner, Arc::clone(&share));
        share
    }
}

impl Share {
    fn new(images: usize, body_kib: usize) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            connections: semaphore(CONNECTIONS),
            wallet: semaphore(WALLET_PERMITS),
            authentications: semaphore(AUTHENTICATIONS),
            waiters: semaphore(WAITERS),
            images: semaphore(images),
            bodies: semaphore(body_kib),
            body_kib,
            queued: AtomicUsize::new(0),
        }
    }

    /// Whether permits of this share are in use. A permit may live longer than its request's reference to the share.
    fn is_in_use(&self) -> bool {
        self.connections.available_permits() < CONNECTIONS
            || self.wallet.available_permits() < WALLET_PERMITS
            || self.authentications.available_permits() < AUTHENTICATIONS
            || self.waiters.available_permits() < WAITERS
            || self.bodies.available_permits() < self.body_kib
            // Each permit has a reference to its semaphore. How many permits for images there are in all is not known here.
            || Arc::strong_count(&self.images) > 1
    }

    /// Waits for a permit to use one connection of the pool.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if the wait took too long or too many requests wait already.
    pub async fn connection(&self, pool: &PgPool) -> Result<Connection, Problem> {
        self.connection_with(pool, None).await
    }

    /// Does the same as [`Self::connection`], for a transaction that locks the tenant's wallet: waits for a wallet permit first.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if the wait took too long or too many requests wait already.
    pub async fn wallet(&self, pool: &PgPool) -> Result<Connection, Problem> {
        // The wallet comes first and the connection second, because a request that waits for the wallet must not occupy a
        // connection.
        let wallet_permit = self.acquire(&self.wallet, 1, Resource::Wallet).await?;
        self.connection_with(pool, Some(wallet_permit)).await
    }

    /// Waits for a permit to use one connection, which is released together with `wallet_permit`.
    async fn connection_with(
        &self,
        pool: &PgPool,
        wallet_permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Connection, Problem> {
        let connection_permit = self
            .acquire(&self.connections, 1, Resource::Connections)
            .await?;
        Ok(Connection {
            pool: pool.clone(),
            _permits: (connection_permit, wallet_permit),
        })
    }

    /// Counts one more request that waits for `resource`, in the tenant's queue and in the metrics, until the result is dropped.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if too many requests wait already.
    pub fn enter_queue(self: &Arc<Self>, resource: Resource) -> Result<Queued, Problem> {
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let queued = Queued {
            share: Arc::clone(self),
            _waiting: WaitingGuard::new(resource),
        };
        // If the queue is full, dropping the entry undoes the count.
        if before < MAX_QUEUED {
            Ok(queued)
        } else {
            Err(resource.overloaded())
        }
    }

    /// A permit to wait for the end of a job; `None` if [`WAITERS`] requests of this tenant already wait.
    pub fn waiter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiters).try_acquire_owned().ok()
    }

    /// Waits for a permit to have an image rendered.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if the wait took too long or too many requests wait already.
    pub async fn image(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.acquire(&self.images, 1, Resource::Images).await
    }

    /// Waits for permits for `kib` more KiB of a body that has `held_kib` KiB already. One body never waits for more than the whole
    /// share. What a larger body needs beyond the share needs no permit.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if the wait took too long or too many requests wait already.
    pub async fn body(&self, kib: usize, held_kib: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let kib = kib.min(self.body_kib.saturating_sub(held_kib));
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        self.acquire(&self.bodies, kib, Resource::Bodies).await
    }

    /// Takes permits of a semaphore of this share. If they are not free, the request is queued, and counted as waiting.
    async fn acquire(
        &self,
        semaphore: &Arc<Semaphore>,
        permit_count: u32,
        resource: Resource,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        if let Ok(permit) = Arc::clone(semaphore).try_acquire_many_owned(permit_count) {
            return Ok(permit);
        }
        let queued = QueueEntry::enter(&self.queued).ok_or_else(|| resource.overloaded())?;
        let _waiting = WaitingGuard::new(resource);
        let permit = Arc::clone(semaphore).acquire_many_owned(permit_count);
        let permit = timeout(resource.max_wait(), permit).await;
        drop(queued);
        match permit {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(resource.overloaded()),
        }
    }
}

/// A permit to use one connection of the pool, until it is dropped. It dereferences to the pool.
pub struct Connection {
    pool: PgPool,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Deref for Connection {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

/// Counts a request in its tenant's queue, until this value is dropped. It borrows the count; [`Queued`] owns the share.
struct QueueEntry<'a>(&'a AtomicUsize);

impl<'a> QueueEntry<'a> {
    /// Enters the queue. Returns `None` if the queue is full. The new value is then dropped at once, which undoes the count.
    fn enter(queue: &'a AtomicUsize) -> Option<Self> {
        let queued = Self(queue);
        (queue.fetch_add(1, Ordering::Relaxed) < MAX_QUEUED).then_some(queued)
    }
}

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request in its tenant's queue and in the metrics, until this value is dropped.
pub struct Queued {
    share: Arc<Share>,
    _waiting: WaitingGuard,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.share.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request as waiting in the metrics, until this value is dropped.
pub struct WaitingGuard(Resource);

impl WaitingGuard {
    /// Counts one more request that waits for `resource`.
    pub fn new(resource: Resource) -> Self {
        API_WAITING.with_label_values(&[resource.as_str()]).inc();
        Self(resource)
    }
}

impl Drop for WaitingGuard {
    fn drop(&mut self) {
        API_WAITING.with_label_values(&[self.0.as_str()]).dec();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn alerts_find_each_pool_by_its_label() {
        let labels: Vec<_> = Resource::ALL
            .iter()
            .map(|resource| resource.as_str())
            .collect();
        let known = ["connections", "wallet", "bodies", "pictures", "downloads"];
        assert_eq!(labels, known);
    }

    #[tokio::test]
    async fn a_tenant_waits_only_for_its_own_requests() {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .connect_lazy("postgres://nobody@127.0.0.1:1/nothing")
            .unwrap();
        let shares = Shares::new(2, 1 << 20);
        let (crowd, other) = (
            shares.for_tenant(TenantId::new()),
            shares.for_tenant(TenantId::new()),
        );
        let mut held = Vec::new();
        for _ in 0..WALLET_PERMITS {
            held.push(crowd.wallet(&pool).await.unwrap());
        }
        assert!(crowd.wallet(&pool).now_or_never().is_none());
        // Requests that only read do not wait for those that wait for the wallet.
        for _ in WALLET_PERMITS..CONNECTIONS {
            held.push(crowd.connection(&pool).await.unwrap());
        }
        assert!(crowd.connection(&pool).now_or_never().is_none());
        assert!(other.wallet(&pool).now_or_never().is_some());
        held.clear();
        assert!(crowd.wallet(&pool).now_or_never().is_some());

        let image = crowd.image().await.unwrap();
        assert!(crowd.image().now_or_never().is_none());
        assert!(other.image().now_or_never().is_some());
        drop(image);
        // A body larger than the share gets the whole share.
        let body = crowd.body(10_000, 0).await.unwrap();
        assert_eq!(body.num_permits(), 512);
        assert!(crowd.body(1, 0).now_or_never().is_none());
        assert!(other.body(1, 0).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_tenants_queue_is_bounded() {
        let shares = Shares::new(2, 1 << 20);
        let share = shares.for_tenant(TenantId::new());
        let _permit = share.image().await.unwrap();
        assert!(share.image().now_or_never().is_none());
        let full: Vec<_> = std::iter::from_fn(|| QueueEntry::enter(&share.queued)).collect();
        assert_eq!(full.len(), MAX_QUEUED);
        let refused = share.image().now_or_never().unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
    }

    #[test]
    fn unused_shares_are_dropped() {
        let shares = Shares::new(2, 1 << 20);
        let used = shares.for_tenant(TenantId::new());
        let _waits = used.waiter().unwrap();
        drop(used);
        for _ in 0..MAX_IDLE_SHARES * 3 {
            shares.for_tenant(TenantId::new());
        }
        let all = shares.all.lock().unwrap();
        assert!(all.len() <= MAX_IDLE_SHARES);
        assert_eq!(all.values().filter(|share| share.is_in_use()).count(), 1);
    }
}
