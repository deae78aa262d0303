//! The cancel allowance: how many calls that have begun a tenant may abandon in an hour, over all
//! its jobs.
//!
//! An output that is not delivered is free for the tenant, but a call that has begun may cost us
//! money. A call counts as abandoned if the tenant cancels its job, or lets the job's deadline
//! pass, while the call is open or after the call has made its image.
//!
//! When a tenant has used up its allowance:
//! - it cannot cancel a job whose calls have begun;
//! - the deadline of such a job is moved once, by the time that one call of its model may take;
//! - a job whose deadline is shorter than that time is not admitted.
//!
//! All three are decided under the wallet's lock. `docs/decisions/0029-the-cancel-allowance.md`
//! says why.

use std::time::Duration;

/// Calls that a tenant may abandon in an hour, unless `PLATEN_CANCEL_ALLOWANCE` sets another
/// number.
pub const DEFAULT: u32 = 20;

/// What a tenant has used of its allowance in the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowanceUsage {
    /// Calls that it abandoned.
    pub calls: i64,
    /// Time until the oldest of these calls is more than an hour old and no longer counts; at least
    /// one second. One minute if there is no such call.
    pub retry_after: Duration,
}

impl AllowanceUsage {
    /// Whether `more` further calls may be abandoned under this `allowance`. Always `true` if
    /// `more` is 0.
    pub fn allows(self, more: i64, allowance: u32) -> bool {
        more == 0 || self.calls.saturating_add(more) <= i64::from(allowance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_allowed_up_to_the_allowance_and_none_always() {
        let check = |calls, more, allowance, allowed| {
            let used = AllowanceUsage {
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
