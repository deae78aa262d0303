//! The admission limit of the fake: a token bucket.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A limit on calls that ask for pictures. A call beyond it is answered with 429 at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admit {
    /// Calls admitted per second in the long run.
    pub per_second: f64,
    /// Calls admitted at once after a pause.
    pub burst: f64,
}

/// The tokens that are left of an [`Admit`].
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn full(admit: Admit, now: Instant) -> Self {
        Self {
            tokens: admit.burst,
            filled: now,
        }
    }

    /// Takes one token. Without one, returns the time until the next.
    pub(super) fn take(&mut self, admit: Admit, now: Instant) -> Result<(), Duration> {
        let elapsed = now.duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * admit.per_second).min(admit.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / admit.per_second;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_then_one_call_at_a_time() {
        let admit = Admit {
            per_second: 2.0,
            burst: 3.0,
        };
        let start = Instant::now();
        let mut bucket = Bucket::full(admit, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(admit, start), Ok(()));
        }
        assert_eq!(bucket.take(admit, start), Err(Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.take(admit, later), Ok(()));
        assert!(bucket.take(admit, later).is_err());
    }
}
