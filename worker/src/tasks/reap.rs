//! Takes jobs from workers whose lease ran out: they died, or were away too long.

use std::sync::Arc;

use common::{job, settlement};

use crate::app::App;

/// Jobs taken in one turn.
const BATCH: i64 = 100;

pub(super) async fn run(app: Arc<App>) {
    let found = match job::store::leases_run_out(&app.pool, BATCH).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, "Leases that ran out could not be looked for"),
    };
    for (job, tenant) in found {
        match settlement::reap(&app.pool, tenant, job).await {
            Ok(settled) => tracing::info!(job.id = %job, ?settled, "Job {job}: its lease ran out"),
            Err(error) => {
                tracing::warn!(job.id = %job, %error, "Job {job} could not be taken from its worker");
            }
        }
    }
}
