//! Rings for the next due jobs, so that a lost ring, a backlog or an emptied Redis heals by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::dispatch::{self, TopUpError};

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    let topped_up = dispatch::top_up(&app.pool, &app.ring, &app.name, app.slots).await;
    let away = matches!(topped_up, Err(TopUpError::Ring(_)));
    // Said when it changes, not five times a second.
    if app.redis_away.swap(away, Ordering::Relaxed) != away {
        if away {
            tracing::warn!(
                "Redis does not answer: jobs are kept in Postgres and start when it is back"
            );
        } else {
            tracing::info!("Redis answers again");
        }
    }
    if let Err(error) = topped_up {
        tracing::debug!(%error, "The ring could not be topped up; the next turn tries again");
    }
}
