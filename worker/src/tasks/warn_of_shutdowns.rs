//! Logs daily which models end soon, so that operators learn of it before jobs fail.

use std::sync::Arc;

use domain::catalog::lifecycle::{self, Urgency};
use domain::clock;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    for warning in lifecycle::warnings(&app.catalog, clock::now().date()) {
        match warning.urgency {
            Urgency::Soon => tracing::info!("{}", warning.words),
            Urgency::Near => tracing::warn!("{}", warning.words),
            Urgency::Now => tracing::error!("{}", warning.words),
        }
    }
}
