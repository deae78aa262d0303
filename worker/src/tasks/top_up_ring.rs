//! Rings for the next due jobs, so that a lost ring, a backlog or an emptied Redis heals by itself.

use std::sync::Arc;

use common::dispatch;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if let Err(error) = dispatch::top_up(&app.pool, &app.ring, &app.name, app.slots).await {
        tracing::debug!(%error, "The ring could not be topped up; the next turn tries again");
    }
}
