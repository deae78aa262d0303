//! The side of the ready queue that pops ids: an apalis [`Backend`] over a blocking pop.
//!
//! A task, the poller, pops ids only while the worker asks for jobs, and only as many ids as there
//! are free slots. An id that is popped and cannot start would be unavailable to other workers.
//! While no slot is free, the poller pops new jobs for the worker's reserve. Here, *the worker* is
//! the apalis worker of this process.
//!
//! A Redis error never reaches the worker (`Error = Infallible`), because apalis would end the
//! worker. Instead, the poller waits and connects again. It has a connection of its own, for two
//! reasons: a blocking pop would delay every other command on the connection, and the connection's
//! response timeout must be longer than the pop blocks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::layers::Identity;
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::{RandomId, TaskId};
use apalis_core::worker::context::WorkerContext;
use backon::{BackoffBuilder, ExponentialBuilder};
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Address, FULL_TTL, Keys, ReadyQueue, RedisFailure};
use domain::id::JobId;

/// How long a pop blocks. A broken connection that was never closed is noticed only after this
/// time.
const POP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a worker without a free slot looks for new jobs that may start in its reserve.
const FRESH_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often a worker without a free slot says so, because new jobs are listed only then.
const FULL_INTERVAL: Duration = Duration::from_secs(1);
/// Most ids in the list of new jobs. The dispatcher finds jobs that are dropped from the list.
const MAX_FRESH: isize = 1_000;
/// How long the list of new jobs is kept after a worker last said that it has no free slot.
const FRESH_TTL: Duration = Duration::from_secs(30);
/// How long opening a connection may take, and how long an answer to a command that does not block
/// may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time between two attempts to connect. Jitter adds up to the same time again.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// What a [`ReadyQueueBackend`] pops from, and the slots it pops for.
#[derive(Clone)]
pub struct ReadyQueueConfig {
    /// The queue to pop from.
    pub ready_queue: ReadyQueue,
    /// The worker's slots. Together with the reserve, the slots are the only limit on how many jobs
    /// run at once. They belong to the process, so the slots of running jobs stay taken when apalis
    /// restarts the worker.
    pub slots: Arc<Semaphore>,
    /// The places of the reserve: further slots, for jobs that may start although all ordinary
    /// slots are taken.
    pub reserve: Arc<Semaphore>,
    /// Canceled when the poller must stop.
    pub stop: CancellationToken,
    /// Tracks the poller's task. Shutdown waits for the poller, which puts ids that were not
    /// started back into the queue.
    pub tasks: TaskTracker,
}

/// A job that may be claimed, and the slot it will run in. Dropping the value frees the slot.
#[derive(Debug)]
pub struct ReadyJob {
    /// The job.
    pub job: JobId,
    /// Whether the slot belongs to the reserve.
    pub in_reserve: bool,
    /// The job's place in the queue. It is needed to put the job back.
    virtual_time: f64,
    _slot: OwnedSemaphorePermit,
}

/// The backend of a worker. Dropping the backend stops its poller.
pub struct ReadyQueueBackend {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What the backend and its poller share.
#[derive(Default)]
struct Shared {
    /// One lock protects the jobs and the waker. Otherwise a job could arrive after the worker has
    /// found no job and before its waker is registered.
    buffer: Mutex<Buffer>,
    /// Notified when the worker asks for a job.
    wanted: Notify,
}

#[derive(Default)]
struct Buffer {
    /// Jobs that were popped and that the worker has not taken yet.
    jobs: VecDeque<ReadyJob>,
    /// Wakes the worker, if it waits for more jobs.
    waker: Option<Waker>,
}

impl ReadyQueueBackend {
    /// Starts the poller.
    pub fn start(config: &ReadyQueueConfig) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = config.stop.child_token();
        let poller = Poller {
            config: config.clone(),
            stop: stop.clone(),
            shared: Arc::clone(&shared),
            connection: None,
            said_full: None,
        };
        config.tasks.spawn(poller.run());
        Self {
            shared,
            _stop: stop.drop_guard(),
        }
    }
}

impl Backend for ReadyQueueBackend {
    type Task = Task<ReadyJob>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// Never returns `None`, because apalis would then end the worker.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        let mut buffer = self
            .shared
            .buffer
            .lock()
            .expect("no panic while it is held");
        if let Some(ready_job) = buffer.jobs.pop_front() {
            let id = TaskId::from_string(ready_job.job.to_string());
            return Poll::Ready(Some(Ok(TaskBuilder::new(ready_job).task_id(id).build())));
        }
        buffer.waker = Some(cx.waker().clone());
        self.shared.wanted.notify_one();
        Poll::Pending
    }

    /// Does nothing. The poller puts ids back as soon as it is stopped. Apalis closes the backend
    /// only after the last handler has ended, which is minutes later.
    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for ReadyQueueBackend {
    type Args = ReadyJob;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// The task that pops ids for one backend.
struct Poller {
    config: ReadyQueueConfig,
    stop: CancellationToken,
    shared: Arc<Shared>,
    connection: Option<PopConnection>,
    /// When this poller last said that the worker has no free slot.
    said_full: Option<Instant>,
}

/// A connection that only pops, and its id, by which another connection can unblock it.
struct PopConnection {
    connection: MultiplexedConnection,
    client_id: i64,
}

impl Poller {
    async fn run(mut self) {
        while self.tick().await.is_some() {}
        self.give_back().await;
    }

    /// Waits until the worker asks for a job, then for a slot, then for ids, however long this
    /// takes and however often Redis fails. Returns `None` if the poller is stopped.
    async fn tick(&mut self) -> Option<()> {
        let shared = Arc::clone(&self.shared);
        self.stop
            .run_until_cancelled(shared.wanted.notified())
            .await?;
        let mut delays = reconnect_delays();
        loop {
            // The poller connects before it takes a slot. While Redis is unavailable, jobs start
            // from Postgres instead, and they need the slots.
            let popped = match self.connect().await {
                Ok(()) => {
                    let (permit, in_reserve) = self.next_slots().await?;
                    let popped = if in_reserve {
                        self.pop_fresh(permit.num_permits()).await
                    } else {
                        self.pop(permit.num_permits()).await
                    };
                    popped.map(|ids| (ids, permit, in_reserve))
                }
                Err(error) => Err(error),
            };
            if self.stop.is_cancelled() {
                return None;
            }
            match popped {
                // Nothing was popped: the blocking pop timed out, or there is no new job for the
                // reserve. The permit is dropped here, so other tasks can take its slots before the
                // next pop.
                Ok((ids, ..)) if ids.is_empty() => delays = reconnect_delays(),
                Ok((ids, mut permit, in_reserve)) => {
                    self.hand_over(&ids, &mut permit, in_reserve);
                    if !in_reserve && self.config.ready_queue.expects_fresh() {
                        self.forget_fresh(&ids).await;
                    }
                    return Some(());
                }
                Err(error) => {
                    self.connection = None;
                    let delay = delays.next().unwrap_or(MAX_RECONNECT_DELAY);
                    let reason =
                        RedisFailure::classify(&error).map_or("other", RedisFailure::as_str);
                    tracing::debug!(%error, reason, delay_ms = delay.as_millis(), "Cannot pop jobs from Redis; connecting again");
                    self.stop
                        .run_until_cancelled(tokio::time::sleep(delay))
                        .await?;
                }
            }
        }
    }

    /// Waits until an ordinary slot or a place of the reserve is free. Takes all ordinary slots
    /// that are free, and returns `false` with them. If none becomes free in a tenth of a second,
    /// takes all free places of the reserve instead, and returns `true` with them. Returns `None`
    /// if the poller is stopped.
    async fn next_slots(&self) -> Option<(OwnedSemaphorePermit, bool)> {
        let ReadyQueueConfig { slots, reserve, .. } = &self.config;
        loop {
            let slot = Arc::clone(slots).acquire_owned();
            let slot = tokio::time::timeout(FRESH_POLL_INTERVAL, slot);
            match self.stop.run_until_cancelled(slot).await? {
                Ok(slot) => return Some((with_all_free(slot.ok()?, slots), false)),
                Err(_) => {
                    if let Ok(slot) = Arc::clone(reserve).try_acquire_owned() {
                        return Some((with_all_free(slot, reserve), true));
                    }
                }
            }
        }
    }

    /// Gives popped jobs to the worker, each with a slot of `permit`.
    fn hand_over(
        &self,
        ids: &[(String, f64)],
        permit: &mut OwnedSemaphorePermit,
        in_reserve: bool,
    ) {
        let mut buffer = self
            .shared
            .buffer
            .lock()
            .expect("no panic while it is held");
        for &(ref id, virtual_time) in ids {
            // Platen adds only ids of jobs. Anything else was written by somebody else, and is
            // dropped.
            if let (Ok(job), Some(slot)) = (id.parse(), permit.split(1)) {
                buffer.jobs.push_back(ReadyJob {
                    job,
                    in_reserve,
                    virtual_time,
                    _slot: slot,
                });
            }
        }
        if let Some(waker) = buffer.waker.take() {
            waker.wake();
        }
    }

    async fn connect(&mut self) -> RedisResult<()> {
        if self.connection.is_none() {
            self.connection = Some(PopConnection::connect(&self.config.ready_queue.address).await?);
        }
        Ok(())
    }

    /// Pops up to `count` ids. Waits up to [`POP_TIMEOUT`] for the first one.
    ///
    /// The command is never dropped while it blocks on a live connection. The server would still
    /// pop ids, and its answer would reach nobody. When the poller is stopped, a second connection
    /// unblocks the command, and ids that arrive all the same are put back.
    async fn pop(&mut self, count: usize) -> RedisResult<Vec<(String, f64)>> {
        let pop_connection = self.connection.as_mut().expect("connected before");
        let client_id = pop_connection.client_id;
        let mut command = redis::cmd("BZMPOP");
        command
            .arg(POP_TIMEOUT.as_secs())
            .arg(1)
            .arg(&self.config.ready_queue.keys.ready)
            .arg("MIN")
            .arg("COUNT")
            .arg(count);
        let reply = command
            .query_async::<Option<(String, Vec<(String, f64)>)>>(&mut pop_connection.connection);
        tokio::pin!(reply);
        let answered = tokio::select! {
            answered = &mut reply => answered,
            () = self.stop.cancelled() => {
                if let Err(error) = unblock(&self.config.ready_queue.address, client_id).await {
                    tracing::debug!(%error, "The blocked pop could not be unblocked; it ends after its timeout");
                }
                reply.await
            }
        };
        let ids = answered?.map_or_else(Vec::new, |(_, ids)| ids);
        if self.stop.is_cancelled() && !ids.is_empty() {
            restore(
                &self.config.ready_queue.address,
                &self.config.ready_queue.keys,
                &ids,
            )
            .await?;
            return Ok(Vec::new());
        }
        Ok(ids)
    }

    /// Pops up to `count` new jobs for the reserve. Does not block, because an ordinary slot may
    /// become free at any moment, and any job can use such a slot. Once in each [`FULL_INTERVAL`],
    /// it also says that this worker has no free slot, because new jobs are listed only then.
    async fn pop_fresh(&mut self, count: usize) -> RedisResult<Vec<(String, f64)>> {
        let pop_connection = self.connection.as_mut().expect("connected before");
        let keys = &self.config.ready_queue.keys;
        if self
            .said_full
            .is_none_or(|at| at.elapsed() >= FULL_INTERVAL)
        {
            let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let mut say = redis::pipe();
            say.cmd("SET")
                .arg(&keys.full)
                .arg(1)
                .arg("PX")
                .arg(milliseconds(FULL_TTL));
            // Keeps the first `MAX_FRESH` entries.
            say.cmd("ZREMRANGEBYRANK")
                .arg(&keys.fresh)
                .arg(MAX_FRESH)
                .arg(-1);
            say.cmd("PEXPIRE")
                .arg(&keys.fresh)
                .arg(milliseconds(FRESH_TTL));
            say.query_async::<()>(&mut pop_connection.connection)
                .await?;
            self.said_full = Some(Instant::now());
            self.config.ready_queue.expect_fresh();
        }
        let mut pop = redis::cmd("ZPOPMIN");
        pop.arg(&keys.fresh).arg(count);
        pop.query_async(&mut pop_connection.connection).await
    }

    /// Removes popped ids from the list of new jobs. If this fails, another worker may try to claim
    /// one of them for its reserve. The claim then finds that the job is taken.
    async fn forget_fresh(&mut self, ids: &[(String, f64)]) {
        let Some(pop_connection) = &mut self.connection else {
            return;
        };
        let mut forget = redis::cmd("ZREM");
        forget.arg(&self.config.ready_queue.keys.fresh);
        for (id, _) in ids {
            forget.arg(id);
        }
        let forgotten: RedisResult<i64> = forget.query_async(&mut pop_connection.connection).await;
        if let Err(error) = forgotten {
            tracing::debug!(%error, "Popped jobs could not be removed from the list of new jobs");
        }
    }

    /// Puts back ids that were popped and not started, within a time limit. The dispatcher finds
    /// ids that are lost here.
    async fn give_back(&mut self) {
        let ids: Vec<(String, f64)> = {
            let mut buffer = self
                .shared
                .buffer
                .lock()
                .expect("no panic while it is held");
            buffer
                .jobs
                .drain(..)
                .map(|ready_job| (ready_job.job.to_string(), ready_job.virtual_time))
                .collect()
        };
        if !ids.is_empty() {
            let restored = tokio::time::timeout(
                POP_TIMEOUT,
                restore(
                    &self.config.ready_queue.address,
                    &self.config.ready_queue.keys,
                    &ids,
                ),
            )
            .await;
            tracing::debug!(
                ids = ids.len(),
                restored = matches!(restored, Ok(Ok(()))),
                "Tried to give back jobs that were not started"
            );
        }
    }
}

impl PopConnection {
    async fn connect(address: &Address) -> RedisResult<Self> {
        let response_timeout = POP_TIMEOUT + RESPONSE_TIMEOUT;
        let mut connection = address.connect(RESPONSE_TIMEOUT, response_timeout).await?;
        let client_id = redis::cmd("CLIENT")
            .arg("ID")
            .query_async(&mut connection)
            .await?;
        Ok(Self {
            connection,
            client_id,
        })
    }
}

/// Takes every other slot that is free now, and adds it to `permit`.
fn with_all_free(mut permit: OwnedSemaphorePermit, slots: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    while let Ok(another) = Arc::clone(slots).try_acquire_owned() {
        permit.merge(another);
    }
    permit
}

/// The delays between attempts to connect: exponential, from 50 ms to [`MAX_RECONNECT_DELAY`], with
/// jitter.
fn reconnect_delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(MAX_RECONNECT_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Ends the blocking command of another connection.
async fn unblock(address: &Address, client_id: i64) -> RedisResult<()> {
    let mut connection = address.connect(RESPONSE_TIMEOUT, RESPONSE_TIMEOUT).await?;
    redis::cmd("CLIENT")
        .arg("UNBLOCK")
        .arg(client_id)
        .query_async(&mut connection)
        .await
}

/// Adds ids to the ready queue again, with their virtual times, so at the places that they had.
async fn restore(address: &Address, keys: &Keys, ids: &[(String, f64)]) -> RedisResult<()> {
    let mut connection = address.connect(RESPONSE_TIMEOUT, RESPONSE_TIMEOUT).await?;
    let mut command = redis::cmd("ZADD");
    command.arg(&keys.ready).arg("NX");
    for (id, virtual_time) in ids {
        command.arg(virtual_time).arg(id);
    }
    command.query_async(&mut connection).await
}
