//! Logs and metrics. Every metric Platen exports is named in [`NAMES`].
//!
//! What is billed is never counted here: [`billing()`] reads it from the roll-up of the rows that carry the
//! settlement, so replicas count nothing twice and restarts forget nothing. It is scraped once for the whole service.

pub mod clients;
pub mod process;
pub mod traces;

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use domain::catalog::Catalog;
use domain::lanes::LaneState;
use domain::outcome::Class;
use traces::Exporting;

/// Metrics of this process.
static REGISTRY: LazyLock<Registry> = LazyLock::new(|| prometheus::default_registry().clone());

/// Seconds a job was due before a worker claimed it.
pub static QUEUE_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_queue_seconds",
        "Seconds a job was due before a worker claimed it.",
        &["model"],
        &QUEUE_BUCKETS,
    )
});

/// Seconds a call to a provider took, by how it ended.
pub static CALL_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_call_seconds",
        "Seconds a call to a provider took.",
        &["model", "outcome"],
        &CALL_BUCKETS,
    )
});

/// Calls to providers that have not been answered yet.
pub static CALLS_IN_FLIGHT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_calls_in_flight",
        "Calls to a provider that are not answered yet.",
        &["model"],
    )
});

/// 1 while a worker does not reach its bucket, and starts nothing.
pub static BUCKET_UNAVAILABLE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_bucket_unavailable",
        "Whether the bucket is away, and no job is started.",
    ))
});

/// 1 for how it stands with the bucket's marker, as this process asked last; see `common::files::ownership`.
pub static BUCKET_OWNERSHIP: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_bucket_ownership",
        "Whether the bucket is this database's: ours, not_adopted, foreign or absent.",
        &["state"],
    )
});

/// Bytes that wait for the bucket, in memory.
pub static SPOOL_BYTES: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_spool_bytes",
        "Bytes of pictures that wait for the bucket.",
    ))
});

/// Pictures that could not be stored and found no room to wait in.
pub static SPOOL_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    registered(IntCounter::new(
        "platen_spool_refused_total",
        "Pictures that could neither be stored nor wait.",
    ))
});

/// Bytes of memory that pictures may take in this worker.
pub static MEMORY_LIMIT: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_picture_memory_limit_bytes",
        "Memory that pictures may take in this worker.",
    ))
});

/// Bytes of it that are taken.
pub static MEMORY_USED: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_picture_memory_bytes",
        "Memory that is set aside for pictures under way.",
    ))
});

/// Bytes of memory that requests may take in this api, by what for: `bodies`, `pictures` or `downloads`.
pub static API_MEMORY_LIMIT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_api_memory_limit_bytes",
        "Memory that requests may take in this api.",
        &["of"],
    )
});

/// Bytes of it that are taken.
pub static API_MEMORY_USED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_api_memory_bytes",
        "Memory that is set aside for requests under way.",
        &["of"],
    )
});

/// Requests that wait for their turn in this api, by what they wait for.
pub static API_WAITING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_api_waiting",
        "Requests that wait for their turn in this api.",
        &["pool"],
    )
});

/// Requests that were refused because their turn did not come in time, by what they waited for.
pub static API_OVERLOADED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    registered(IntCounterVec::new(
        Opts::new(
            "platen_api_overloaded_total",
            "Requests refused because their turn did not come in time.",
        ),
        &["pool"],
    ))
});

/// Files that were deleted because their time was over.
pub static DELETIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    registered(IntCounterVec::new(
        Opts::new(
            "platen_deletions_total",
            "Files deleted because their time was over.",
        ),
        &["class"],
    ))
});

/// Files that are due and not deleted yet, as this worker saw it last.
pub static DELETIONS_DUE: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_deletions_due",
        "Files that are due and not deleted yet.",
    ))
});

/// Since when the oldest of them is due.
pub static DELETIONS_LATE: LazyLock<Gauge> = LazyLock::new(|| {
    registered(Gauge::new(
        "platen_deletions_late_seconds",
        "Seconds since the oldest file that is due was to be gone.",
    ))
});

/// Lines of the ledger that are not what the newest anchor says, as this worker saw it last.
pub static LEDGER_REWRITTEN: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_ledger_rewritten",
        "Lines of the ledger that are not what the newest anchor says, and anchors that are not as they were signed.",
    ))
});

/// When the newest anchor was written that this worker has seen.
pub static ANCHORED: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new(
        "platen_anchor_timestamp_seconds",
        "When the newest anchor of the ledger was written.",
    ))
});

fn registered<M: Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a valid metric");
    REGISTRY
        .register(Box::new(metric.clone()))
        .expect("registered once");
    metric
}

/// Calls a lane lets in at once, as all workers together have learned it.
static LANE_LIMIT: LazyLock<GaugeVec> = LazyLock::new(|| {
    let limit = GaugeVec::new(
        Opts::new("platen_lane_limit", "Calls a lane lets in at once."),
        &["lane"],
    )
    .expect("a valid metric");
    REGISTRY
        .register(Box::new(limit.clone()))
        .expect("registered once");
    limit
});

/// Calls in flight on a lane, of all workers together.
static LANE_CALLS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_lane_calls",
        "Calls in flight on a lane, of all workers together.",
        &["lane"],
    )
});

/// 1 where a lane is closed or pauses, by what it was answered.
static LANE_UNAVAILABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_lane_unavailable",
        "Whether a lane lets nobody in, by what it was answered.",
        &["lane", "outcome"],
    )
});

/// Tenants a lane is closed for because of their own calls.
static LANE_TENANTS_UNAVAILABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_lane_tenants_unavailable",
        "Tenants a lane is closed for because of their own calls.",
        &["lane"],
    )
});

/// When a model is shut down.
static SHUT_DOWN: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_model_shutdown_timestamp_seconds",
        "When a model on offer is shut down, where that is known.",
        &["model"],
    )
});

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric");
    REGISTRY
        .register(Box::new(gauge.clone()))
        .expect("registered once");
    gauge
}

/// How the lanes stand. Every worker tells the same: they share what they know.
pub fn lanes(states: &[LaneState]) {
    // A lane that opened has no reason any more, and of lanes nobody knows nothing is told.
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
        let closed_by = state.unavailable_because();
        LANE_UNAVAILABLE
            .with_label_values(&[lane.as_str(), closed_by.map_or("none", Class::as_str)])
            .set(i64::from(closed_by.is_some()));
    }
}

/// When the models on offer are shut down.
pub fn lifecycle(catalog: &Catalog) {
    for model in catalog.models() {
        if let Some(day) = model.shut_down {
            let at = day.midnight().assume_utc().unix_timestamp();
            SHUT_DOWN.with_label_values(&[&model.id]).set(at);
        }
    }
}

/// Seconds the api took to answer, by route.
pub static HTTP_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "platen_http_request_seconds",
        "Seconds the api took to answer.",
        &["method", "route", "status"],
        &QUEUE_BUCKETS,
    )
});

const QUEUE_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0,
];
const CALL_BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 180.0];

fn histogram(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let histogram = HistogramVec::new(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        labels,
    )
    .expect("a valid metric");
    REGISTRY
        .register(Box::new(histogram.clone()))
        .expect("registered once");
    histogram
}

/// Names of every metric Platen exports; dashboards may use these and their suffixes only.
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

/// This process's metrics, as Prometheus text.
pub fn process() -> String {
    process::refresh();
    encode(&REGISTRY)
}

/// The metrics of a registry, as Prometheus text.
pub fn encode(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("memory takes it");
    String::from_utf8(text).expect("Prometheus text is UTF-8")
}

/// Whether lines are coloured: only for a terminal, and not where `NO_COLOR` has a value (<https://no-color.org>).
fn colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// A variable of the logs that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogConfigError {
    #[error(
        "PLATEN_LOG is not usable: {0}. It is a level (error, warn, info, debug, trace or off), or levels for parts of the program, such as `info,sqlx=debug`"
    )]
    Filter(String),
    #[error("PLATEN_LOG_FORMAT is not usable: {0:?} is neither text nor json")]
    Format(String),
}

/// Starts logging to standard error, as `PLATEN_LOG` and `PLATEN_LOG_FORMAT` say, and sending traces, where it is said whereto.
/// What it returns must be kept until the end.
///
/// # Errors
///
/// When one of the two variables is not usable: nothing is logged then.
pub fn start() -> Result<Exporting, LogConfigError> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let filter = filter(&variable("PLATEN_LOG"))?;
    let json = is_json(&variable("PLATEN_LOG_FORMAT"))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // A line that cannot be written would be told of on the same standard error, and end the process.
        .log_internal_errors(false)
        .with_ansi(colours(
            std::io::stderr().is_terminal(),
            std::env::var_os("NO_COLOR").as_deref(),
        ))
        .with_target(false);
    let lines = if json {
        lines.json().boxed()
    } else {
        lines.compact().boxed()
    };
    let (is_trace, is_line) = (
        filter_fn(|metadata| metadata.target() == traces::TARGET),
        filter_fn(|metadata| metadata.target() != traces::TARGET),
    );
    let (sent, exporting) = traces::layer().unzip();
    let registry = tracing_subscriber::registry()
        .with(sent.with_filter(is_trace))
        .with(lines.with_filter(filter.and(is_line)));
    // A second start in one process, as in tests, keeps the first.
    let _started = registry.try_init();
    Ok(exporting.unwrap_or_default())
}

/// What is logged. A bare word is a level: the library would take any other word for a part of the program, and log nothing else.
fn filter(text: &str) -> Result<EnvFilter, LogConfigError> {
    let mut directives = Vec::new();
    for directive in text.split(',').map(str::trim) {
        // With a field or a span in it, it is the library's to judge.
        if directive.is_empty() || directive.contains(['[', '{']) {
            directives.extend((!directive.is_empty()).then(|| directive.to_owned()));
            continue;
        }
        directives.push(match directive.split_once('=') {
            None => level(directive)?.to_owned(),
            Some((part, named)) => format!("{part}={}", level(named)?),
        });
    }
    if directives.is_empty() {
        directives.push("info".to_owned());
    }
    EnvFilter::try_new(directives.join(","))
        .map_err(|error| LogConfigError::Filter(error.to_string()))
}

/// A level by one of the names it has elsewhere.
fn level(name: &str) -> Result<&'static str, LogConfigError> {
    let level = match name.trim().to_ascii_lowercase().as_str() {
        "off" | "none" => "off",
        "error" | "err" | "critical" | "fatal" | "1" => "error",
        "warn" | "warning" | "2" => "warn",
        "info" | "information" | "notice" | "3" => "info",
        "debug" | "4" => "debug",
        "trace" | "verbose" | "5" => "trace",
        _ => return Err(LogConfigError::Filter(format!("{name:?} is no level"))),
    };
    Ok(level)
}

fn is_json(format: &str) -> Result<bool, LogConfigError> {
    match format {
        "" | "text" => Ok(false),
        "json" => Ok(true),
        other => Err(LogConfigError::Format(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_that_is_not_told_otherwise_gets_colours() {
        let set = |value: &'static str| Some(OsStr::new(value));
        assert!(colours(true, None) && colours(true, set("")));
        assert!(!colours(true, set("1")) && !colours(false, None) && !colours(false, set("")));
    }

    #[test]
    fn levels_go_by_their_common_names_and_rubbish_is_refused() {
        for (text, means) in [
            ("", "info"),
            ("warning", "warn"),
            ("WARN", "warn"),
            ("err,sqlx=Warning", "sqlx=warn,error"),
            ("info, sqlx=debug", "sqlx=debug,info"),
            ("off", "off"),
        ] {
            assert_eq!(filter(text).unwrap().to_string(), means, "{text}");
        }
        for text in [
            "warnings",
            "loud",
            "sqlx=loud",
            "info,",
            "sqlx",
            "a b=info=x",
        ] {
            let refused = filter(text);
            let fine = text == "info,";
            assert_eq!(refused.is_ok(), fine, "{text}");
            if let Err(error) = refused {
                assert!(error.to_string().contains("error, warn, info"), "{error}");
            }
        }
        assert_eq!(
            (is_json(""), is_json("text"), is_json("json")),
            (Ok(false), Ok(false), Ok(true))
        );
        assert_eq!(
            is_json("jsno"),
            Err(LogConfigError::Format("jsno".to_owned()))
        );
    }
}
