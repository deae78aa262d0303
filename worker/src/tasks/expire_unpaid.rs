//! Plans the deletion of files that nobody pays for, when their term is over: inputs of jobs that
//! delivered nothing, and uploads of tenants that never paid. These terms apply whatever retention
//! the tenant has set; see `docs/retention.md`.
//!
//! Each step plans its files or finds them no longer due, so each query returns fewer and the loop
//! ends.

use std::sync::Arc;
use std::time::Duration;

use common::files::uploading;
use domain::id::{JobId, TenantId};
use storage::database;

use crate::app::App;

/// Jobs or uploads handled in one step.
const BATCH: i64 = 100;

pub(super) async fn run(app: Arc<App>) {
    if let Some(term) = app.free_limits.undelivered_inputs
        && let Err(error) = plan_inputs(&app, term).await
    {
        tracing::warn!(%error, "Inputs of jobs that delivered nothing could not be planned for deletion; the next run tries again");
    }
    if let Some(term) = app.free_limits.uploads
        && let Err(error) = plan_uploads(&app, term).await
    {
        tracing::warn!(%error, "Uploads of tenants that never paid could not be planned for deletion; the next run tries again");
    }
}

async fn plan_inputs(app: &App, term: Duration) -> sqlx::Result<()> {
    let mut planned = 0_usize;
    while !app.stopping.is_cancelled() {
        let due = storage::stored_bytes::undelivered(&app.pool, term, BATCH);
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

async fn plan_job(app: &App, tenant: TenantId, job: JobId) -> sqlx::Result<()> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    storage::stored_bytes::plan_undelivered(&mut transaction, job).await?;
    transaction.commit().await
}

async fn plan_uploads(app: &App, term: Duration) -> sqlx::Result<()> {
    let mut planned = 0_u64;
    while !app.stopping.is_cancelled() {
        let due = storage::uploads::unpaid(&app.pool, term, BATCH);
        let due = database::with_timeout(due).await?;
        for &(tenant, id) in &due {
            let expire = uploading::expire(&app.pool, tenant, id, Some(term));
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
