//! Rings for the next due jobs whose lanes are open, so that a lost ring, a backlog or an emptied Redis heals by
//! itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::dispatch::{self, TopUpError};
use common::job::Open;
use common::queue::lanes;
use common::telemetry;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    // Without Redis nothing is known of the lanes, and nothing is rung.
    let open = match app.lanes.states(&app.catalog).await {
        Ok(states) => {
            telemetry::lanes(&states);
            lanes::open(&app.catalog, &states)
        }
        Err(_) => Open::default(),
    };
    app.set_open(open.clone());
    let topped_up = dispatch::top_up(&app.pool, &app.ring, &app.name, app.slots, &open).await;
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
