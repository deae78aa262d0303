//! Learns whose share of this worker is larger than that of others. Without an answer what was known holds on.

use std::sync::Arc;

use common::{database, tenant};

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if !app.slots.has_tenant_limits() {
        return;
    }
    match database::with_timeout(tenant::store::weights(&app.pool)).await {
        Ok(weights) => app.slots.set_weights(weights.into_iter().collect()),
        Err(error) => tracing::debug!(%error, "Weights of tenants could not be read"),
    }
}
