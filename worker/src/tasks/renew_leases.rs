//! Renews the leases of all jobs that this worker works on, in one statement.

use std::sync::Arc;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    app.leases.renew(&app.pool, app.timing.lease).await;
}
