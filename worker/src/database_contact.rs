//! When this worker last reached the database, and whether expired leases may be reaped yet.
//!
//! While the database is unreachable nobody can renew a lease, so afterwards every lease looks
//! expired although its worker lives. The reaper therefore waits for the duration of one lease
//! after such a gap. Otherwise the calls of all these jobs would be paid twice.

use std::time::{Duration, Instant};

/// The last contact with the database, and the pause of the reaper after a gap.
#[derive(Debug, Default)]
pub(crate) struct DatabaseContact {
    /// When the database last answered.
    last: Option<Instant>,
    /// Until when no expired lease may be reaped, because of the latest gap.
    pause_until: Option<Instant>,
}

impl DatabaseContact {
    /// Notes that the database answered at `now`, and returns whether expired leases may be reaped.
    /// If the last answer before that came more than `max_gap` ago, no lease may be reaped for the
    /// duration `lease` of one lease.
    pub(crate) fn note(&mut self, now: Instant, max_gap: Duration, lease: Duration) -> bool {
        let gap = self.last.map(|last| now - last);
        self.last = Some(now);
        if gap.is_some_and(|gap| gap > max_gap) {
            self.pause_until = Some(now + lease);
        }
        self.pause_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_gap_workers_get_one_lease_to_renew() {
        let (max_gap, lease) = (Duration::from_secs(5), Duration::from_secs(30));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut contact = DatabaseContact::default();
        assert!(
            contact.note(at(0), max_gap, lease),
            "a new reaper has missed nothing"
        );
        assert!(contact.note(at(1), max_gap, lease));
        assert!(
            !contact.note(at(46), max_gap, lease),
            "45 seconds without the database"
        );
        assert!(!contact.note(at(50), max_gap, lease));
        assert!(!contact.note(at(54), max_gap, lease));
        for second in 55..76 {
            contact.note(at(second), max_gap, lease);
        }
        assert!(contact.note(at(76), max_gap, lease));
    }
}
