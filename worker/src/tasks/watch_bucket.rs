//! Sees whether the bucket is there and is this database's, and starts no job while it is not: what would be bought could not be
//! stored, or would be lost.

use std::sync::Arc;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    app.spool.probe().await;
    if app.spool.accepts_results() {
        return;
    }
    app.start_nothing_until(async {
        while !app.spool.accepts_results() {
            tokio::time::sleep(app.timing.look_every).await;
            app.spool.probe().await;
        }
    })
    .await;
}
