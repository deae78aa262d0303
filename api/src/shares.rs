//! Fair shares: what one tenant may take at once of what all requests share. The rest of its requests wait in a queue of the
//! tenant's own, in this process, so another tenant's request finds a free connection however many of them there are.
//!
//! A request that locks the tenant's wallet takes a turn first: one transaction holds the lock, the next stands ready behind it, and all
//! others wait here, without a connection to Postgres. A queue is bounded in length and in time; beyond that the answer is 503.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::id::TenantId;
use common::telemetry::{API_OVERLOADED, API_WAITING};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::{Code, Problem};

/// Connections to Postgres that one tenant's requests hold at once: a quarter of all.
pub const CONNECTIONS: usize = 4;
/// Transactions of one tenant that lock its wallet or wait for that lock: one works, the next is ready when it commits.
const WALLET_PERMITS: usize = 2;
/// Keys that are looked up at once for whoever shows the same one.
const AUTHENTICATIONS: usize = 2;
/// Requests of one tenant that wait for the end of a job.
pub const WAITERS: usize = 200;
/// Requests of one tenant that wait for a turn, whatever they wait for.
const QUEUE: usize = 2_000;
/// The longest wait for a connection or for the wallet, and for what takes longer: memory, and a place to render at.
const MAX_WAIT: Duration = Duration::from_secs(10);
pub const MAX_UPLOAD_WAIT: Duration = Duration::from_secs(20);
/// As many shares are kept while nobody uses them; they are made anew when they are needed.
const MAX_IDLE_SHARES: usize = 1_000;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Connections,
    Wallet,
    Bodies,
    Pictures,
    Downloads,
}

impl Pool {
    const ALL: [Self; 5] = [
        Self::Connections,
        Self::Wallet,
        Self::Bodies,
        Self::Pictures,
        Self::Downloads,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Wallet => "wallet",
            Self::Bodies => "bodies",
            Self::Pictures => "pictures",
            Self::Downloads => "downloads",
        }
    }

    fn longest(self) -> Duration {
        match self {
            Self::Connections | Self::Wallet => MAX_WAIT,
            Self::Bodies | Self::Pictures | Self::Downloads => MAX_UPLOAD_WAIT,
        }
    }

    /// The answer to a request whose turn did not come.
    pub fn overloaded(self) -> Problem {
        API_OVERLOADED.with_label_values(&[self.as_str()]).inc();
        let why = match self {
            Self::Connections | Self::Wallet => "Many of your other requests are still under way.",
            Self::Bodies => "There is no memory for a large body at the moment.",
            Self::Pictures => "Many pictures are being read at the moment.",
            Self::Downloads => "Many files are being downloaded at the moment.",
        };
        Problem::new(
            Code::Overloaded,
            format!("{why} {}", Code::Overloaded.advice()),
        )
    }
}

/// Whose share it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Tenant(TenantId),
    /// Whoever shows the key with this public part; whether it is good is not known yet.
    Key(String),
    /// Operators, and whoever holds a link.
    Nobody,
}

/// The shares of all tenants. Clones are the same.
#[derive(Clone)]
pub struct Shares {
    all: Arc<Mutex<HashMap<Whose, Arc<Share>>>>,
    /// Pictures of one tenant that are rendered at once.
    pictures: usize,
    /// KiB of bodies that one tenant may hold.
    bodies: usize,
}

/// What one tenant may take, and how many of its requests wait.
pub struct Share {
    connections: Arc<Semaphore>,
    wallet: Arc<Semaphore>,
    authentications: Arc<Semaphore>,
    waiters: Arc<Semaphore>,
    pictures: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    /// KiB of all bodies.
    body_kib: usize,
    queued: AtomicUsize,
}

impl Shares {
    /// `places` pictures are rendered at once, and `bodies` bytes may be held, of all tenants together: one has half.
    pub fn new(places: usize, bodies: usize) -> Self {
        // Told as 0 from the start: an alert needs to see a count grow.
        for pool in Pool::ALL {
            API_WAITING.with_label_values(&[pool.as_str()]);
            API_OVERLOADED.with_label_values(&[pool.as_str()]);
        }
        Self {
            all: Arc::default(),
            pictures: (places / 2).max(1),
            bodies: (bodies / 1024 / 2).max(1),
        }
    }

    pub fn of(&self, tenant: TenantId) -> Arc<Share> {
        self.get(Whose::Tenant(tenant))
    }

    /// The share of a request, whose tenant is known where it has one.
    pub fn of_some(&self, tenant: Option<TenantId>) -> Arc<Share> {
        self.get(tenant.map_or(Whose::Nobody, Whose::Tenant))
    }

    /// A turn to look a key up.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn authentication(&self, key: &str) -> Result<OwnedSemaphorePermit, Problem> {
        let share = self.get(Whose::Key(key.to_owned()));
        share
            .acquire(&share.authentications, 1, Pool::Connections)
            .await
    }

    fn get(&self, whose: Whose) -> Arc<Share> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = all.get(&whose) {
            return Arc::clone(share);
        }
        if all.len() >= MAX_IDLE_SHARES {
            all.retain(|_, share| Arc::strong_count(share) > 1 || share.is_in_use());
        }
        let share = Arc::new(Share::new(self.pictures, self.bodies));
        all.insert(whose, Arc::clone(&share));
        share
    }
}

impl Share {
    fn new(pictures: usize, bodies: usize) -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self {
            connections: of(CONNECTIONS),
            wallet: of(WALLET_PERMITS),
            authentications: of(AUTHENTICATIONS),
            waiters: of(WAITERS),
            pictures: of(pictures),
            bodies: of(bodies),
            body_kib: bodies,
            queued: AtomicUsize::new(0),
        }
    }

    /// Permits live on their own, after the request let go of the share.
    fn is_in_use(&self) -> bool {
        self.connections.available_permits() < CONNECTIONS
            || self.wallet.available_permits() < WALLET_PERMITS
            || self.authentications.available_permits() < AUTHENTICATIONS
            || self.waiters.available_permits() < WAITERS
            || self.bodies.available_permits() < self.body_kib
            || Arc::strong_count(&self.pictures) > 1
    }

    /// The right to one connection of the pool, as soon as this tenant has fewer than its share.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn connection(&self, pool: &PgPool) -> Result<Connection, Problem> {
        self.connection_with(pool, None).await
    }

    /// The same, for a transaction that locks the tenant's wallet.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn wallet(&self, pool: &PgPool) -> Result<Connection, Problem> {
        let turn = self.acquire(&self.wallet, 1, Pool::Wallet).await?;
        self.connection_with(pool, Some(turn)).await
    }

    async fn connection_with(
        &self,
        pool: &PgPool,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Connection, Problem> {
        let place = self
            .acquire(&self.connections, 1, Pool::Connections)
            .await?;
        Ok(Connection {
            pool: pool.clone(),
            _held: (place, turn),
        })
    }

    /// The right to wait for the end of a job; `None`: as many as may of this tenant do.
    pub fn waiter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiters).try_acquire_owned().ok()
    }

    /// The right to have a picture rendered.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn picture(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.acquire(&self.pictures, 1, Pool::Pictures).await
    }

    /// The right to hold so many KiB of bodies, of which `held` are held already; no more than the whole share is ever waited for.
    ///
    /// # Errors
    /// [`Code::Overloaded`]
    pub async fn body(&self, kib: usize, held: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let kib = kib.min(self.body_kib.saturating_sub(held));
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        self.acquire(&self.bodies, kib, Pool::Bodies).await
    }

    async fn acquire(
        &self,
        of: &Arc<Semaphore>,
        permits: u32,
        pool: Pool,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        if let Ok(turn) = Arc::clone(of).try_acquire_many_owned(permits) {
            return Ok(turn);
        }
        let queued = Queued::behind(&self.queued).ok_or_else(|| pool.overloaded())?;
        let _waiting = Waiting::of(pool);
        let turn = Arc::clone(of).acquire_many_owned(permits);
        let turn = timeout(pool.longest(), turn).await;
        drop(queued);
        match turn {
            Ok(turn) => Ok(turn.expect("the semaphore is never closed")),
            Err(_) => Err(pool.overloaded()),
        }
    }
}

/// The right to one connection of the pool that it leads to, until it is dropped.
pub struct Connection {
    pool: PgPool,
    _held: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Deref for Connection {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

/// One request more in a tenant's queue, until it is dropped.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    /// `None`: the queue is as long as it may be.
    fn behind(queue: &'a AtomicUsize) -> Option<Self> {
        let queued = Self(queue);
        (queue.fetch_add(1, Ordering::Relaxed) < QUEUE).then_some(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request more that waits, in the metrics, until it is dropped.
pub struct Waiting(Pool);

impl Waiting {
    pub fn of(pool: Pool) -> Self {
        API_WAITING.with_label_values(&[pool.as_str()]).inc();
        Self(pool)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        API_WAITING.with_label_values(&[self.0.as_str()]).dec();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_tenant_waits_behind_itself_only() {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .connect_lazy("postgres://nobody@127.0.0.1:1/nothing")
            .unwrap();
        let shares = Shares::new(2, 1 << 20);
        let (crowd, other) = (shares.of(TenantId::new()), shares.of(TenantId::new()));
        let mut held = Vec::new();
        for _ in 0..WALLET_PERMITS {
            held.push(crowd.wallet(&pool).await.unwrap());
        }
        assert!(crowd.wallet(&pool).now_or_never().is_none());
        // Whoever reads only need not wait for those who wait for the wallet.
        for _ in WALLET_PERMITS..CONNECTIONS {
            held.push(crowd.connection(&pool).await.unwrap());
        }
        assert!(crowd.connection(&pool).now_or_never().is_none());
        assert!(other.wallet(&pool).now_or_never().is_some());
        held.clear();
        assert!(crowd.wallet(&pool).now_or_never().is_some());

        let picture = crowd.picture().await.unwrap();
        assert!(crowd.picture().now_or_never().is_none());
        assert!(other.picture().now_or_never().is_some());
        drop(picture);
        // More than the share there is, alone.
        let body = crowd.body(10_000, 0).await.unwrap();
        assert_eq!(body.num_permits(), 512);
        assert!(crowd.body(1, 0).now_or_never().is_none());
        assert!(other.body(1, 0).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_queue_is_bounded() {
        let shares = Shares::new(2, 1 << 20);
        let share = shares.of(TenantId::new());
        let _picture = share.picture().await.unwrap();
        assert!(share.picture().now_or_never().is_none());
        let full: Vec<_> = std::iter::from_fn(|| Queued::behind(&share.queued)).collect();
        assert_eq!(full.len(), QUEUE);
        let refused = share.picture().now_or_never().unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
    }

    #[test]
    fn shares_that_nobody_uses_are_forgotten() {
        let shares = Shares::new(2, 1 << 20);
        let used = shares.of(TenantId::new());
        let _waits = used.waiter().unwrap();
        drop(used);
        for _ in 0..MAX_IDLE_SHARES * 3 {
            shares.of(TenantId::new());
        }
        let all = shares.all.lock().unwrap();
        assert!(all.len() <= MAX_IDLE_SHARES);
        assert_eq!(all.values().filter(|share| share.is_in_use()).count(), 1);
    }
}
