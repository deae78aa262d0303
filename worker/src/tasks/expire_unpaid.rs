//! Plans the deletion of files that nobody pays for, once their retention time is over: inputs of
//! jobs that delivered nothing, and uploads of tenants that never paid. These times apply whatever
//! retention the tenant has set. See `docs/retention.md`.
//!
//! Each step plans the deletion of the files that its query found, or finds that they are no longer
//! due. So the later queries find fewer files, and the loop ends.

use std::sync::Arc;
use std::time::Duration;

use common::files::uploading;
use domain::id::{JobId, TenantId};
use storage::database;

use crate::app::App;

/// The most jobs or uploads that are handled in one step.
const BATCH: i64 = 100;

pub(super) async fn run(app: Arc<App>) {
    if let Some(max_age) = app.unbilled_limits.undelivered_inputs
        && let Err(error) = plan_inputs(&app, max_age).await
    {
        tracing::warn!(%error, "The deletion of inputs of jobs that delivered nothing could not be planned; the next run tries again");
    }
    if let Some(max_age) = app.unbilled_limits.uploads
        && let Err(error) = plan_uploads(&app, max_age).await
    {
        tracing::warn!(%error, "The deletion of uploads of tenants that never paid could not be planned; the next run tries again");
    }
}

/// Plans the deletion of the inputs of jobs that delivered nothing, if the inputs were kept for
/// `max_age`.
async fn plan_inputs(app: &App, max_age: Duration) -> sqlx::Result<()> {
    let mut planned = 0_usize;
    while !app.stop_signal.is_cancelled() {
        let due = storage::stored_bytes::undelivered(&app.pool, max_age, BATCH);
        let due = database::with_timeout(due).await?;
        for &(tenant, job) in &due {
            database::with_timeout(plan_job(app, tenant, job)).await?;
        }
        planned += due.len();
        if due.len() < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            break;
        }
    }
    if planned > 0 {
        tracing::info!(
            jobs = planned,
            "Planned the deletion of the inputs of {planned} jobs that delivered nothing"
        );
    }
    Ok(())
}

/// Plans the deletion of one job's inputs.
async fn plan_job(app: &App, tenant: TenantId, job: JobId) -> sqlx::Result<()> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    storage::stored_bytes::plan_undelivered(&mut transaction, job).await?;
    transaction.commit().await
}

/// Plans the deletion of uploads of tenants that never paid, if no job has used the uploads for
/// `max_age`.
async fn plan_uploads(app: &App, max_age: Duration) -> sqlx::Result<()> {
    let mut planned = 0_u64;
    while !app.stop_signal.is_cancelled() {
        let due = storage::uploads::unpaid(&app.pool, max_age, BATCH);
        let due = database::with_timeout(due).await?;
        for &(tenant, id) in &due {
            let expire = uploading::expire(&app.pool, tenant, id, Some(max_age));
            planned += u64::from(database::with_timeout(expire).await?);
        }
        if due.len() < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            break;
        }
    }
    if planned > 0 {
        tracing::info!(
            uploads = planned,
            "Planned the deletion of {planned} uploads of tenants that never paid"
        );
    }
    Ok(())
}
