//! Folds new billing lines into their totals, so that a scrape reads few lines. This does not
//! change the values of the metrics. See [`common::money::billing`].

use std::sync::Arc;

use storage::billing::Folded;
use storage::database;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    let mark = &app.low_water.billing_lines;
    let from = mark.start().unwrap_or(i64::MIN);
    match database::with_timeout(storage::billing::fold(&app.pool, from)).await {
        Ok(Folded { lines, last }) => {
            if let Some(last) = last {
                mark.set(last);
            }
            tracing::debug!(lines, "Folded {lines} billing lines");
        }
        Err(error) => {
            tracing::warn!(%error, "Billing lines could not be folded; the next run tries again");
        }
    }
}
