//! Folds what transactions added to billing into its totals. What metrics tell does not change by it, only what it takes to
//! read them. See [`common::billing`].

use std::sync::Arc;

use common::{billing, database};

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    match database::with_timeout(billing::store::fold(&app.pool)).await {
        Ok(lines) => tracing::debug!(lines, "Folded {lines} lines of billing"),
        Err(error) => tracing::warn!(%error, "Billing could not be folded"),
    }
}
