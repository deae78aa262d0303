//! Metrics of the process itself: version, slots, leases, images in work, Redis and Postgres.

use std::sync::{LazyLock, Mutex, PoisonError};

use prometheus::{HistogramTimer, HistogramVec, IntGauge, IntGaugeVec};
use sqlx::PgPool;

use super::{gauge, histogram, registered};
use crate::queue::Trouble;

/// The version of the program.
static BUILD: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_build_info",
        "The version of the program; always 1.",
        &["version"],
    )
});

/// Starts to time a step of an attempt. Dropping the timer records the time, also after a failure.
pub fn step(name: &str) -> HistogramTimer {
    STEP_SECONDS.with_label_values(&[name]).start_timer()
}

/// Seconds that a step of an attempt took, by step.
static STEP_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_step_seconds",
        "Seconds that a step of an attempt took: waiting for inputs and memory, storing originals, rendering and storing images, settling jobs.",
        &["step"],
        &[
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
        ],
    )
});

/// Jobs that this worker runs at once, without its reserve.
pub static SLOTS: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_slots",
        "Jobs that this worker runs at once.",
    ))
});

/// Jobs that it runs now: it has a lease on each.
pub static LEASES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_leases",
        "Jobs that this worker has a lease on.",
    ))
});

/// Size of its reserve: further jobs, for tenants and models that have few slots.
pub static RESERVE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_reserve",
        "Jobs that this worker may run in addition to its slots, for tenants and models that have few slots.",
    ))
});

/// Jobs that it runs in its reserve now; they are leases, too.
pub static RESERVE_LEASES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_reserve_leases",
        "Jobs that this worker runs in its reserve.",
    ))
});

/// Seconds until the first of its leases expires if it is not renewed; a whole lease where it has
/// none.
pub static LEASE_LEFT: LazyLock<prometheus::Gauge> = LazyLock::new(|| {
    registered(prometheus::Gauge::new(
        "platen_worker_lease_left_seconds",
        "Seconds until the first of this worker's leases expires.",
    ))
});

/// Images that are in the render pool or wait for it.
pub static RENDER_POOL: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_render_pool_pictures",
        "Images that are being rendered or wait for it.",
    ))
});

/// Images that the render pool renders at once.
pub static RENDER_POOL_SIZE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_render_pool_size",
        "Images that are rendered at once.",
    ))
});

/// 1 while Redis is unavailable to this process.
static REDIS_UNAVAILABLE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_redis_unavailable",
        "Whether Redis is unavailable to this process.",
    ))
});

/// 1 for the reason why Redis is unavailable, 0 for all others.
static REDIS_TROUBLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_redis_trouble",
        "Why Redis is unavailable to this process.",
        &["reason"],
    )
});

/// Sets the metrics of Redis; `None` where it is available.
pub fn redis(trouble: Option<Trouble>) {
    REDIS_UNAVAILABLE.set(i64::from(trouble.is_some()));
    for one in Trouble::ALL {
        REDIS_TROUBLE
            .with_label_values(&[one.as_str()])
            .set(i64::from(trouble == Some(one)));
    }
}

/// Connections of each pool to Postgres, by state: `used` or `idle`.
static CONNECTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_postgres_connections",
        "Connections of a pool to Postgres, in use and idle.",
        &["pool", "state"],
    )
});

/// The pools of [`watch`].
static POOLS: Mutex<Vec<(&str, PgPool)>> = Mutex::new(Vec::new());

/// Reports the connections of a pool from now on, under this name. A second pool of the same name
/// replaces the first.
pub fn watch(name: &'static str, pool: &PgPool) {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.retain(|(known, _)| *known != name);
    pools.push((name, pool.clone()));
}

/// Updates metrics that are read when they are scraped.
pub(super) fn refresh() {
    BUILD.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, pool) in &*pools {
        let idle = i64::try_from(pool.num_idle()).unwrap_or(i64::MAX);
        let used = i64::from(pool.size()) - idle;
        for (state, connections) in [("idle", idle), ("used", used)] {
            CONNECTIONS
                .with_label_values(&[*name, state])
                .set(connections.max(0));
        }
    }
}
