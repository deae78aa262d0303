//! The only place that reads this process's clock.
//!
//! For links that expire and catalogue dates. Leases and deadlines never ask it: those belong to the
//! database's clock.

use time::OffsetDateTime;

/// Now, by this process.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
