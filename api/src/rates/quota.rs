//! One limit, for everybody it counts: the generic cell rate algorithm (GCRA), which is a token bucket that needs one number for each.
//!
//! The number is when the bucket would be full again. Where that lies behind us the bucket is full, as is that of somebody unknown:
//! so such entries are dropped when the table is full, and nobody gains by it. Where it is full of others, newcomers share a few
//! buckets: that is stricter, never looser, so nobody can push their own entry out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::Rate;

/// How many are counted apart. An entry takes 16 bytes.
const ENTRIES: usize = 65_536;
/// Buckets that newcomers share when the table is full.
const SHARED: u64 = 256;

/// A limit, and how far everybody is from it.
#[derive(Debug)]
pub(super) struct Quota {
    name: &'static str,
    /// As an item of `RateLimit-Policy`: so many requests in so many seconds.
    policy: Arc<str>,
    burst: u32,
    /// Nanoseconds until one request more is allowed.
    interval: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// When each bucket is full again, in nanoseconds since the start.
    full_at: HashMap<u64, u64>,
    /// When entries may be looked through again.
    sweep_at: u64,
}

/// How somebody stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Requests that are allowed now.
    pub(super) remaining: u32,
    /// Seconds until the bucket is full.
    pub(super) reset: u64,
    /// Seconds until this request may be repeated; `None`: it was allowed.
    pub(super) refused: Option<u64>,
}

impl Quota {
    pub(super) fn new(name: &'static str, Rate { per_minute, burst }: Rate) -> Self {
        let minute = nanoseconds(Duration::from_mins(1));
        let interval = (minute / u64::from(per_minute.max(1))).max(1);
        let burst = burst.max(1);
        let window = interval.saturating_mul(u64::from(burst)).div_ceil(SECOND);
        Self {
            name,
            policy: format!("\"{name}\";q={burst};w={}", window.max(1)).into(),
            burst,
            interval,
            table: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn policy(&self) -> Arc<str> {
        Arc::clone(&self.policy)
    }

    /// Counts a request of somebody, at a time since the start. A refused one is not counted.
    pub(super) fn take(&self, who: u64, now: Duration) -> Standing {
        self.count(who, now, self.interval)
    }

    /// How somebody stands, without counting.
    pub(super) fn peek(&self, who: u64, now: Duration) -> Standing {
        self.count(who, now, 0)
    }

    fn count(&self, who: u64, now: Duration, cost: u64) -> Standing {
        let now = nanoseconds(now);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = table.entry(who, now);
        let full_at = table.full_at.get(&entry).copied().unwrap_or(0).max(now);
        // A look asks whether the next request would be allowed.
        let after = full_at.saturating_add(self.interval);
        let over = after.saturating_sub(now.saturating_add(self.capacity()));
        if over > 0 {
            return self.standing(full_at - now, Some(over.div_ceil(SECOND).max(1)));
        }
        if cost > 0 {
            table.full_at.insert(entry, after);
        }
        self.standing(full_at.saturating_add(cost) - now, None)
    }

    fn standing(&self, missing: u64, refused: Option<u64>) -> Standing {
        let used = u32::try_from(missing.div_ceil(self.interval)).unwrap_or(u32::MAX);
        Standing {
            remaining: if refused.is_some() {
                0
            } else {
                self.burst.saturating_sub(used)
            },
            reset: missing.div_ceil(SECOND),
            refused,
        }
    }

    /// Nanoseconds until an empty bucket is full.
    fn capacity(&self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }
}

impl Table {
    /// Under which entry somebody is counted.
    fn entry(&mut self, who: u64, now: u64) -> u64 {
        if self.full_at.len() < ENTRIES || self.full_at.contains_key(&who) {
            return who;
        }
        if self.sweep_at <= now {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = now.saturating_add(SECOND);
        }
        if self.full_at.len() < ENTRIES {
            who
        } else {
            who % SHARED
        }
    }
}

const SECOND: u64 = 1_000_000_000;

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    /// Two a second, ten at once.
    fn quota() -> Quota {
        let rate = Rate {
            per_minute: 120,
            burst: 10,
        };
        Quota::new("test", rate)
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let quota = quota();
        for left in (0..10).rev() {
            let standing = quota.take(7, NOW);
            assert_eq!((standing.remaining, standing.refused), (left, None));
        }
        let refused = Standing {
            remaining: 0,
            reset: 5,
            refused: Some(1),
        };
        assert_eq!(quota.peek(7, NOW), refused);
        assert_eq!(quota.take(7, NOW), refused);
        assert_eq!(quota.take(8, NOW).refused, None, "somebody else");
        let later = NOW + Duration::from_millis(500);
        assert_eq!(quota.take(7, later).refused, None);
        assert_eq!(quota.take(7, later).refused, Some(1));
        let full = quota.peek(7, NOW + Duration::from_mins(1));
        assert_eq!(
            full,
            Standing {
                remaining: 10,
                reset: 0,
                refused: None
            }
        );
    }

    #[test]
    fn a_policy_is_how_many_in_how_many_seconds() {
        assert_eq!(&*quota().policy(), "\"test\";q=10;w=5");
    }

    #[test]
    fn in_a_minute_no_more_than_the_rate_and_a_burst_are_allowed() {
        let quota = quota();
        let hundredths = (0..6_000).map(|n| NOW + Duration::from_millis(n * 10));
        let allowed = hundredths
            .filter(|now| quota.take(7, *now).refused.is_none())
            .count();
        assert!((129..=130).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_full_table_keeps_whom_it_counts_and_newcomers_share() {
        let quota = quota();
        let newcomers = 1_000_000..;
        while quota.take(999, NOW).refused.is_none() {}
        for who in newcomers.clone().take(ENTRIES) {
            quota.take(who, NOW);
        }
        let entries = || quota.table.lock().unwrap().full_at.len();
        assert!(entries() <= ENTRIES + 256, "{}", entries());
        assert!(
            quota.take(999, NOW).refused.is_some(),
            "its entry was pushed out"
        );
        let strangers = (0..20).map(|n| 9_000_000 + n * SHARED);
        let allowed = strangers
            .filter(|who| quota.take(*who, NOW).refused.is_none())
            .count();
        assert!(allowed <= 10, "{allowed} of one shared bucket");
        // Once buckets are full again their entries go.
        quota.take(5, NOW + Duration::from_mins(1));
        assert_eq!(entries(), 1);
    }
}
