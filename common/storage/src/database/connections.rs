//! A metric of how many connections each pool of this process has, in the default registry of
//! `prometheus`.

use std::sync::{LazyLock, Mutex, Once, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use sqlx::PgPool;

/// Connections of each pool to Postgres, by state: `used` or `idle`.
static CONNECTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let [name, help] = [
        "platen_postgres_connections",
        "Connections of a pool to Postgres, in use and idle.",
    ];
    IntGaugeVec::new(Opts::new(name, help), &["pool", "state"]).expect("a valid metric")
});

/// The pools that [`report_connections`] has registered, with their names.
static POOLS: Mutex<Vec<(&str, PgPool)>> = Mutex::new(Vec::new());

/// Registers the metric with the first pool.
static REGISTERED: Once = Once::new();

/// Reports the connections of a pool in the metric from now on, under this name. A second pool with
/// the same name replaces the first.
pub fn report_connections(name: &'static str, pool: &PgPool) {
    REGISTERED.call_once(|| {
        let registered = prometheus::default_registry().register(Box::new(Pools));
        registered.expect("registered once");
    });
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.retain(|(known, _)| *known != name);
    pools.push((name, pool.clone()));
}

/// Reads the pools each time that metrics are gathered.
struct Pools;

impl Collector for Pools {
    fn desc(&self) -> Vec<&Desc> {
        CONNECTIONS.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
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
        CONNECTIONS.collect()
    }
}
