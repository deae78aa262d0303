//! The popping side: an apalis [`Backend`] over a blocking pop.
//!
//! A pump task pops only while the worker is hungry and only as many ids as there are free slots, so nothing is
//! fetched that cannot start. While no slot is free it looks at new jobs, for the worker's reserve. A Redis error
//! never reaches the worker (`Error = Infallible`): the pump waits and connects again. The pop has a connection of
//! its own whose response timeout exceeds the block.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

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

use super::{Address, Keys, ReadyQueue, Trouble};
use domain::id::JobId;

/// How long a pop blocks; also how soon a connection that is only half open is noticed.
const POP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a worker without a free slot looks for new jobs that may start in its reserve.
const FRESH_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a connection, and an answer that does not block, may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time between two dials; up to as much again comes on top by chance.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// What a [`Doorbell`] pops from and into.
#[derive(Clone)]
pub struct ReadyQueueConfig {
    pub ready_queue: ReadyQueue,
    /// The worker's slots: with the reserve the only limit on how much runs at once. Process-wide, so that a restarted
    /// worker counts what its predecessor still runs.
    pub slots: Arc<Semaphore>,
    /// Further slots, for jobs that find all others taken and may start all the same.
    pub reserve: Arc<Semaphore>,
    /// Stops popping.
    pub stop: CancellationToken,
    /// Shutdown waits for the pump to give back what was not started.
    pub tasks: TaskTracker,
}

/// A ring: a job that may be claimed, and the slot it will run in. Dropping it frees the slot.
#[derive(Debug)]
pub struct ReadyJob {
    pub job: JobId,
    /// Whether its slot is one of the reserve.
    pub reserved: bool,
    virtual_time: f64,
    _slot: OwnedSemaphorePermit,
}

/// The backend of the worker.
pub struct ReadyQueueBackend {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Shared {
    /// What was popped and not yet taken, and who waits for more. One lock, so no wake-up is lost.
    buffer: Mutex<(VecDeque<ReadyJob>, Option<Waker>)>,
    hungry: Notify,
}

impl ReadyQueueBackend {
    /// Starts the pump.
    pub fn start(config: &ReadyQueueConfig) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = config.stop.child_token();
        let pump = Poller {
            config: config.clone(),
            stop: stop.clone(),
            shared: Arc::clone(&shared),
            connection: None,
        };
        config.tasks.spawn(pump.run());
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

    /// Never ends: an end would end the worker.
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
        if let Some(ready_job) = buffer.0.pop_front() {
            let id = TaskId::from_string(ready_job.job.to_string());
            return Poll::Ready(Some(Ok(TaskBuilder::new(ready_job).task_id(id).build())));
        }
        buffer.1 = Some(cx.waker().clone());
        self.shared.hungry.notify_one();
        Poll::Pending
    }

    /// The pump gives back by itself when it is stopped: apalis asks for the close only after the last handler ended.
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

struct Poller {
    config: ReadyQueueConfig,
    stop: CancellationToken,
    shared: Arc<Shared>,
    connection: Option<PopConnection>,
}

/// A connection that does nothing but pop, and its id, by which another connection can wake it.
struct PopConnection {
    connection: MultiplexedConnection,
    client_id: i64,
}

impl Poller {
    async fn run(mut self) {
        while self.tick().await.is_some() {}
        self.give_back().await;
    }

    /// Waits for hunger, then for a slot, then for ids, however long that takes and however often Redis fails. While
    /// Redis fails the slots are free for whoever asks Postgres instead. `None`: stopped.
    async fn tick(&mut self) -> Option<()> {
        let shared = Arc::clone(&self.shared);
        self.stop
            .run_until_cancelled(shared.hungry.notified())
            .await?;
        let mut delays = reconnect_delays();
        loop {
            // Before any slot is taken: a Redis that hangs keeps none from whoever asks Postgres instead.
            let popped = match self.connect().await {
                Ok(()) => {
                    let (permit, reserved) = self.next_slots().await?;
                    let popped = if reserved {
                        self.pop_fresh(permit.num_permits()).await
                    } else {
                        self.pop(permit.num_permits()).await
                    };
                    popped.map(|ids| (ids, permit, reserved))
                }
                Err(error) => Err(error),
            };
            if self.stop.is_cancelled() {
                return None;
            }
            match popped {
                Ok((ids, ..)) if ids.is_empty() => delays = reconnect_delays(),
                Ok((ids, mut permit, reserved)) => {
                    self.hand_over(&ids, &mut permit, reserved);
                    if !reserved {
                        self.forget_fresh(&ids).await;
                    }
                    return Some(());
                }
                Err(error) => {
                    self.connection = None;
                    let delay = delays.next().unwrap_or(MAX_RECONNECT_DELAY);
                    let reason = Trouble::of(&error).map_or("other", Trouble::as_str);
                    tracing::debug!(%error, reason, delay_ms = delay.as_millis(), "No job can be popped; connecting again");
                    self.stop
                        .run_until_cancelled(tokio::time::sleep(delay))
                        .await?;
                }
            }
        }
    }

    /// Every slot that is free, and at least one; or, while none is, every free one of the reserve, and `true`.
    /// `None`: stopped.
    async fn next_slots(&self) -> Option<(OwnedSemaphorePermit, bool)> {
        let ReadyQueueConfig { slots, reserve, .. } = &self.config;
        loop {
            let slot = Arc::clone(slots).acquire_owned();
            let slot = tokio::time::timeout(FRESH_POLL_INTERVAL, slot);
            match self.stop.run_until_cancelled(slot).await? {
                Ok(slot) => return Some((every_other(slot.ok()?, slots), false)),
                Err(_) => {
                    if let Ok(slot) = Arc::clone(reserve).try_acquire_owned() {
                        return Some((every_other(slot, reserve), true));
                    }
                }
            }
        }
    }

    fn hand_over(&self, ids: &[(String, f64)], permit: &mut OwnedSemaphorePermit, reserved: bool) {
        let mut buffer = self
            .shared
            .buffer
            .lock()
            .expect("no panic while it is held");
        for &(ref id, turn) in ids {
            // What is no job's id was not put there by us: dropping it is all that can be done.
            if let (Ok(job), Some(slot)) = (id.parse(), permit.split(1)) {
                buffer.0.push_back(ReadyJob {
                    job,
                    reserved,
                    virtual_time: turn,
                    _slot: slot,
                });
            }
        }
        if let Some(waker) = buffer.1.take() {
            waker.wake();
        }
    }

    async fn connect(&mut self) -> RedisResult<()> {
        if self.connection.is_none() {
            self.connection = Some(PopConnection::connect(&self.config.ready_queue.address).await?);
        }
        Ok(())
    }

    /// One blocking pop. A blocked pop is never dropped on a live connection: the server would pop for nobody.
    async fn pop(&mut self, count: usize) -> RedisResult<Vec<(String, f64)>> {
        let popping = self.connection.as_mut().expect("connected before");
        let client_id = popping.client_id;
        let mut command = redis::cmd("BZMPOP");
        command
            .arg(POP_TIMEOUT.as_secs())
            .arg(1)
            .arg(&self.config.ready_queue.keys.ready)
            .arg("MIN")
            .arg("COUNT")
            .arg(count);
        let reply =
            command.query_async::<Option<(String, Vec<(String, f64)>)>>(&mut popping.connection);
        tokio::pin!(reply);
        let answered = tokio::select! {
            answered = &mut reply => answered,
            () = self.stop.cancelled() => {
                if let Err(error) = unblock(&self.config.ready_queue.address, client_id).await {
                    tracing::debug!(%error, "The blocked pop could not be woken; it ends by itself");
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

    /// New jobs, for the reserve. Does not block: a slot that becomes free meanwhile is worth more.
    async fn pop_fresh(&mut self, count: usize) -> RedisResult<Vec<(String, f64)>> {
        let popping = self.connection.as_mut().expect("connected before");
        let mut pop = redis::cmd("ZPOPMIN");
        pop.arg(&self.config.ready_queue.keys.fresh).arg(count);
        pop.query_async(&mut popping.connection).await
    }

    /// What was popped from the ring is not looked at for the reserve. No harm is done where this fails.
    async fn forget_fresh(&mut self, ids: &[(String, f64)]) {
        let Some(popping) = &mut self.connection else {
            return;
        };
        let mut forget = redis::cmd("ZREM");
        forget.arg(&self.config.ready_queue.keys.fresh);
        for (id, _) in ids {
            forget.arg(id);
        }
        let forgotten: RedisResult<i64> = forget.query_async(&mut popping.connection).await;
        if let Err(error) = forgotten {
            tracing::debug!(%error, "Jobs that were popped are still looked at for the reserve");
        }
    }

    /// Rings again for what was popped and not started. Bounded: the dispatcher finds what this loses.
    async fn give_back(&mut self) {
        let ids: Vec<(String, f64)> = {
            let mut buffer = self
                .shared
                .buffer
                .lock()
                .expect("no panic while it is held");
            buffer
                .0
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
                "Gave back what was not started"
            );
        }
    }
}

impl PopConnection {
    async fn connect(address: &Address) -> RedisResult<Self> {
        let answering = POP_TIMEOUT + RESPONSE_TIMEOUT;
        let mut connection = address.dial(RESPONSE_TIMEOUT, answering).await?;
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

/// With every other slot that is free now.
fn every_other(mut slot: OwnedSemaphorePermit, slots: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    while let Ok(another) = Arc::clone(slots).try_acquire_owned() {
        slot.merge(another);
    }
    slot
}

fn reconnect_delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(MAX_RECONNECT_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}

async fn unblock(address: &Address, client_id: i64) -> RedisResult<()> {
    let mut connection = address.dial(RESPONSE_TIMEOUT, RESPONSE_TIMEOUT).await?;
    redis::cmd("CLIENT")
        .arg("UNBLOCK")
        .arg(client_id)
        .query_async(&mut connection)
        .await
}

async fn restore(address: &Address, keys: &Keys, ids: &[(String, f64)]) -> RedisResult<()> {
    let mut connection = address.dial(RESPONSE_TIMEOUT, RESPONSE_TIMEOUT).await?;
    let mut command = redis::cmd("ZADD");
    command.arg(&keys.ready).arg("NX");
    for (id, turn) in ids {
        command.arg(turn).arg(id);
    }
    command.query_async(&mut connection).await
}
