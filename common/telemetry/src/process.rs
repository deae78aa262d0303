//! How this process stands: what it runs, holds and waits for.

use std::sync::LazyLock;

use prometheus::{HistogramTimer, HistogramVec, IntGauge, IntGaugeVec};

use super::{gauge, histogram, registered};

/// The version that runs.
static BUILD: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_build_info",
        "The version that runs; always 1.",
        &["version"],
    )
});

/// Times a step of an attempt until it is dropped, however that ends.
pub fn step(name: &str) -> HistogramTimer {
    STEP_SECONDS.with_label_values(&[name]).start_timer()
}

/// Seconds a step of an attempt took.
static STEP_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_step_seconds",
        "Seconds a step of an attempt took: inputs and room waited for, originals stored, pictures rendered and stored, jobs settled.",
        &["step"],
        &[
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
        ],
    )
});

/// Jobs a worker works on at once.
pub static SLOTS: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_slots",
        "Jobs this worker works on at once.",
    ))
});

/// Jobs it works on now.
pub static LEASES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_leases",
        "Jobs this worker holds a lease on.",
    ))
});

/// Jobs it works on beside its slots where those are all taken by others.
pub static RESERVE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_reserve",
        "Jobs this worker may work on beside its slots, for tenants and models that have few of them.",
    ))
});

/// Jobs it works on now in its reserve; they are leases, too.
pub static RESERVE_LEASES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_reserve_leases",
        "Jobs this worker works on in its reserve.",
    ))
});

/// Seconds until the first of its leases runs out, unless it is renewed; a whole lease where it holds none.
pub static LEASE_LEFT: LazyLock<prometheus::Gauge> = LazyLock::new(|| {
    registered(prometheus::Gauge::new(
        "platen_worker_lease_left_seconds",
        "Seconds until the first of this worker's leases runs out.",
    ))
});

/// Pictures that wait for a place in the render_pool, or have one.
pub static RENDER_POOL: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_render_pool_pictures",
        "Pictures that are rendered or wait for it.",
    ))
});

/// Pictures it develops at once.
pub static RENDER_POOL_SIZE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_render_pool_size",
        "Pictures that are rendered at once.",
    ))
});

/// Before metrics are told.
pub(super) fn refresh() {
    BUILD.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}
