//! How many calls a vendor lets in: a token bucket.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A limit on the calls that ask for pictures. Those beyond it are answered 429 at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admit {
    /// Calls let in each second, in the long run.
    pub per_second: f64,
    /// Calls let in at once after a rest.
    pub burst: f64,
}

/// What is left of an [`Admit`].
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

    /// Lets one call in, or says when the next might be.
    pub(super) fn take(&mut self, admit: Admit, now: Instant) -> Result<(), Duration> {
        let rested = now.duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + rested * admit.per_second).min(admit.burst);
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
    fn a_burst_goes_in_and_then_one_by_one() {
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
