//! This process's clock. No other code reads it (`clippy.toml` forbids it).
//!
//! Use it for the expiry of links and for catalogue dates. Leases and deadlines use the database's
//! clock, because several processes must agree on them.

use time::OffsetDateTime;

/// The time now, in UTC, by this process's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that is allowed to"
)]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
