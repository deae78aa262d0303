//! Rings for the next due jobs whose lanes are open, so that a lost ring, a backlog or an emptied Redis heals by
//! itself; and starts them without a ring where Redis stays away.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use common::database;
use common::dispatch::{self, FillError};
use common::job::{self, Capacity};
use common::outcome::Class;
use common::queue::lanes::{self, LaneState};
use common::telemetry::{self, process};

use super::generate;
use crate::app::App;

/// How long Redis may be away before Postgres is asked instead.
const REDIS_GRACE: Duration = Duration::from_secs(3);

pub(super) async fn run(app: Arc<App>) {
    let asked = Instant::now();
    let known = app.lanes.states(&app.catalog).await;
    // Without Redis nothing is known of the lanes, and each is taken as open.
    let states = known.as_deref().unwrap_or_default();
    telemetry::lanes(states);
    export_gauges(&app);
    log_lane_changes(&app, states);
    let open = lanes::available(&app.catalog, states);
    app.set_capacity(open.clone());
    let everyone = open.clone();
    let open = open.without(app.slots.exclusions(false));
    let topped_up = match known {
        Ok(_) => {
            let top_up = dispatch::fill(
                &app.pool,
                &app.ready_queue,
                &app.name,
                app.slots.slots,
                &open,
            );
            database::with_timeout(top_up).await
        }
        // It is not asked twice in a turn: one that hangs lets us wait each time.
        Err(error) => Err(FillError::Queue(error)),
    };
    let failure = match &topped_up {
        Err(FillError::Queue(error)) => Some(error),
        _ => None,
    };
    app.ready_queue.note(failure);
    let away = failure.is_some();
    if since(&app, away.then_some(asked)).is_some_and(|since| since.elapsed() > REDIS_GRACE) {
        start_without_redis(&app, &open).await;
    }
    fill_reserve(&app, everyone).await;
    if let Err(error) = topped_up {
        tracing::debug!(%error, "The ring could not be topped up; the next turn tries again");
    }
}

fn export_gauges(app: &App) {
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (places, pictures) = app.render_pool.places();
    let left = app.leases.first_left().unwrap_or(app.timing.lease);
    process::SLOTS.set(count(app.slots.slots));
    process::RESERVE.set(count(app.slots.reserve));
    process::RESERVE_LEASES.set(count(app.slots.reserve_taken()));
    process::LEASES.set(count(app.leases.count()));
    process::LEASE_LEFT.set(left.as_secs_f64());
    process::RENDER_POOL.set(count(pictures));
    process::RENDER_POOL_SIZE.set(count(places));
}

/// Since when Redis is away: since it was `asked` in vain.
fn since(app: &App, asked: Option<Instant>) -> Option<Instant> {
    let mut since = app
        .redis_unavailable_since
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match (asked, *since) {
        (Some(_), Some(_)) => {}
        (asked, _) => *since = asked,
    }
    *since
}

/// Logs lanes that close and open; a pause because a provider is busy is no news.
fn log_lane_changes(app: &App, states: &[LaneState]) {
    let closed = states.iter().filter_map(|state| {
        let class = state.circuit_open?;
        Some((state.lane.to_string(), class))
    });
    let closed: BTreeMap<String, Class> = closed.collect();
    let mut before = app
        .unavailable_lanes
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for (lane, class) in &closed {
        if !before.contains_key(lane) {
            tracing::warn!(
                lane,
                outcome = class.as_str(),
                "A lane closed; it is probed from time to time"
            );
        }
    }
    for lane in before.keys().filter(|lane| !closed.contains_key(*lane)) {
        tracing::info!(lane, "A lane is open again");
    }
    *before = closed;
}

/// Starts as many due jobs as there are free slots. Other workers do the same: the claim decides.
async fn start_without_redis(app: &Arc<App>, open: &Capacity) {
    let taken = app.leases.count().saturating_sub(app.slots.reserve_taken());
    let free = app.slots.slots.saturating_sub(taken);
    let due = job::store::due(&app.pool, i64::try_from(free).unwrap_or(0), open);
    let due = match database::with_timeout(due).await {
        Ok(due) => due,
        Err(error) => return tracing::debug!(%error, "Postgres could not be asked for due jobs"),
    };
    let wanted = u32::try_from(due.len()).unwrap_or(0);
    if wanted == 0 {
        return;
    }
    // A Redis that takes no writes can still be waited for, with every free slot: they are let go of now and then.
    let slots = Arc::clone(&app.slots.free_slots).acquire_many_owned(wanted);
    let Ok(Ok(mut slots)) = tokio::time::timeout(REDIS_GRACE, slots).await else {
        return;
    };
    for (id, _) in due {
        let slot = slots.split(1);
        let task = Arc::clone(app);
        app.tasks.spawn(async move {
            generate::run(&task, id, false).await;
            drop(slot);
        });
    }
}

/// While every slot is taken: starts due jobs that may start in the reserve and that no ring told of, such as those
/// that are tried again.
async fn fill_reserve(app: &Arc<App>, open: Capacity) {
    let free = app.slots.free_reserve.available_permits();
    if free == 0 || !app.slots.is_full() || !app.slots.may_query_due_jobs() {
        return;
    }
    let open = open.without(app.slots.exclusions(true));
    let due = job::store::due(&app.pool, i64::try_from(free).unwrap_or(0), &open);
    let due = match database::with_timeout(due).await {
        Ok(due) => due,
        Err(error) => return tracing::debug!(%error, "Postgres could not be asked for due jobs"),
    };
    for (id, _) in due {
        let Ok(slot) = Arc::clone(&app.slots.free_reserve).try_acquire_owned() else {
            return;
        };
        let task = Arc::clone(app);
        app.tasks.spawn(async move {
            generate::run(&task, id, true).await;
            drop(slot);
        });
    }
}
