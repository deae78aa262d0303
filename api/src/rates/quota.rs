//! One rate limit and its counts for all clients. It uses the generic cell rate algorithm (GCRA), a token bucket that needs one
//! number per client.
//!
//! The number is the time when the bucket is full again. If that time is past, the bucket is full, like the bucket of an unknown
//! client. So such entries can be dropped when the table is full, and no client gains anything by it. If all entries are still
//! needed, new clients share a few buckets. Sharing makes the limit stricter and never looser, so a client cannot get rid of its
//! own entry by filling the table.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::Rate;

/// The most clients that are counted separately. An entry takes 16 bytes.
const MAX_ENTRIES: usize = 65_536;
/// How many buckets new clients share when the table is full.
const SHARED_BUCKETS: u64 = 256;

/// A rate limit, with the counts of all clients.
#[derive(Debug)]
pub(super) struct Quota {
    name: &'static str,
    /// The item of `RateLimit-Policy`: requests, and the window in seconds.
    policy: Arc<str>,
    /// How many requests a client may send at once: the size of its bucket.
    burst: u32,
    /// The nanoseconds in which a bucket gets back one request.
    interval: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// When each bucket is full again, in nanoseconds since the start of the process. The key is a hash of the client, or the
    /// number of a shared bucket.
    full_at: HashMap<u64, u64>,
    /// When full buckets may be removed again, in nanoseconds since the start of the process, so that a full table is not searched
    /// at every request.
    sweep_at: u64,
}

/// A client's count after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuotaStatus {
    /// How many more requests are allowed now.
    pub(super) remaining: u32,
    /// Seconds until the bucket is full.
    pub(super) reset: u64,
    /// Seconds until this request may be repeated; `None` if it was allowed.
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

    /// Counts a request of the client with the hash `who`, at the time `now` since the start of the process. A refused request is
    /// not counted.
    pub(super) fn take(&self, who: u64, now: Duration) -> QuotaStatus {
        self.count(who, now, self.interval)
    }

    /// The status that [`Self::take`] would return, but with nothing counted.
    pub(super) fn peek(&self, who: u64, now: Duration) -> QuotaStatus {
        self.count(who, now, 0)
    }

    /// Checks whether one more request is allowed. If it is, takes `cost` nanoseconds out of the client's bucket: one interval, or
    /// 0.
    fn count(&self, who: u64, now: Duration, cost: u64) -> QuotaStatus {
        let now = nanoseconds(now);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = table.entry(who, now);
        let full_at = table.full_at.get(&entry).copied().unwrap_or(0).max(now);
        // One interval is added even for `peek`, whose cost is 0: it asks whether the next request would be allowed.
        let after = full_at.saturating_add(self.interval);
        let wait = after.saturating_sub(now.saturating_add(self.capacity()));
        if wait > 0 {
            return self.status(full_at - now, Some(wait.div_ceil(SECOND).max(1)));
        }
        if cost > 0 {
            table.full_at.insert(entry, after);
        }
        self.status(full_at.saturating_add(cost) - now, None)
    }

    /// The status of a bucket that is full again after `missing` nanoseconds.
    fn status(&self, missing: u64, refused: Option<u64>) -> QuotaStatus {
        let used = u32::try_from(missing.div_ceil(self.interval)).unwrap_or(u32::MAX);
        QuotaStatus {
            remaining: if refused.is_some() {
                0
            } else {
                self.burst.saturating_sub(used)
            },
            reset: missing.div_ceil(SECOND),
            refused,
        }
    }

    /// Nanoseconds in which an empty bucket fills.
    fn capacity(&self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }
}

impl Table {
    /// The key of the entry under which a client is counted: its own hash, or the number of a shared bucket if the table is full.
    fn entry(&mut self, who: u64, now: u64) -> u64 {
        if self.full_at.len() < MAX_ENTRIES || self.full_at.contains_key(&who) {
            return who;
        }
        if self.sweep_at <= now {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = now.saturating_add(SECOND);
        }
        if self.full_at.len() < MAX_ENTRIES {
            who
        } else {
            who % SHARED_BUCKETS
        }
    }
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    /// Two requests a second, ten at once.
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
            let status = quota.take(7, NOW);
            assert_eq!((status.remaining, status.refused), (left, None));
        }
        let refused = QuotaStatus {
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
            QuotaStatus {
                remaining: 10,
                reset: 0,
                refused: None
            }
        );
    }

    #[test]
    fn a_policy_names_requests_and_seconds() {
        assert_eq!(&*quota().policy(), "\"test\";q=10;w=5");
    }

    #[test]
    fn a_minute_allows_one_burst_and_the_rate() {
        let quota = quota();
        let hundredths = (0..6_000).map(|n| NOW + Duration::from_millis(n * 10));
        let allowed = hundredths
            .filter(|now| quota.take(7, *now).refused.is_none())
            .count();
        assert!((129..=130).contains(&allowed), "{allowed}");
    }

    #[test]
    fn new_clients_share_buckets_when_the_table_is_full() {
        let quota = quota();
        let newcomers = 1_000_000..;
        while quota.take(999, NOW).refused.is_none() {}
        for who in newcomers.clone().take(MAX_ENTRIES) {
            quota.take(who, NOW);
        }
        let entries = || quota.table.lock().unwrap().full_at.len();
        assert!(entries() <= MAX_ENTRIES + 256, "{}", entries());
        assert!(
            quota.take(999, NOW).refused.is_some(),
            "its entry was pushed out"
        );
        let strangers = (0..20).map(|n| 9_000_000 + n * SHARED_BUCKETS);
        let allowed = strangers
            .filter(|who| quota.take(*who, NOW).refused.is_none())
            .count();
        assert!(allowed <= 10, "{allowed} of one shared bucket");
        // Entries of full buckets are dropped.
        quota.take(5, NOW + Duration::from_mins(1));
        assert_eq!(entries(), 1);
    }
}
