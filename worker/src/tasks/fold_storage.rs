//! Folds new storage lines into the tenants' totals. A tenant that was created before Platen kept
//! totals has no total yet, so this task counts once what the tenant stores. See
//! [`domain::storage_limit`].

use std::sync::Arc;

use domain::id::TenantId;
use sqlx::Executor;
use storage::billing::Folded;
use storage::database;

use crate::app::App;

/// The most tenants that are counted in one run.
const BATCH: i64 = 100;

pub(super) async fn run(app: Arc<App>) {
    let mark = &app.low_water.storage_lines;
    let from = mark.start().unwrap_or(i64::MIN);
    match database::with_timeout(storage::stored_bytes::fold(&app.pool, from)).await {
        Ok(Folded { lines, last }) => {
            if let Some(last) = last {
                mark.set(last);
            }
            tracing::debug!(lines, "Folded {lines} storage lines");
        }
        Err(error) => {
            tracing::warn!(%error, "Storage lines could not be folded; the next run tries again");
        }
    }
    let uncounted = storage::stored_bytes::uncounted(&app.pool, BATCH);
    let tenants = match database::with_timeout(uncounted).await {
        Ok(tenants) => tenants,
        Err(error) => {
            return tracing::warn!(%error, "Tenants without a storage total could not be queried");
        }
    };
    for tenant in tenants {
        if app.stop_signal.is_cancelled() {
            return;
        }
        match count(&app, tenant).await {
            Ok(()) => tracing::info!(%tenant, "Counted what tenant {tenant} stores"),
            Err(error) => {
                tracing::warn!(%tenant, %error, "What tenant {tenant} stores could not be counted; the next run tries again");
            }
        }
    }
}

/// Counts what a tenant stores. This happens once for a tenant that was created before Platen kept
/// totals, so it may take longer than other statements.
async fn count(app: &App, tenant: TenantId) -> sqlx::Result<()> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    transaction
        .execute("SET LOCAL statement_timeout = '10min'")
        .await?;
    storage::stored_bytes::count(&mut transaction, tenant).await?;
    transaction.commit().await
}
