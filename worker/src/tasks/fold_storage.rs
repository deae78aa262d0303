//! Keeps the count of what tenants store short, and counts those that are older than it. See [`common::storage`].

use std::sync::Arc;

use common::id::TenantId;
use common::{database, storage};
use sqlx::Executor;

use crate::app::App;

/// Tenants counted in one turn.
const BATCH: i64 = 100;

pub(super) async fn run(app: Arc<App>) {
    match database::with_timeout(storage::store::fold(&app.pool)).await {
        Ok(lines) => tracing::debug!(lines, "Folded {lines} lines of storage"),
        Err(error) => tracing::warn!(%error, "What tenants store could not be folded"),
    }
    let uncounted = storage::store::uncounted(&app.pool, BATCH);
    let tenants = match database::with_timeout(uncounted).await {
        Ok(tenants) => tenants,
        Err(error) => {
            return tracing::warn!(%error, "Tenants to be counted could not be looked for");
        }
    };
    for tenant in tenants {
        if app.stopping.is_cancelled() {
            return;
        }
        match count(&app, tenant).await {
            Ok(()) => tracing::info!(%tenant, "Counted what tenant {tenant} stores, once"),
            Err(error) => {
                tracing::warn!(%tenant, %error, "What tenant {tenant} stores could not be counted; the next turn tries again");
            }
        }
    }
}

/// Once in a tenant's life, and only of one that is older than the count: it may take as long as it needs.
async fn count(app: &App, tenant: TenantId) -> sqlx::Result<()> {
    let mut transaction = database::begin_for(&app.pool, tenant).await?;
    transaction
        .execute("SET LOCAL statement_timeout = '10min'")
        .await?;
    storage::store::count(&mut transaction, tenant).await?;
    transaction.commit().await
}
