//! Every task and every schedule of a worker, on one page.
//!
//! | task | runs | does |
//! |---|---|---|
//! | [`generate`] | when Redis rings | works on one job, from claim to settlement |
//! | [`top_up_ring`] | every 200 ms | rings for the next due jobs |
//! | [`renew_leases`] | three times a lease | keeps what this worker works on |
//! | [`reap`] | every second | takes jobs from workers whose lease ran out |
//! | [`expire`] | every second | ends jobs whose deadline has passed |
//! | [`watch_bucket`] | every second | starts nothing while the bucket is away |
//! | [`heed_drain`] | every second | starts nothing while an operator wants it so |
//! | [`heed_weights`] | every five seconds | learns whose share of this worker is larger |
//! | [`retain`] | every five seconds | deletes files and prompts that are due, and keeps receipts |
//! | [`fold_billing`] | every five seconds | keeps the roll-up short that billing metrics read |
//! | [`fold_storage`] | every five seconds | keeps the count short of what tenants store |
//! | [`prune_answers`] | every minute | deletes answers for repeated requests whose time is over |
//! | [`expire_unpaid`] | every minute | plans the deletion of files that nobody pays for |
//! | [`sweep`] | hourly | removes objects that no row names |
//! | [`anchor`] | hourly | compares the newest anchor with the ledger, and writes the next |
//! | [`warn_of_shutdowns`] | daily | says which models end soon |
//!
//! Any number of workers run all of them at once; none needs a leader, for each effect is one guarded write.

mod anchor;
mod expire;
mod expire_unpaid;
mod fill_ready_queue;
mod fold_billing;
mod fold_storage;
mod generate;
mod prune_answers;
pub(crate) mod reap;
mod refresh_weights;
mod renew_leases;
mod retain;
mod sweep;
mod warn_of_shutdowns;
mod watch_bucket;
mod watch_drain;

use std::sync::Arc;
use std::time::Duration;

use apalis::prelude::{Data, Monitor, ParallelizeExt, WorkerBuilder, WorkerBuilderExt};
use common::queue::{ReadyJob, ReadyQueueBackend, ReadyQueueConfig};
use tokio_util::sync::CancellationToken;

use crate::app::App;

const A_MINUTE: Duration = Duration::from_mins(1);
/// How many lines there are to add up at a scrape is a matter of this, not what it tells.
const FOLD_EVERY: Duration = Duration::from_secs(5);
/// How late a worker notices that a tenant's weight was changed.
const REFRESH_WEIGHTS_EVERY: Duration = Duration::from_secs(5);
const A_DAY: Duration = Duration::from_hours(24);
/// Restarts of the apalis worker that are survived; more than this is a fault that a new process must end.
const MAX_RESTARTS: usize = 100;

/// Runs a worker until `stop`, then waits for its jobs as long as the grace allows.
pub async fn run(app: Arc<App>, stop: CancellationToken) -> anyhow::Result<()> {
    let schedules = CancellationToken::new();
    let (stopping, stopped) = (app.stopping.clone(), stop.clone());
    app.tasks.spawn(async move {
        stopped.cancelled().await;
        stopping.cancel();
    });
    let timing = app.timing.clone();
    let lease = timing.lease;
    // Before anything is claimed.
    app.spool.probe().await;
    // Its turn lasts for as long as the bucket is away, and what waits for it waits through a stop, too.
    every(
        &app,
        timing.look_every,
        Duration::MAX,
        &schedules,
        watch_bucket::run,
    );
    every(
        &app,
        timing.look_every,
        Duration::MAX,
        &stop,
        watch_drain::run,
    );
    every(
        &app,
        REFRESH_WEIGHTS_EVERY,
        A_MINUTE,
        &stop,
        refresh_weights::run,
    );
    every(
        &app,
        timing.dispatch_every,
        lease,
        &stop,
        fill_ready_queue::run,
    );
    every(&app, lease / 3, lease, &schedules, renew_leases::run);
    every(&app, timing.reap_every, A_MINUTE, &stop, reap::run);
    every(&app, timing.reap_every, A_MINUTE, &stop, expire::run);
    every(&app, timing.retain_every, A_MINUTE, &stop, retain::run);
    every(&app, FOLD_EVERY, A_MINUTE, &stop, fold_billing::run);
    every(
        &app,
        timing.prune_every,
        A_MINUTE,
        &stop,
        prune_answers::run,
    );
    every(&app, FOLD_EVERY, A_DAY, &stop, fold_storage::run);
    every(
        &app,
        timing.prune_every,
        A_MINUTE,
        &stop,
        expire_unpaid::run,
    );
    every(&app, timing.sweep_every, A_DAY, &stop, sweep::run);
    every(&app, timing.anchor_every, A_DAY, &stop, anchor::run);
    every(&app, A_DAY, A_DAY, &stop, warn_of_shutdowns::run);

    let doorbell = ReadyQueueConfig {
        ready_queue: app.ready_queue.clone(),
        slots: Arc::clone(&app.slots.free_slots),
        reserve: Arc::clone(&app.slots.free_reserve),
        stop: stop.clone(),
        tasks: app.tasks.clone(),
    };
    let worker = Arc::clone(&app);
    let monitor = Monitor::new()
        .should_restart(|worker, error| {
            tracing::error!(%error, restarts = worker.restarts(), "The apalis worker ended");
            worker.restarts() < MAX_RESTARTS
        })
        .register(move |_| {
            let tasks = worker.tasks.clone();
            WorkerBuilder::new(worker.name.clone())
                .backend(ReadyQueueBackend::start(&doorbell))
                .data(Arc::clone(&worker))
                .catch_panic()
                .parallelize(move |handler| tasks.spawn(handler))
                .build(on_ready_job)
        });
    tracing::info!(
        worker = app.name,
        slots = app.slots.slots,
        reserve = app.slots.reserve,
        "Worker is ready"
    );
    let stopped = stop.clone();
    let running = monitor.run_with_signal(async move {
        stopped.cancelled().await;
        Ok(())
    });
    tokio::select! {
        ended = running => ended?,
        () = grace(&stop, timing.grace) => {
            tracing::warn!(jobs = app.leases.count(), "The grace is over; what is left goes to another worker when its lease runs out");
        }
    }
    schedules.cancel();
    app.tasks.close();
    // What still runs is bounded by its own time-outs; it must not hold up the stop.
    let _waited = tokio::time::timeout(Duration::from_secs(3), app.tasks.wait()).await;
    Ok(())
}

/// A ring is answered with Ok whatever became of the job: retries live in Postgres.
async fn on_ready_job(ready_job: ReadyJob, app: Data<Arc<App>>) {
    generate::run(&app, ready_job.job, ready_job.reserved).await;
}

async fn grace(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// Repeats a task until `stop`. It never overlaps itself, and catches up on nothing it missed; a turn that takes longer
/// than `most` hangs, and the next one begins anew.
fn every<F>(
    app: &Arc<App>,
    period: Duration,
    most: Duration,
    stop: &CancellationToken,
    task: fn(Arc<App>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (app, stop) = (Arc::clone(app), stop.clone());
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    app.tasks.clone().spawn(async move {
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let turn = tokio::time::timeout(most, task(Arc::clone(&app)));
            if turn.await.is_err() {
                tracing::error!(
                    task = std::any::type_name_of_val(&task),
                    "A turn hangs and is dropped"
                );
            }
        }
    });
}
