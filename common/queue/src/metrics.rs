//! Metrics of this crate. They are in the default registry of `prometheus`, which every process
//! serves.

use std::sync::LazyLock;

use prometheus::{IntGauge, IntGaugeVec, register_int_gauge, register_int_gauge_vec};

use crate::RedisFailure;

/// 1 while Redis is unavailable to this process.
static REDIS_UNAVAILABLE: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "platen_redis_unavailable",
        "Whether Redis does not do what this process asks.",
    )
    .expect("registered once")
});

/// 1 for the reason why Redis is unavailable, 0 for all others.
static REDIS_TROUBLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "platen_redis_trouble",
        "Why Redis does not do what this process asks.",
        &["reason"],
    )
    .expect("registered once")
});

/// Sets the metrics of Redis. `None` means that Redis is available.
pub(crate) fn redis(failure: Option<RedisFailure>) {
    REDIS_UNAVAILABLE.set(i64::from(failure.is_some()));
    for &reason in RedisFailure::ALL {
        REDIS_TROUBLE
            .with_label_values(&[reason.as_str()])
            .set(i64::from(failure == Some(reason)));
    }
}
