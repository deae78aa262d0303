//! Every task and every schedule of a worker, on one page.
//!
//! | task | runs | does |
//! |---|---|---|
//! | [`generate`] | for each job id from Redis | works on one job, from claim to settlement |
//! | [`fill_ready_queue`] | every 200 ms | puts the next due jobs into the ready queue |
//! | [`renew_leases`] | three times per lease | renews the leases of this worker's jobs |
//! | [`reap`] | every second | takes jobs from workers whose lease ran out |
//! | [`expire`] | every second | ends jobs whose deadline has passed |
//! | [`watch_bucket`] | every second | starts no job while the bucket is unavailable |
//! | [`watch_drain`] | every second | starts no job while an operator drains this worker |
//! | [`refresh_weights`] | every five seconds | reads the tenants' weights, which set their share |
//! | [`retain`] | every five seconds | deletes files and prompts that are due, writes receipts |
//! | [`fold_billing`] | every five seconds | folds new billing lines into their totals |
//! | [`fold_storage`] | every five seconds | folds new storage lines into the tenants' totals |
//! | [`prune_answers`] | every minute | deletes stored answers of `Idempotency-Key`s that expired |
//! | [`expire_unpaid`] | every minute | plans the deletion of files that nobody pays for |
//! | [`sweep`] | hourly | deletes objects that no row names |
//! | [`anchor`] | hourly | compares the newest anchor with the ledger and writes the next |
//! | [`warn_of_shutdowns`] | daily | logs which models end soon |
//!
//! Any number of workers run all of these at once. None needs a leader, because each effect is one
//! guarded write.

mod anchor;
mod expire;
mod expire_unpaid;
mod fill_ready_queue;
mod fold_billing;
mod fold_storage;
mod generate;
mod prune_answers;
mod reap;
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
use queue::{ReadyJob, ReadyQueueBackend, ReadyQueueConfig};
use tokio_util::sync::CancellationToken;

use crate::app::App;

const ONE_MINUTE: Duration = Duration::from_mins(1);
const ONE_DAY: Duration = Duration::from_hours(24);
/// How often billing and storage lines are folded. Affects scrape cost, never the totals.
const FOLD_INTERVAL: Duration = Duration::from_secs(5);
/// How late, at most, a worker notices that a tenant's weight has changed.
const WEIGHTS_INTERVAL: Duration = Duration::from_secs(5);
/// How often the apalis worker is restarted in one process. After more the process must be
/// replaced.
const MAX_RESTARTS: usize = 100;
/// How long the stop waits for schedules and lane releases that still run.
const TASKS_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs a worker until `stop` is cancelled, then waits for its running jobs as long as the grace
/// (`Timing::grace`) allows. What is left goes to another worker when its lease runs out.
///
/// # Errors
///
/// Fails when the apalis worker ended by itself too often.
pub async fn run(app: Arc<App>, stop: CancellationToken) -> anyhow::Result<()> {
    let schedules = CancellationToken::new();
    let (stopping, stopped) = (app.stopping.clone(), stop.clone());
    app.tasks.spawn(async move {
        stopped.cancelled().await;
        stopping.cancel();
    });
    // Before anything is claimed: a job must not start whose result could not be stored.
    app.spool.probe().await;
    start_schedules(&app, &schedules, &stop);

    let config = ReadyQueueConfig {
        ready_queue: app.ready_queue.clone(),
        slots: Arc::clone(&app.slots.free_regular),
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
                .backend(ReadyQueueBackend::start(&config))
                .data(Arc::clone(&worker))
                .catch_panic()
                .parallelize(move |handler| tasks.spawn(handler))
                .build(on_ready_job)
        });
    tracing::info!(
        worker = app.name,
        slots = app.slots.regular,
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
        () = grace(&stop, app.timing.grace) => {
            tracing::warn!(
                jobs = app.leases.count(),
                "The grace is over: jobs that still run go to another worker when their lease runs out"
            );
        }
    }
    schedules.cancel();
    app.tasks.close();
    // Each task has its own timeout; none of them may delay the stop.
    let _waited = tokio::time::timeout(TASKS_TIMEOUT, app.tasks.wait()).await;
    Ok(())
}

/// Starts every schedule. Those that running jobs need go on until `schedules` is cancelled, after
/// the grace; the others end at once with `stop`.
fn start_schedules(app: &Arc<App>, schedules: &CancellationToken, stop: &CancellationToken) {
    let timing = &app.timing;
    let lease = timing.lease;
    // One run lasts as long as the bucket is unavailable, so it has no limit. It goes on through a
    // stop, because results that wait for the bucket are stored during the grace.
    every(
        app,
        timing.probe_interval,
        Duration::MAX,
        schedules,
        watch_bucket::run,
    );
    every(
        app,
        timing.probe_interval,
        Duration::MAX,
        stop,
        watch_drain::run,
    );
    every(
        app,
        WEIGHTS_INTERVAL,
        ONE_MINUTE,
        stop,
        refresh_weights::run,
    );
    every(
        app,
        timing.dispatch_every,
        lease,
        stop,
        fill_ready_queue::run,
    );
    every(app, lease / 3, lease, schedules, renew_leases::run);
    every(app, timing.reap_every, ONE_MINUTE, stop, reap::run);
    every(app, timing.reap_every, ONE_MINUTE, stop, expire::run);
    every(app, timing.retain_every, ONE_MINUTE, stop, retain::run);
    every(app, FOLD_INTERVAL, ONE_MINUTE, stop, fold_billing::run);
    every(
        app,
        timing.prune_every,
        ONE_MINUTE,
        stop,
        prune_answers::run,
    );
    every(app, FOLD_INTERVAL, ONE_DAY, stop, fold_storage::run);
    every(
        app,
        timing.prune_every,
        ONE_MINUTE,
        stop,
        expire_unpaid::run,
    );
    every(app, timing.sweep_every, ONE_DAY, stop, sweep::run);
    every(app, timing.anchor_every, ONE_DAY, stop, anchor::run);
    every(app, ONE_DAY, ONE_DAY, stop, warn_of_shutdowns::run);
}

/// Works on a job id from Redis. Reports success whatever became of the job: retries are scheduled
/// in Postgres, never by apalis.
async fn on_ready_job(ready_job: ReadyJob, app: Data<Arc<App>>) {
    generate::run(&app, ready_job.job, ready_job.reserved).await;
}

async fn grace(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// Runs a task every `period` until `stop`. A run never overlaps the one before, and missed runs
/// are not caught up. A run that takes longer than `max_duration` is dropped; the next one starts
/// anew.
fn every<F>(
    app: &Arc<App>,
    period: Duration,
    max_duration: Duration,
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
            let run = tokio::time::timeout(max_duration, task(Arc::clone(&app)));
            if run.await.is_err() {
                tracing::error!(
                    task = std::any::type_name_of_val(&task),
                    "A scheduled task took too long and was dropped; it starts anew"
                );
            }
        }
    });
}
