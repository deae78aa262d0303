//! Rings for the next due jobs whose lanes are open, so that a lost ring, a backlog or an emptied Redis heals by
//! itself; and starts them without a ring where Redis stays away.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use common::database;
use common::dispatch::{self, TopUpError};
use common::job::{self, Open};
use common::outcome::Class;
use common::queue::lanes::{self, LaneState};
use common::telemetry::{self, process};

use super::generate;
use crate::app::App;

/// How long Redis may be away before Postgres is asked instead.
const WITHOUT_REDIS: Duration = Duration::from_secs(3);

pub(super) async fn run(app: Arc<App>) {
    let asked = Instant::now();
    let known = app.lanes.states(&app.catalog).await;
    // Without Redis nothing is known of the lanes, and each is taken as open.
    let states = known.as_deref().unwrap_or_default();
    telemetry::lanes(states);
    tell_how_it_stands(&app);
    say_what_changed(&app, states);
    let open = lanes::open(&app.catalog, states);
    app.set_open(open.clone());
    let everyone = open.clone();
    let open = open.without(app.places.shut(false));
    let topped_up = match known {
        Ok(_) => {
            let top_up = dispatch::top_up(&app.pool, &app.ring, &app.name, app.places.slots, &open);
            database::answered(top_up).await
        }
        // It is not asked twice in a turn: one that hangs lets us wait each time.
        Err(error) => Err(TopUpError::Ring(error)),
    };
    let failure = match &topped_up {
        Err(TopUpError::Ring(error)) => Some(error),
        _ => None,
    };
    app.ring.note(failure);
    let away = failure.is_some();
    if since(&app, away.then_some(asked)).is_some_and(|since| since.elapsed() > WITHOUT_REDIS) {
        start_without_ring(&app, &open).await;
    }
    fill_reserve(&app, everyone).await;
    if let Err(error) = topped_up {
        tracing::debug!(%error, "The ring could not be topped up; the next turn tries again");
    }
}

fn tell_how_it_stands(app: &App) {
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (places, pictures) = app.darkroom.places();
    let left = app.leases.first_left().unwrap_or(app.timing.lease);
    process::SLOTS.set(count(app.places.slots));
    process::RESERVE.set(count(app.places.reserve));
    process::RESERVE_LEASES.set(count(app.places.reserve_taken()));
    process::LEASES.set(count(app.leases.count()));
    process::LEASE_LEFT.set(left.as_secs_f64());
    process::DARKROOM.set(count(pictures));
    process::DARKROOM_PLACES.set(count(places));
}

/// Since when Redis is away: since it was `asked` in vain.
fn since(app: &App, asked: Option<Instant>) -> Option<Instant> {
    let mut since = app
        .redis_away
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match (asked, *since) {
        (Some(_), Some(_)) => {}
        (asked, _) => *since = asked,
    }
    *since
}

/// Logs lanes that close and open; a pause because a provider is busy is no news.
fn say_what_changed(app: &App, states: &[LaneState]) {
    let closed = states.iter().filter_map(|state| {
        let class = state.broken?;
        Some((state.lane.to_string(), class))
    });
    let closed: BTreeMap<String, Class> = closed.collect();
    let mut before = app
        .closed_lanes
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
async fn start_without_ring(app: &Arc<App>, open: &Open) {
    let taken = app
        .leases
        .count()
        .saturating_sub(app.places.reserve_taken());
    let free = app.places.slots.saturating_sub(taken);
    let due = job::store::due(&app.pool, i64::try_from(free).unwrap_or(0), open);
    let due = match database::answered(due).await {
        Ok(due) => due,
        Err(error) => return tracing::debug!(%error, "Postgres could not be asked for due jobs"),
    };
    let wanted = u32::try_from(due.len()).unwrap_or(0);
    if wanted == 0 {
        return;
    }
    // A Redis that takes no writes can still be waited for, with every free slot: they are let go of now and then.
    let slots = Arc::clone(&app.places.free_slots).acquire_many_owned(wanted);
    let Ok(Ok(mut slots)) = tokio::time::timeout(WITHOUT_REDIS, slots).await else {
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
async fn fill_reserve(app: &Arc<App>, open: Open) {
    let free = app.places.free_reserve.available_permits();
    if free == 0 || !app.places.is_full() || !app.places.may_look_for_due() {
        return;
    }
    let open = open.without(app.places.shut(true));
    let due = job::store::due(&app.pool, i64::try_from(free).unwrap_or(0), &open);
    let due = match database::answered(due).await {
        Ok(due) => due,
        Err(error) => return tracing::debug!(%error, "Postgres could not be asked for due jobs"),
    };
    for (id, _) in due {
        let Ok(slot) = Arc::clone(&app.places.free_reserve).try_acquire_owned() else {
            return;
        };
        let task = Arc::clone(app);
        app.tasks.spawn(async move {
            generate::run(&task, id, true).await;
            drop(slot);
        });
    }
}
