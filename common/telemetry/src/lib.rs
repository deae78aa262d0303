//! Logs and metrics. [`NAMES`] lists every metric that Platen exports.
//!
//! Billing is never counted in a process: `common::money::billing::metrics` reads it from sums that
//! are maintained together with the settled rows. So several processes count nothing twice, and a
//! restart loses nothing. The billing metrics are scraped once for the whole installation.

pub mod clients;
mod logs;
pub mod process;
pub mod traces;

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use domain::catalog::Catalog;
use domain::lanes::LaneState;
use domain::outcome::Class;
pub use logs::{LogConfigError, start};

/// The metrics of this process.
static REGISTRY: LazyLock<Registry> = LazyLock::new(|| prometheus::default_registry().clone());

/// Seconds from when a job was due until a worker claimed it.
pub static QUEUE_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_queue_seconds",
        "Seconds from when a job was due until a worker claimed it.",
        &["model"],
        &QUEUE_BUCKETS,
    )
});

/// Seconds that a call to a provider took, by model and outcome.
pub static CALL_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_call_seconds",
        "Seconds that a call to a provider took.",
        &["model", "outcome"],
        &CALL_BUCKETS,
    )
});

/// Calls of this worker to providers that have not ended, by model.
pub static CALLS_IN_FLIGHT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_calls_in_flight",
        "Calls to a provider that have not ended.",
        &["model"],
    )
});

/// 1 while the bucket is unavailable to this worker, so that it starts no job.
pub static BUCKET_UNAVAILABLE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_bucket_unavailable",
        "Whether the bucket is unavailable, so that no job is started.",
    ))
});

/// 1 for the result of this process's last check of the bucket's marker, 0 for the other results;
/// see `common::files::ownership`.
pub static BUCKET_OWNERSHIP: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_bucket_ownership",
        "Whether the bucket belongs to this database: ours, not_adopted, foreign or absent.",
        &["state"],
    )
});

/// Bytes of images in the spool, which wait in memory until the bucket is available.
pub static SPOOL_BYTES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_spool_bytes",
        "Bytes of images that wait for the bucket.",
    ))
});

/// Images that were lost because they could not be stored and the spool was full.
pub static SPOOL_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    registered(IntCounter::new(
        "platen_spool_refused_total",
        "Images that could not be stored and found the spool full.",
    ))
});

/// Bytes of memory that images may use in this worker.
pub static MEMORY_LIMIT: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_picture_memory_limit_bytes",
        "Memory that images may use in this worker.",
    ))
});

/// Bytes of [`MEMORY_LIMIT`] that are reserved.
pub static MEMORY_USED: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_picture_memory_bytes",
        "Memory that is reserved for images in work.",
    ))
});

/// Bytes of memory that requests may use in this api process, by purpose: `bodies`, `pictures` or
/// `downloads`.
pub static API_MEMORY_LIMIT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_api_memory_limit_bytes",
        "Memory that requests may use in this api process.",
        &["of"],
    )
});

/// Bytes of [`API_MEMORY_LIMIT`] that are reserved, by purpose.
pub static API_MEMORY_USED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_api_memory_bytes",
        "Memory that is reserved for requests in work.",
        &["of"],
    )
});

/// Requests that wait in this api process, by the pool they wait for.
pub static API_WAITING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_api_waiting",
        "Requests that wait for a free place in a pool of this api process.",
        &["pool"],
    )
});

/// Requests that were refused because they had waited too long, by the pool they waited for.
pub static API_OVERLOADED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    registered(IntCounterVec::new(
        Opts::new(
            "platen_api_overloaded_total",
            "Requests refused because they had waited too long for a place in a pool.",
        ),
        &["pool"],
    ))
});

/// Look-ups of API keys in this api process, by how the key was found: remembered (`hit`), asked of
/// Postgres (`miss`), or asked of Postgres because this process hears of no revocations now, so
/// that it remembers no key (`bypass`).
pub static API_KEY_LOOKUPS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    registered(IntCounterVec::new(
        Opts::new(
            "platen_api_key_lookups_total",
            "Look-ups of API keys: remembered, asked of Postgres, or asked because revocations are not heard of.",
        ),
        &["result"],
    ))
});

/// How many submits of a tenant one transaction admits.
pub static API_SUBMIT_GROUP: LazyLock<Histogram> = LazyLock::new(|| {
    registered(Histogram::with_opts(
        HistogramOpts::new(
            "platen_api_submit_group_size",
            "Submits of one tenant that one transaction admits.",
        )
        .buckets(vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
    ))
});

/// How many jobs of a tenant one transaction settles.
pub static WORKER_SETTLEMENT_GROUP: LazyLock<Histogram> = LazyLock::new(|| {
    registered(Histogram::with_opts(
        HistogramOpts::new(
            "platen_worker_settlement_group_size",
            "Jobs of one tenant that one transaction settles.",
        )
        .buckets(vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
    ))
});

/// Files that were deleted because they were due for deletion, by class.
pub static DELETIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    registered(IntCounterVec::new(
        Opts::new(
            "platen_deletions_total",
            "Files deleted because they were due.",
        ),
        &["class"],
    ))
});

/// Files that were due for deletion and not deleted when this worker last counted.
pub static DELETIONS_DUE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_deletions_due",
        "Files that are due and not deleted.",
    ))
});

/// Seconds for which the oldest of the files in [`DELETIONS_DUE`] has been due.
pub static DELETIONS_LATE: LazyLock<Gauge> = LazyLock::new(|| {
    registered(Gauge::new(
        "platen_deletions_late_seconds",
        "Seconds for which the oldest file that is not deleted has been due.",
    ))
});

/// How many findings this worker's last comparison of the ledger with the newest anchor had.
pub static LEDGER_REWRITTEN: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_ledger_rewritten",
        "Ledgers that do not match the newest anchor, and anchors that do not match their signature.",
    ))
});

/// When the newest anchor that this worker has seen was written, in seconds since 1970.
pub static ANCHORED: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_anchor_timestamp_seconds",
        "When the newest anchor of the ledger was written.",
    ))
});

/// Registers a metric of this process.
fn registered<M: Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a valid metric");
    REGISTRY
        .register(Box::new(metric.clone()))
        .expect("registered once");
    metric
}

/// Calls that a lane allows in flight at once; all workers share the limit.
static LANE_LIMIT: LazyLock<GaugeVec> = LazyLock::new(|| {
    registered(GaugeVec::new(
        Opts::new(
            "platen_lane_limit",
            "Calls that a lane allows in flight at once.",
        ),
        &["lane"],
    ))
});

/// Calls in flight on a lane, of all workers together.
static LANE_CALLS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_lane_calls",
        "Calls in flight on a lane, of all workers together.",
        &["lane"],
    )
});

/// 1 if a lane is unavailable, by lane and by the outcome class that is the cause.
static LANE_UNAVAILABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_lane_unavailable",
        "Whether a lane is unavailable, by the outcome of its calls.",
        &["lane", "outcome"],
    )
});

/// Tenants that a lane is unavailable for because of their own calls.
static LANE_TENANTS_UNAVAILABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_lane_tenants_unavailable",
        "Tenants that a lane is unavailable for because of their own calls.",
        &["lane"],
    )
});

/// When a model is shut down by its vendor, in seconds since 1970.
static SHUTDOWN_SECONDS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_model_shutdown_timestamp_seconds",
        "When a model of the catalogue is shut down or was, where that is known.",
        &["model"],
    )
});

/// Registers a gauge with labels.
fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(IntGaugeVec::new(Opts::new(name, help), labels))
}

/// Sets the metrics of lanes. Every worker reports the same values, because the workers share the
/// state of the lanes.
pub fn set_lanes(states: &[LaneState]) {
    // Lanes are removed, and the label `outcome` changes with the state of a lane. So the earlier
    // series must be removed.
    LANE_UNAVAILABLE.reset();
    LANE_LIMIT.reset();
    LANE_CALLS.reset();
    LANE_TENANTS_UNAVAILABLE.reset();
    for state in states {
        let lane = state.lane.to_string();
        LANE_LIMIT.with_label_values(&[&lane]).set(state.limit);
        LANE_CALLS.with_label_values(&[&lane]).set(state.in_flight);
        let tenants = i64::try_from(state.unavailable_for.len()).unwrap_or(i64::MAX);
        LANE_TENANTS_UNAVAILABLE
            .with_label_values(&[&lane])
            .set(tenants);
        let cause = state.unavailable_because();
        LANE_UNAVAILABLE
            .with_label_values(&[lane.as_str(), cause.map_or("none", Class::as_str)])
            .set(i64::from(cause.is_some()));
    }
}

/// Sets the metric of the day on which each model of the catalogue is shut down, or was. The day
/// begins at midnight UTC. A model without such a day has no series.
pub fn set_shutdown_days(catalog: &Catalog) {
    for model in catalog.models() {
        if let Some(day) = model.shut_down {
            let at = day.midnight().assume_utc().unix_timestamp();
            SHUTDOWN_SECONDS.with_label_values(&[&model.id]).set(at);
        }
    }
}

/// Seconds that the api took to answer, by method, route and status.
pub static HTTP_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_http_request_seconds",
        "Seconds that the api took to answer.",
        &["method", "route", "status"],
        &QUEUE_BUCKETS,
    )
});

/// Histogram buckets in seconds for waiting and for requests to the api.
const QUEUE_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0,
];
/// Histogram buckets in seconds for calls to providers.
const CALL_BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 180.0];

/// Registers a histogram with labels. `buckets` are the upper bounds of its buckets.
fn histogram(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    registered(HistogramVec::new(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        labels,
    ))
}

/// The name of every metric that Platen exports. Dashboards may use only these names, and those of
/// histograms with the suffixes `_bucket`, `_sum` and `_count`.
pub const NAMES: &[&str] = &[
    "platen_queue_seconds",
    "platen_call_seconds",
    "platen_calls_in_flight",
    "platen_http_request_seconds",
    "platen_jobs_total",
    "platen_jobs_open",
    "platen_oldest_open_job_seconds",
    "platen_credits_held",
    "platen_credits_captured_total",
    "platen_credits_released_total",
    "platen_credits_refunded_total",
    "platen_provider_calls_total",
    "platen_provider_cost_usd_micros_total",
    "platen_lane_limit",
    "platen_lane_calls",
    "platen_lane_unavailable",
    "platen_lane_tenants_unavailable",
    "platen_model_shutdown_timestamp_seconds",
    "platen_bucket_unavailable",
    "platen_bucket_ownership",
    "platen_build_info",
    "platen_step_seconds",
    "platen_worker_slots",
    "platen_worker_leases",
    "platen_worker_reserve",
    "platen_worker_reserve_leases",
    "platen_worker_lease_left_seconds",
    "platen_render_pool_pictures",
    "platen_render_pool_size",
    "platen_redis_unavailable",
    "platen_redis_trouble",
    "platen_postgres_connections",
    "platen_queue_oldest_seconds",
    "platen_picture_memory_limit_bytes",
    "platen_picture_memory_bytes",
    "platen_api_memory_limit_bytes",
    "platen_api_memory_bytes",
    "platen_api_waiting",
    "platen_api_overloaded_total",
    "platen_api_key_lookups_total",
    "platen_api_submit_group_size",
    "platen_worker_settlement_group_size",
    "platen_spool_bytes",
    "platen_spool_refused_total",
    "platen_deletions_total",
    "platen_deletions_due",
    "platen_deletions_late_seconds",
    "platen_connections",
    "platen_connections_limit",
    "platen_connections_refused_total",
    "platen_rate_limited_total",
    "platen_failed_authentications_total",
    "platen_abandoned_cost_usd_micros",
    "platen_abandoned_cost_limit_usd_micros",
    "platen_storage_bytes",
    "platen_ledger_rewritten",
    "platen_anchor_timestamp_seconds",
];

/// The metrics of this process, as Prometheus text.
pub fn process_metrics() -> String {
    process::refresh();
    encode(&REGISTRY)
}

/// The metrics of a registry, as Prometheus text.
pub fn encode(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("writing to memory does not fail");
    String::from_utf8(text).expect("Prometheus text is UTF-8")
}
