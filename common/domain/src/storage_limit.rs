//! How much a tenant stores: the size of its files that rows name (uploads, inputs, originals,
//! renditions, thumbnails).
//!
//! It is a sum that triggers maintain (`0022_bounds_on_abuse.sql`), as for billing: each row that
//! names a file, and each deletion, adds a line, and `storage::stored_bytes::fold` adds lines to a
//! total. Total and lines together, read in one snapshot, always equal the sum over the rows;
//! `platen verify` compares them (I25).

/// Default limit for one tenant, in bytes.
pub const DEFAULT: i64 = 50_000_000_000;

/// How much a tenant stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageUsage {
    /// Bytes of all its files. `None` if the files of this tenant were not counted yet: it existed
    /// before files were counted.
    pub bytes: Option<i64>,
}

impl StorageUsage {
    /// Whether `more` further bytes stay within `limit`. `true` if there is no limit, if `more` is
    /// 0, or if the tenant's files were not counted yet.
    pub fn has_room(self, more: i64, limit: Option<i64>) -> bool {
        match (self.bytes, limit) {
            (Some(bytes), Some(limit)) => more == 0 || bytes.saturating_add(more) <= limit,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_may_be_reached_but_not_passed() {
        let check = |bytes, more, limit, expected| {
            assert_eq!(
                StorageUsage { bytes }.has_room(more, limit),
                expected,
                "{bytes:?}"
            );
        };
        check(Some(90), 10, Some(100), true);
        check(Some(91), 10, Some(100), false);
        check(Some(200), 0, Some(100), true);
        check(Some(200), 10, None, true);
        check(None, 10, Some(0), true);
    }
}
