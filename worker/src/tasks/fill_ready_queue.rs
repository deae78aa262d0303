//! Puts the next due jobs whose lanes are available into the ready queue. Because this runs all the
//! time, a lost entry or an emptied Redis needs no repair. While Redis stays unavailable, jobs
//! start from Postgres.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use common::dispatch::{self, FillError};
use domain::job::Capacity;
use domain::lanes::LaneState;
use domain::outcome::Class;
use storage::database;
use telemetry::process;

use super::generate;
use crate::app::App;

/// How long Redis may be unavailable before due jobs are read from Postgres instead, and then how
/// long these jobs wait for free slots.
const REDIS_GRACE: Duration = Duration::from_secs(3);

pub(super) async fn run(app: Arc<App>) {
    let run_started = Instant::now();
    let lane_states = app.lanes.states().await;
    // Without Redis nothing is known of the lanes, so each counts as available.
    let states = lane_states.as_deref().unwrap_or_default();
    telemetry::set_lanes(states);
    export_gauges(&app);
    log_lane_changes(&app, states);
    let capacity = domain::lanes::available(&app.catalog, states);
    app.set_capacity(capacity.clone());
    // The jobs that may start in a slot. `fill_reserve` has other limits.
    let slot_capacity = capacity.clone().without(app.slots.exclusions(false));
    let filled = match lane_states {
        Ok(_) => {
            let fill = dispatch::fill(
                &app.pool,
                &app.ready_queue,
                &app.name,
                app.slots.regular,
                &slot_capacity,
                &app.search_marks,
            );
            database::with_timeout(fill).await
        }
        // A second request in the same run would only wait for another timeout if Redis hangs.
        Err(error) => Err(FillError::Queue(error)),
    };
    let failure = match &filled {
        Err(FillError::Queue(error)) => Some(error),
        _ => None,
    };
    app.ready_queue.note(failure);
    let failed_at = failure.is_some().then_some(run_started);
    let unavailable_since = note_redis(&app, failed_at);
    if unavailable_since.is_some_and(|since| since.elapsed() > REDIS_GRACE) {
        start_without_redis(&app, &slot_capacity).await;
    }
    fill_reserve(&app, capacity).await;
    if let Err(error) = filled {
        tracing::debug!(%error, "The ready queue could not be filled; the next run tries again");
    }
}

/// Sets the metrics that show how busy this worker is.
fn export_gauges(app: &App) {
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (threads, images) = app.render_pool.capacity_and_load();
    // Without any lease, none can run out: the metric shows the whole duration.
    let time_left = app.leases.shortest_time_left().unwrap_or(app.timing.lease);
    process::SLOTS.set(count(app.slots.regular));
    process::RESERVE.set(count(app.slots.reserve));
    process::RESERVE_LEASES.set(count(app.slots.reserve_taken()));
    process::LEASES.set(count(app.leases.count()));
    process::LEASE_LEFT.set(time_left.as_secs_f64());
    process::RENDER_POOL.set(count(images));
    process::RENDER_POOL_SIZE.set(count(threads));
}

/// Notes whether Redis answered in this run. `failed_at` is when this run began, if Redis did not
/// answer. Returns since when Redis has been unavailable, or `None` if it answered.
fn note_redis(app: &App, failed_at: Option<Instant>) -> Option<Instant> {
    let mut since = app
        .redis_unavailable_since
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match (failed_at, *since) {
        // Redis is still unavailable, so the time of the first failure stays.
        (Some(_), Some(_)) => {}
        (failed_at, _) => *since = failed_at,
    }
    *since
}

/// Logs lanes whose circuit breaker opens or closes. A pause because a provider is busy is not
/// logged.
fn log_lane_changes(app: &App, states: &[LaneState]) {
    let unavailable = states.iter().filter_map(|state| {
        let class = state.circuit_open?;
        Some((state.lane.to_string(), class))
    });
    let unavailable: BTreeMap<String, Class> = unavailable.collect();
    let mut before = app
        .unavailable_lanes
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for (lane, class) in &unavailable {
        if !before.contains_key(lane) {
            tracing::warn!(
                lane,
                outcome = class.as_str(),
                "A lane is unavailable because its circuit breaker is open; single calls probe the lane from time to time"
            );
        }
    }
    let recovered = before
        .keys()
        .filter(|lane| !unavailable.contains_key(*lane));
    for lane in recovered {
        tracing::info!(lane, "A lane is available again");
    }
    *before = unavailable;
}

/// Starts as many due jobs as there are free slots. Other workers try to start the same jobs, and
/// the claim decides which worker gets a job.
async fn start_without_redis(app: &Arc<App>, capacity: &Capacity) {
    let taken = app.leases.count().saturating_sub(app.slots.reserve_taken());
    let free = app.slots.regular.saturating_sub(taken);
    let free = i64::try_from(free).unwrap_or(0);
    let due = app.search_marks.search(&app.pool, free, capacity);
    let due = match database::with_timeout(due).await {
        Ok(due) => due,
        Err(error) => {
            return tracing::debug!(%error, "Due jobs could not be read from Postgres; the next run tries again");
        }
    };
    let wanted = u32::try_from(due.len()).unwrap_or(0);
    if wanted == 0 {
        return;
    }
    // The task that pops from the ready queue may hold every free slot: if Redis is available and
    // refuses only writes, its pop still blocks for up to two seconds. The slots become free
    // between two pops, so this waits for longer than one pop.
    let slots = Arc::clone(&app.slots.free_regular).acquire_many_owned(wanted);
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

/// Starts due jobs in the reserve while every slot is taken. New jobs reach the reserve through
/// Redis. This function finds the other due jobs, such as retries.
async fn fill_reserve(app: &Arc<App>, capacity: Capacity) {
    let free = app.slots.free_reserve.available_permits();
    if free == 0 || !app.slots.is_full() || !app.slots.may_query_due_jobs() {
        return;
    }
    let capacity = capacity.without(app.slots.exclusions(true));
    let free = i64::try_from(free).unwrap_or(0);
    let due = app.search_marks.search(&app.pool, free, &capacity);
    let due = match database::with_timeout(due).await {
        Ok(due) => due,
        Err(error) => {
            return tracing::debug!(%error, "Due jobs could not be read from Postgres; the next run tries again");
        }
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
