//! Metrics of the process itself: version, steps of attempts, slots, leases, and images in work.

use std::sync::LazyLock;

use prometheus::{HistogramTimer, HistogramVec, IntGauge, IntGaugeVec};

use super::{gauge, histogram, registered};

/// The version of the program.
static BUILD: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_build_info",
        "The version of the program; always 1.",
        &["version"],
    )
});

/// Starts a timer for a step of an attempt. Dropping the timer records the time, also after a
/// failure.
pub fn start_step_timer(name: &str) -> HistogramTimer {
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

/// The number of slots of this worker: how many jobs it may run at once, without its reserve.
pub static SLOTS: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_slots",
        "Jobs that this worker runs at once.",
    ))
});

/// Jobs that this worker runs now. It has a lease on each of them.
pub static LEASES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_leases",
        "Jobs that this worker has a lease on.",
    ))
});

/// Size of this worker's reserve: how many further jobs it may run, for tenants and models that
/// have few slots.
pub static RESERVE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_reserve",
        "Jobs that this worker may run in addition to its slots, for tenants and models that have few slots.",
    ))
});

/// Jobs that this worker runs in its reserve now. [`LEASES`] counts them, too.
pub static RESERVE_LEASES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_worker_reserve_leases",
        "Jobs that this worker runs in its reserve.",
    ))
});

/// Seconds until the first of this worker's leases expires if it is not renewed; the length of a
/// whole lease if the worker has no lease.
pub static LEASE_LEFT: LazyLock<prometheus::Gauge> = LazyLock::new(|| {
    registered(prometheus::Gauge::new(
        "platen_worker_lease_left_seconds",
        "Seconds until the first of this worker's leases expires.",
    ))
});

/// Images that are in the render pool or wait for a place in it.
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

/// Sets the metrics that nobody else sets: the version. Called at each scrape.
pub(super) fn refresh() {
    BUILD.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}
