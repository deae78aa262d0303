//! Ends jobs whose deadline has passed, and gives back what they hold. Where a job's calls have begun and its owner may abandon no more
//! of them, its deadline is moved by the time its model may take: read [`common::allowance`].

use std::sync::Arc;
use std::time::Duration;

use common::{database, job, settlement};

use crate::app::App;

/// Jobs ended in one turn.
const BATCH: i64 = 100;
/// How long a job may take after its call, and how long a call of a model may take that is in the catalogue no more.
const TO_SETTLE: Duration = Duration::from_secs(30);
const UNKNOWN_MODEL: Duration = Duration::from_mins(3);

pub(super) async fn run(app: Arc<App>) {
    let look = job::store::deadlines_passed(&app.pool, BATCH);
    let found = match database::with_timeout(look).await {
        Ok(found) => found,
        Err(error) => {
            return tracing::warn!(%error, "Deadlines that passed could not be looked for");
        }
    };
    for (job, tenant) in found {
        let more = |model: &str| {
            let timeout = app.catalog.get(model).map(|model| model.timeout);
            timeout.unwrap_or(UNKNOWN_MODEL) + TO_SETTLE
        };
        let allowance = app.unpaid.cancel_allowance;
        let expire = settlement::expire(&app.pool, (tenant, job), allowance, more);
        match database::with_timeout(expire).await {
            Ok(settled) => {
                tracing::info!(job.id = %job, ?settled, "Job {job}: its deadline passed");
            }
            Err(error) => tracing::warn!(job.id = %job, %error, "Job {job} could not be expired"),
        }
    }
}
