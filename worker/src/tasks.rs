//! Every task and every schedule of a worker, on one page.
//!
//! | task | runs | does |
//! |---|---|---|
//! | [`generate`] | for each job id from Redis | works on one job, from its claim to its settlement |
//! | [`fill_ready_queue`] | every 200 ms | puts the next due jobs into the ready queue |
//! | [`renew_leases`] | three times per lease | renews the leases of this worker's jobs |
//! | [`reap`] | every second | takes jobs from workers whose lease ran out |
//! | [`expire`] | every second | ends jobs whose deadline has passed |
//! | [`watch_bucket`] | every second | starts no job while the bucket is unavailable |
//! | [`watch_drain`] | every second | starts no job while an operator is draining this worker |
//! | [`refresh_weights`] | every five seconds | reads the tenants' weights, which set their share |
//! | [`retain`] | every five seconds | deletes files and prompts that are due, and writes receipts |
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
/// How often the tenants' weights are read: a worker learns of a change at most this late.
const WEIGHTS_INTERVAL: Duration = Duration::from_secs(5);
/// How many times the apalis worker is restarted in one process. After that the process ends with
/// an error.
const MAX_RESTARTS: usize = 100;
/// How long the stop waits for schedules and lane releases that still run.
const TASKS_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs a worker until `stop_signal` is canceled, and then waits for the running jobs until the
/// grace period (`Timing::grace`) is over. A job that still runs then goes to another worker when
/// its lease runs out.
///
/// # Errors
///
/// Returns an error if the apalis worker ended by itself more than [`MAX_RESTARTS`] times.
pub async fn run(app: Arc<App>, stop_signal: CancellationToken) -> anyhow::Result<()> {
    let end_of_grace = CancellationToken::new();
    let (app_signal, signal) = (app.stop_signal.clone(), stop_signal.clone());
    // The tasks learn of the stop from the signal in `app`.
    app.tasks.spawn(async move {
        signal.cancelled().await;
        app_signal.cancel();
    });
    // The bucket is probed before anything is claimed, because a job must not start if its result
    // could not be stored.
    app.spool.probe().await;
    start_schedules(&app, &stop_signal, &end_of_grace);

    let config = ReadyQueueConfig {
        ready_queue: app.ready_queue.clone(),
        slots: Arc::clone(&app.slots.free_regular),
        reserve: Arc::clone(&app.slots.free_reserve),
        stop: stop_signal.clone(),
        tasks: app.tasks.clone(),
    };
    let job_app = Arc::clone(&app);
    let monitor = Monitor::new()
        .should_restart(|worker, error| {
            tracing::error!(%error, restarts = worker.restarts(), "The apalis worker ended by itself");
            worker.restarts() < MAX_RESTARTS
        })
        .register(move |_| {
            let tasks = job_app.tasks.clone();
            WorkerBuilder::new(job_app.name.clone())
                .backend(ReadyQueueBackend::start(&config))
                .data(Arc::clone(&job_app))
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
    let signal = stop_signal.clone();
    let running = monitor.run_with_signal(async move {
        signal.cancelled().await;
        Ok(())
    });
    tokio::select! {
        ended = running => ended?,
        () = wait_for_end_of_grace(&stop_signal, app.timing.grace) => {
            tracing::warn!(
                jobs = app.leases.count(),
                "The grace period is over: jobs that still run go to another worker when their lease runs out"
            );
        }
    }
    end_of_grace.cancel();
    app.tasks.close();
    // The timeouts of the tasks may be longer than this, and no task may delay the stop.
    let _result = tokio::time::timeout(TASKS_TIMEOUT, app.tasks.wait()).await;
    Ok(())
}

/// Starts every schedule. The schedules that running jobs need go on until `end_of_grace` is
/// canceled. The others start no further run once `stop_signal` is canceled.
fn start_schedules(
    app: &Arc<App>,
    stop_signal: &CancellationToken,
    end_of_grace: &CancellationToken,
) {
    let timing = &app.timing;
    let lease = timing.lease;
    // One run lasts for as long as the bucket is unavailable, so it has no time limit. This
    // schedule goes on after the stop signal, because results that wait for the bucket are stored
    // during the grace period.
    every(
        app,
        timing.probe_interval,
        Duration::MAX,
        end_of_grace,
        watch_bucket::run,
    );
    // One run lasts for as long as an operator is draining this worker.
    every(
        app,
        timing.probe_interval,
        Duration::MAX,
        stop_signal,
        watch_drain::run,
    );
    every(
        app,
        WEIGHTS_INTERVAL,
        ONE_MINUTE,
        stop_signal,
        refresh_weights::run,
    );
    every(
        app,
        timing.dispatch_every,
        lease,
        stop_signal,
        fill_ready_queue::run,
    );
    every(app, lease / 3, lease, end_of_grace, renew_leases::run);
    every(app, timing.reap_every, ONE_MINUTE, stop_signal, reap::run);
    every(app, timing.reap_every, ONE_MINUTE, stop_signal, expire::run);
    every(
        app,
        timing.retain_every,
        ONE_MINUTE,
        stop_signal,
        retain::run,
    );
    every(
        app,
        FOLD_INTERVAL,
        ONE_MINUTE,
        stop_signal,
        fold_billing::run,
    );
    every(
        app,
        timing.prune_every,
        ONE_MINUTE,
        stop_signal,
        prune_answers::run,
    );
    // A run that counts what old tenants store may take hours.
    every(app, FOLD_INTERVAL, ONE_DAY, stop_signal, fold_storage::run);
    every(
        app,
        timing.prune_every,
        ONE_MINUTE,
        stop_signal,
        expire_unpaid::run,
    );
    every(app, timing.sweep_every, ONE_DAY, stop_signal, sweep::run);
    every(app, timing.anchor_every, ONE_DAY, stop_signal, anchor::run);
    every(app, ONE_DAY, ONE_DAY, stop_signal, warn_of_shutdowns::run);
}

/// Works on a job whose id came from Redis. `ready_job` holds its slot until this function returns.
/// Apalis always sees a success, because retries are scheduled in Postgres and never by apalis.
async fn on_ready_job(ready_job: ReadyJob, app: Data<Arc<App>>) {
    generate::run(&app, ready_job.job, ready_job.in_reserve).await;
}

/// Waits for the stop signal, and then for the grace period.
async fn wait_for_end_of_grace(stop_signal: &CancellationToken, grace: Duration) {
    stop_signal.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// Runs a task every `period` until `end` is canceled. A run never overlaps the run before, and
/// missed runs are not made up for. A run that takes longer than `max_duration` is dropped, and the
/// next one starts anew.
fn every<F>(
    app: &Arc<App>,
    period: Duration,
    max_duration: Duration,
    end: &CancellationToken,
    task: fn(Arc<App>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (app, end) = (Arc::clone(app), end.clone());
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    app.tasks.clone().spawn(async move {
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            let run = tokio::time::timeout(max_duration, task(Arc::clone(&app)));
            if run.await.is_err() {
                tracing::error!(
                    task = std::any::type_name_of_val(&task),
                    "A run of a scheduled task took too long and was dropped; the next run starts anew"
                );
            }
        }
    });
}
