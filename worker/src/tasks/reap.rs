//! Takes jobs from workers whose lease ran out: they died, or were away too long.
//!
//! After the database was away every lease has run out, and nobody is dead for that: the reaper gives holders one
//! lease to renew, or each of their calls would be paid twice. It pauses after a gap in its own contact, and after a
//! start of the server (the query sees to that).

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use common::{database, job, settlement};

use crate::app::App;

/// Jobs taken in one turn.
const BATCH: i64 = 100;

/// When the reaper heard of the database, and until when it holds back.
#[derive(Debug, Default)]
pub struct Contact {
    last: Option<Instant>,
    pause_until: Option<Instant>,
}

impl App {
    fn heard_of_the_database(&self) -> bool {
        let lease = self.timing.lease;
        let gap = (lease / 6).max(self.timing.reap_every * 3);
        let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        contact.heard(Instant::now(), gap, lease)
    }
}

impl Contact {
    /// The database answered: whether leases that ran out mean anything yet. `gap` without it makes a pause.
    fn heard(&mut self, now: Instant, gap: Duration, lease: Duration) -> bool {
        let quiet = self.last.map(|last| now - last);
        self.last = Some(now);
        if quiet.is_some_and(|quiet| quiet > gap) {
            self.pause_until = Some(now + lease);
        }
        self.pause_until.is_none_or(|until| until <= now)
    }
}

pub(super) async fn run(app: Arc<App>) {
    let look = job::store::leases_run_out(&app.pool, app.timing.lease, BATCH);
    let found = match database::with_timeout(look).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, "Leases that ran out could not be looked for"),
    };
    if !app.heard_of_the_database() {
        return;
    }
    for (job, tenant) in found {
        match database::with_timeout(settlement::reap(&app.pool, tenant, job)).await {
            Ok(settled) => tracing::info!(job.id = %job, ?settled, "Job {job}: its lease ran out"),
            Err(error) => {
                tracing::warn!(job.id = %job, %error, "Job {job} could not be taken from its worker");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_gap_holders_get_one_lease_to_renew() {
        let (gap, lease) = (Duration::from_secs(5), Duration::from_secs(30));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut contact = Contact::default();
        assert!(
            contact.heard(at(0), gap, lease),
            "a new reaper has missed nothing"
        );
        assert!(contact.heard(at(1), gap, lease));
        assert!(
            !contact.heard(at(46), gap, lease),
            "45 seconds without the database"
        );
        assert!(!contact.heard(at(50), gap, lease));
        assert!(!contact.heard(at(54), gap, lease));
        for second in 55..76 {
            contact.heard(at(second), gap, lease);
        }
        assert!(contact.heard(at(76), gap, lease));
    }
}
