//! Plans the deletion of files that nobody pays for, when their term is over: inputs of jobs that delivered nothing, and uploads of
//! tenants that never paid. They have one whatever their tenant wants; see `docs/retention.md`.
//!
//! Each that was looked at is planned, or due no longer, so each search comes to an end.

use std::sync::Arc;
use std::time::Duration;

use common::id::{JobId, TenantId};
use common::{database, storage, upload, uploading};

use crate::app::App;

/// Jobs and uploads looked at in one step.
const BATCH: i64 = 100;

pub(super) async fn run(app: Arc<App>) {
    if let Some(term) = app.unpaid.undelivered_inputs
        && let Err(error) = inputs(&app, term).await
    {
        tracing::warn!(%error, "Inputs of jobs that delivered nothing could not be looked for; the next turn tries again");
    }
    if let Some(term) = app.unpaid.uploads
        && let Err(error) = uploads(&app, term).await
    {
        tracing::warn!(%error, "Uploads of tenants that never paid could not be looked for; the next turn tries again");
    }
}

async fn inputs(app: &App, term: Duration) -> sqlx::Result<()> {
    let mut planned = 0_usize;
    while !app.stopping.is_cancelled() {
        let due = storage::store::undelivered(&app.pool, term, BATCH);
        let due = database::with_timeout(due).await?;
        for &(tenant, job) in &due {
            database::with_timeout(plan(app, tenant, job)).await?;
        }
        planned += due.len();
        if due.len() < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            break;
        }
    }
    if planned > 0 {
        tracing::info!(
            jobs = planned,
            "The inputs of {planned} jobs that delivered nothing are due"
        );
    }
    Ok(())
}

async fn plan(app: &App, tenant: TenantId, job: JobId) -> sqlx::Result<()> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    storage::store::plan_undelivered(&mut transaction, job).await?;
    transaction.commit().await
}

async fn uploads(app: &App, term: Duration) -> sqlx::Result<()> {
    let mut planned = 0_u64;
    while !app.stopping.is_cancelled() {
        let due = upload::store::unpaid(&app.pool, term, BATCH);
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
            "{planned} uploads of tenants that never paid are due"
        );
    }
    Ok(())
}
