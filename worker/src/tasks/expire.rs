//! Ends jobs whose deadline has passed, and gives back what they hold.

use std::sync::Arc;

use common::{database, job, settlement};

use crate::app::App;

/// Jobs ended in one turn.
const BATCH: i64 = 100;

pub(super) async fn run(app: Arc<App>) {
    let look = job::store::deadlines_passed(&app.pool, BATCH);
    let found = match database::answered(look).await {
        Ok(found) => found,
        Err(error) => {
            return tracing::warn!(%error, "Deadlines that passed could not be looked for");
        }
    };
    for (job, tenant) in found {
        match database::answered(settlement::expire(&app.pool, tenant, job)).await {
            Ok(settled) => {
                tracing::info!(job.id = %job, ?settled, "Job {job}: its deadline passed");
            }
            Err(error) => tracing::warn!(job.id = %job, %error, "Job {job} could not be expired"),
        }
    }
}
