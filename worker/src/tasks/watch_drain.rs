//! Starts no job while an operator is draining this worker. Running jobs go on until they end.

use std::sync::Arc;

use storage::database;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if !is_draining(&app).await {
        return;
    }
    tracing::warn!(
        worker = app.name,
        "An operator is draining this worker: it starts no more jobs"
    );
    app.start_no_job_until(async {
        while is_draining(&app).await {
            tokio::time::sleep(app.timing.probe_interval).await;
        }
    })
    .await;
    tracing::info!(
        worker = app.name,
        "No operator is draining this worker any more: it starts jobs again"
    );
}

/// Whether an operator is draining this worker. Returns `false` if the database does not answer,
/// because an outage must not stop every worker.
async fn is_draining(app: &App) -> bool {
    let drained = storage::operators::is_drained(&app.pool, &app.name);
    database::with_timeout(drained).await.unwrap_or_default()
}
