//! Starts nothing while an operator wants this worker drained; what it has under way ends.

use std::sync::Arc;

use common::{database, operator};

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if !is_drained(&app).await {
        return;
    }
    tracing::warn!(
        worker = app.name,
        "An operator drains this worker: it starts no further job"
    );
    app.start_nothing_until(async {
        while is_drained(&app).await {
            tokio::time::sleep(app.timing.look_every).await;
        }
    })
    .await;
    tracing::info!(worker = app.name, "This worker starts jobs again");
}

/// A database that does not answer drains nobody.
async fn is_drained(app: &App) -> bool {
    let drained = operator::store::is_drained(&app.pool, &app.name);
    database::with_timeout(drained).await.unwrap_or_default()
}
