//! The cancel allowance: how many calls that began a tenant may abandon in an hour, all its jobs together.
//!
//! What is not delivered is free, but a call that has begun costs us all the same. So a call counts as abandoned when its job ends by
//! its owner's doing, canceled or by its deadline, while the call is open or after it made its picture. Who has used the allowance up
//! cannot cancel a job whose calls have begun; its deadline is moved, once, by the time its model may take; and no job is admitted
//! whose deadline is shorter than that. All of it is decided under the wallet's lock. Why so:
//! `docs/decisions/0029-the-cancel-allowance.md`.

use std::time::Duration;

/// Calls a tenant may abandon in an hour when nothing else is said.
pub const DEFAULT: u32 = 20;

/// What a tenant has used of its allowance in the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Calls it abandoned.
    pub calls: i64,
    /// Until the oldest of them no longer counts.
    pub retry_after: Duration,
}

impl Used {
    /// Whether so many calls more may be abandoned.
    pub fn allows(self, more: i64, allowance: u32) -> bool {
        more == 0 || self.calls.saturating_add(more) <= i64::from(allowance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_nothing_is_always_allowed_and_the_rest_up_to_the_allowance() {
        let check = |calls, more, allowance, allowed| {
            let used = Used {
                calls,
                retry_after: Duration::ZERO,
            };
            assert_eq!(used.allows(more, allowance), allowed, "{calls} + {more}");
        };
        check(0, 4, 20, true);
        check(16, 4, 20, true);
        check(17, 4, 20, false);
        check(1_000, 0, 20, true);
        check(0, 1, 0, false);
    }
}
