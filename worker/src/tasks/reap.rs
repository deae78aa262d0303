//! Takes jobs from workers whose lease ran out. The worker died, or could not renew the lease for
//! too long.
//!
//! After the database was unreachable, every lease has run out although the workers live. The
//! reaper then waits for the duration of one lease, so that the workers can renew their leases.
//! Otherwise each of their calls would be paid twice. The reaper waits after a gap in this worker's
//! own contact with the database ([`crate::database_contact`]), and after a start of the database
//! server, which the query checks.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use common::settlement;
use storage::database;

use crate::app::App;

/// The most jobs that are taken in one run.
const BATCH: i64 = 100;

/// Takes up to [`BATCH`] jobs whose lease ran out. Each is queued again, or ends if it has crashed
/// its workers too often.
pub(super) async fn run(app: Arc<App>) {
    let lease = app.timing.lease;
    let mark = &app.low_water.claims;
    let query = async {
        let since = mark.start();
        let found = storage::jobs::expired_leases(&app.pool, lease, BATCH, since).await?;
        // The jobs that were found are still running, so the new mark is not above them.
        mark.set(storage::jobs::running_since(&app.pool, since).await?);
        Ok::<_, sqlx::Error>(found)
    };
    let found = match database::with_timeout(query).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, "Expired leases could not be queried"),
    };
    let may_reap = note_database_answer(&app);
    if !may_reap {
        return;
    }
    for (job, tenant) in found {
        match database::with_timeout(settlement::reap(&app.pool, tenant, job)).await {
            Ok(settled) => {
                tracing::info!(job.id = %job, ?settled, "Job {job} was taken from its worker because its lease ran out");
            }
            Err(error) => {
                tracing::warn!(job.id = %job, %error, "Job {job} could not be taken from its worker");
            }
        }
    }
}

/// Notes that the database answered, and returns whether expired leases may be reaped.
fn note_database_answer(app: &App) -> bool {
    let lease = app.timing.lease;
    // Workers renew a lease three times while it lasts. A sixth of the lease is half the time
    // between two renewals, so a gap of this length endangers no lease. A few runs of the reaper
    // that start late are no gap either.
    let max_gap = (lease / 6).max(app.timing.reap_every * 3);
    let mut contact = app
        .database_contact
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    contact.note(Instant::now(), max_gap, lease)
}
