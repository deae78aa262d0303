//! Ends jobs whose deadline has passed, and releases their holds.
//!
//! If a job has running calls and its tenant has used up the cancel allowance, the job does not end
//! yet: its deadline is extended once, by the time that the model may take. See
//! [`domain::allowance`].

use std::sync::Arc;
use std::time::Duration;

use common::settlement;
use storage::database;

use crate::app::App;

/// The most jobs that are ended in one run.
const BATCH: i64 = 100;
/// How much longer than the model's timeout the deadline is extended, for storing and settling.
const SETTLE_TIME: Duration = Duration::from_secs(30);
/// The timeout that is assumed for a model that is no longer in the catalogue.
const UNKNOWN_MODEL_TIMEOUT: Duration = Duration::from_mins(3);

pub(super) async fn run(app: Arc<App>) {
    let query = storage::jobs::jobs_past_deadline(&app.pool, BATCH);
    let found = match database::with_timeout(query).await {
        Ok(found) => found,
        Err(error) => {
            return tracing::warn!(%error, "The jobs whose deadline has passed could not be queried");
        }
    };
    for (job, tenant) in found {
        let extension = |model: &str| {
            let timeout = app.catalog.get(model).map(|model| model.timeout);
            timeout.unwrap_or(UNKNOWN_MODEL_TIMEOUT) + SETTLE_TIME
        };
        let allowance = app.unbilled_limits.cancel_allowance;
        let expire = settlement::expire(&app.pool, (tenant, job), allowance, extension);
        match database::with_timeout(expire).await {
            Ok(settled) => {
                tracing::info!(job.id = %job, ?settled, "The deadline of job {job} has passed");
            }
            Err(error) => tracing::warn!(job.id = %job, %error, "Job {job} could not be expired"),
        }
    }
}
