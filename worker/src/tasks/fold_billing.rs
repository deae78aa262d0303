//! Folds new billing lines into their totals, so that a scrape reads few lines. This does not
//! change the values of the metrics. See [`common::money::billing`].

use std::sync::Arc;

use storage::database;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    match database::with_timeout(storage::billing::fold(&app.pool)).await {
        Ok(lines) => tracing::debug!(lines, "Folded {lines} billing lines"),
        Err(error) => {
            tracing::warn!(%error, "Billing lines could not be folded; the next run tries again");
        }
    }
}
