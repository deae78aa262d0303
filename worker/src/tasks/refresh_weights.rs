//! Reads the weights of tenants, which set their share of this worker's slots. While the database
//! does not answer, the last known weights apply.

use std::sync::Arc;

use storage::database;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if !app.slots.has_tenant_limits() {
        return;
    }
    match database::with_timeout(storage::tenants::weights(&app.pool)).await {
        Ok(weights) => app.slots.set_weights(weights.into_iter().collect()),
        Err(error) => {
            tracing::debug!(%error, "The tenants' weights could not be read; the last known weights apply");
        }
    }
}
