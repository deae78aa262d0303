//! Metrics of clients: connections, limits and refusals. No label contains an address, key or
//! tenant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tokio_util::task::TaskTracker;

use super::{gauge, registered};

/// Open connections from clients, by port.
pub static CONNECTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_connections",
        "Open connections from clients.",
        &["port"],
    )
});

/// Most connections from clients that may be open at once, by port.
pub static CONNECTIONS_LIMIT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_connections_limit",
        "Most connections from clients that may be open at once.",
        &["port"],
    )
});

/// Connections that we refused or closed, by port and reason.
pub static CONNECTIONS_REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "platen_connections_refused_total",
        "Connections that were not accepted, closed to make room for others, or closed for being too slow.",
        &["port", "reason"],
    )
});

/// Requests that were answered with 429, by the limit they exceeded.
pub static RATE_LIMITED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "platen_rate_limited_total",
        "Requests that were answered with 429, by the limit they exceeded.",
        &["limit"],
    )
});

/// Requests with a wrong key, by the kind of key.
pub static FAILED_AUTHENTICATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "platen_failed_authentications_total",
        "Requests with a wrong key, by the kind of key.",
        &["of"],
    )
});

/// Registers a counter with labels.
fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

/// Limits the log lines about a frequent event to one a second. The line gives the number of events
/// in that second. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct OncePerSecond(Arc<AtomicU64>);

impl OncePerSecond {
    /// Counts an event. A first event starts a second. At its end, the `write` of that event is
    /// called with the number of events in that second. The `write` of the others is dropped. The
    /// next event is a first event again.
    ///
    /// # Panics
    /// Panics outside a Tokio runtime.
    pub fn log(&self, write: impl FnOnce(u64) + Send + 'static) {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            let count = Arc::clone(&self.0);
            TaskTracker::new().spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                write(count.swap(0, Ordering::Relaxed));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn frequent_events_are_logged_once_a_second() {
        let (once, lines) = (OncePerSecond::default(), Arc::new(Mutex::new(Vec::new())));
        let happen = || {
            let lines = Arc::clone(&lines);
            once.log(move |count| lines.lock().unwrap().push(count));
        };
        for _ in 0..500 {
            happen();
        }
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        happen();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(*lines.lock().unwrap(), [500, 1]);
    }
}
