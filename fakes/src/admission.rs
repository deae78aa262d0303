//! The admission limit of the fake, which is a token bucket.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A limit on calls that ask for images. A call beyond the limit is answered with 429 at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionLimit {
    /// Calls admitted per second in the long run.
    pub per_second: f64,
    /// Calls admitted at once after a pause.
    pub burst: f64,
}

/// The tokens that are left in the bucket of an [`AdmissionLimit`].
#[derive(Debug)]
pub(super) struct TokenBucket {
    tokens: f64,
    /// When tokens were last added.
    filled: Instant,
}

impl TokenBucket {
    pub(super) fn new_full(limit: AdmissionLimit, now: Instant) -> Self {
        Self {
            tokens: limit.burst,
            filled: now,
        }
    }

    /// Takes one token. If there is none, returns the time until the next token.
    pub(super) fn take(&mut self, limit: AdmissionLimit, now: Instant) -> Result<(), Duration> {
        let elapsed = now.duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * limit.per_second).min(limit.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // Infinite if `per_second` is 0.
        let wait = (1.0 - self.tokens) / limit.per_second;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_then_one_call_at_a_time() {
        let limit = AdmissionLimit {
            per_second: 2.0,
            burst: 3.0,
        };
        let start = Instant::now();
        let mut bucket = TokenBucket::new_full(limit, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(limit, start), Ok(()));
        }
        assert_eq!(bucket.take(limit, start), Err(Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.take(limit, later), Ok(()));
        assert!(bucket.take(limit, later).is_err());
    }
}
