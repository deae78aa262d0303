//! Starts no job while an operator drains this worker; running jobs end.

use std::sync::Arc;

use storage::database;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if !is_drained(&app).await {
        return;
    }
    tracing::warn!(
        worker = app.name,
        "An operator drains this worker: it starts no further job"
    );
    app.pause_starts_until(async {
        while is_drained(&app).await {
            tokio::time::sleep(app.timing.probe_interval).await;
        }
    })
    .await;
    tracing::info!(worker = app.name, "This worker starts jobs again");
}

/// Whether this worker is drained. `false` when the database does not answer: an outage must not
/// stop every worker.
async fn is_drained(app: &App) -> bool {
    let drained = storage::operators::is_drained(&app.pool, &app.name);
    database::with_timeout(drained).await.unwrap_or_default()
}
