//! What clients take of our ports, and what is refused them. No address, key or tenant is a label.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tokio_util::task::TaskTracker;

use super::{gauge, registered};

/// Connections that are open.
pub static CONNECTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_connections",
        "Connections from clients that are open.",
        &["port"],
    )
});

/// Connections that may be open.
pub static CONNECTIONS_LIMIT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "platen_connections_limit",
        "Connections from clients that may be open at once.",
        &["port"],
    )
});

/// Connections that were refused or closed before their time, by reason.
pub static CONNECTIONS_REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "platen_connections_refused_total",
        "Connections that were not taken, closed to make room, or closed for being too slow.",
        &["port", "reason"],
    )
});

/// Requests that were answered with 429, by the limit they met.
pub static RATE_LIMITED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "platen_rate_limited_total",
        "Requests that were answered with 429, by the limit they met.",
        &["limit"],
    )
});

/// Requests that showed a wrong key.
pub static FAILED_AUTHENTICATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "platen_failed_authentications_total",
        "Requests with a key that is wrong, by whose it should be.",
        &["of"],
    )
});

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

/// Says what happens often in one line a second, with how often it was.
#[derive(Clone, Debug, Default)]
pub struct OncePerSecond(Arc<AtomicU64>);

impl OncePerSecond {
    /// Counts, and calls `say` with the count a second after the first. Of what comes meanwhile `say` is dropped.
    pub fn say(&self, say: impl FnOnce(u64) + Send + 'static) {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            let count = Arc::clone(&self.0);
            TaskTracker::new().spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                say(count.swap(0, Ordering::Relaxed));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn what_happens_often_is_said_once_a_second_with_its_count() {
        let (once, lines) = (OncePerSecond::default(), Arc::new(Mutex::new(Vec::new())));
        let happen = || {
            let lines = Arc::clone(&lines);
            once.say(move |count| lines.lock().unwrap().push(count));
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
