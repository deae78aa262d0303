//! Probes the bucket. While the bucket is unavailable, or is not this installation's own, no job
//! starts, because the result could not be stored or would be lost.

use std::sync::Arc;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    app.spool.probe().await;
    if app.spool.accepts_results() {
        return;
    }
    app.start_no_job_until(async {
        while !app.spool.accepts_results() {
            tokio::time::sleep(app.timing.probe_interval).await;
            app.spool.probe().await;
        }
    })
    .await;
}
