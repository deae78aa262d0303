//! Redis: the ready queue, the list of live workers, and the lanes.
//!
//! The ready queue is a sorted set of ids of jobs that may start, lowest virtual time first. It is
//! bounded: the dispatcher keeps it filled from Postgres. Redis is a cache and may be emptied at
//! any moment. Adding an id twice changes nothing, and the dispatcher adds ids that were lost
//! (`common::dispatch`). The claim in Postgres decides whether a job may really start.
//!
//! [`ReadyQueue`] adds ids, [`ReadyQueueBackend`] is the apalis `Backend` that pops them, and
//! [`Lanes`] limits the calls to each provider.

mod address;
mod backend;
mod connection;
mod failure;
pub mod lanes;
mod metrics;

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{RedisError, Script};

pub use address::Address;
pub use backend::{ReadyJob, ReadyQueueBackend, ReadyQueueConfig};
pub use failure::RedisFailure;
pub use lanes::Lanes;

use connection::SharedConnection;
use domain::id::JobId;

/// The error of a command to Redis. [`RedisFailure::classify`] finds its reason.
pub type QueueError = RedisError;

/// Most ids in the ready queue.
const MAX_READY_JOBS: usize = 1_000;
/// The target of the ready queue while no worker has announced itself. The api adds new jobs up to
/// it, so that the first worker can start jobs at once.
const TARGET_WITHOUT_WORKERS: usize = 16;
/// A worker that has not announced itself for this long counts as gone.
const WORKER_TTL: Duration = Duration::from_secs(3);
/// How long new jobs are added to the list of new jobs after a worker has said that it has no free
/// slot.
const FULL_TTL: Duration = Duration::from_secs(2);
/// How often a worker announces itself.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);

/// Adds ids in one step: only those that the queue does not hold, and no more than it lacks.
/// Arguments: the target, then the virtual time and the id of each job. `new` has two entries for
/// each id.
static PUSH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local missing = tonumber(ARGV[1]) - redis.call('ZCARD', KEYS[1])
          local ids, new = {}, {}
          for i = 3, #ARGV, 2 do table.insert(ids, ARGV[i]) end
          for i, score in ipairs(redis.call('ZMSCORE', KEYS[1], unpack(ids))) do
            if #new >= 2 * missing then break end
            if not score then
              table.insert(new, ARGV[2 * i])
              table.insert(new, ids[i])
            end
          end
          if #new == 0 then return 0 end
          return redis.call('ZADD', KEYS[1], 'NX', unpack(new))",
    )
});

/// Announces a worker, and computes the target of the ready queue from the slots of all live
/// workers. Arguments: the worker, its slots, [`WORKER_TTL`] in milliseconds, [`MAX_READY_JOBS`].
/// It uses the clock of Redis, because the clocks of workers differ.
static ANNOUNCE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local time = redis.call('TIME')
          local now = time[1] * 1000 + math.floor(time[2] / 1000)
          redis.call('ZADD', KEYS[2], now, ARGV[1] .. '|' .. ARGV[2])
          local slots, workers = 0, redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
          for i = 1, #workers, 2 do
            if tonumber(workers[i + 1]) < now - ARGV[3] then redis.call('ZREM', KEYS[2], workers[i])
            else slots = slots + (tonumber(string.match(workers[i], '|(%d+)$')) or 0) end
          end
          local target = math.min(2 * slots, tonumber(ARGV[4]))
          redis.call('SET', KEYS[3], target, 'PX', ARGV[3])
          return {target, redis.call('ZCARD', KEYS[1]), redis.call('EXISTS', KEYS[4])}",
    )
});

/// Names of the keys in Redis. Tests that share a Redis use a prefix each.
#[derive(Clone, Debug)]
struct Keys {
    /// The prefix of all keys (`PLATEN_QUEUE`).
    name: String,
    /// Sorted set, the ready queue: job id, scored by virtual time.
    ready: String,
    /// Sorted set, the list of new jobs: ids of new jobs that nobody has popped yet, scored by
    /// virtual time. Workers fill their reserve from it. Jobs are added only while `full` exists.
    fresh: String,
    /// Exists while a worker has no free slot.
    full: String,
    /// Sorted set: `worker|slots`, scored by when the worker last announced itself.
    workers: String,
    /// Number: how many ids the ready queue should hold.
    target: String,
    /// Hash: the state of each lane.
    lanes: String,
}

impl Keys {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            // `ring` is an older word for the ready queue.
            ready: format!("{name}:ring"),
            fresh: format!("{name}:fresh"),
            full: format!("{name}:full"),
            workers: format!("{name}:workers"),
            target: format!("{name}:target"),
            lanes: format!("{name}:lanes"),
        }
    }
}

/// The side of the ready queue that adds ids. It connects at its first use, so a process can start
/// while Redis is unavailable. After a failure it connects again. Clones share the connection.
#[derive(Clone)]
pub struct ReadyQueue {
    /// For the connections that the backend opens for itself.
    address: Address,
    connection: SharedConnection,
    keys: Keys,
    /// The reason that [`Self::note`] recorded last; `None` if Redis worked.
    last_failure: Arc<Mutex<Option<RedisFailure>>>,
    /// Used only in a worker.
    announced: Arc<Mutex<Announced>>,
}

/// What a worker learned when it last announced itself.
#[derive(Clone, Copy, Debug, Default)]
struct Announced {
    /// When it last announced itself; `None` before the first time, and after a failure.
    at: Option<Instant>,
    /// The target of the ready queue at that time.
    target: i64,
    /// Until when the list of new jobs may be in use, because a worker had no free slot.
    fresh_until: Option<Instant>,
}

/// How full the ready queue should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Ids it should hold: twice the slots of the live workers, at most 1,000.
    pub size: i64,
    /// How many ids are missing to that size.
    pub missing: i64,
}

impl Target {
    /// Whether at least half of the ids are missing. Filling the queue earlier would cost a query
    /// for every few jobs, and no worker would start a job sooner.
    pub fn is_half_empty(self) -> bool {
        self.missing * 2 >= self.size
    }
}

impl ReadyQueue {
    /// A ready queue whose keys begin with `name`. Does not connect yet.
    ///
    /// # Errors
    /// Returns an error if `address` is not a URL of Redis. A file that holds the URL is not read
    /// yet.
    pub fn new(address: impl Into<Address>, name: &str) -> Result<Self, QueueError> {
        let address = address.into();
        address.check()?;
        Ok(Self {
            connection: SharedConnection::new(address.clone()),
            address,
            keys: Keys::new(name),
            last_failure: Arc::default(),
            announced: Arc::default(),
        })
    }

    /// Adds ids with their virtual times while the ready queue holds fewer than `target` ids.
    /// Returns how many ids were added. Ids that are in the queue already keep their place.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. No id was added then, or all.
    pub async fn push(&self, target: i64, jobs: &[(JobId, i64)]) -> Result<usize, QueueError> {
        if jobs.is_empty() {
            return Ok(0);
        }
        let mut call = PUSH.key(&self.keys.ready);
        call.arg(target);
        for (id, virtual_time) in jobs {
            call.arg(*virtual_time).arg(id.to_string());
        }
        call.invoke_async(&mut self.connection.clone()).await
    }

    /// Returns how full the ready queue should be. Once a second this also announces that the
    /// worker is alive, and computes the target anew.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn announce(&self, worker: &str, slots: usize) -> Result<Target, QueueError> {
        let before = *self.announced();
        let target_and_length = match before.at {
            Some(at) if at.elapsed() < ANNOUNCE_INTERVAL => {
                self.length().await.map(|length| (before.target, length))
            }
            _ => self.announce_now(worker, slots).await,
        };
        // After a failure the next call announces the worker again at once.
        let (size, length) = target_and_length.inspect_err(|_| self.announced().at = None)?;
        Ok(Target {
            size,
            missing: (size - length).max(0),
        })
    }

    /// Returns how many ids the ready queue holds.
    async fn length(&self) -> Result<i64, QueueError> {
        let mut count = redis::cmd("ZCARD");
        count.arg(&self.keys.ready);
        count.query_async(&mut self.connection.clone()).await
    }

    /// Announces the worker. Returns the new target, and how many ids the ready queue holds.
    async fn announce_now(&self, worker: &str, slots: usize) -> Result<(i64, i64), QueueError> {
        let (target, length, is_full): (i64, i64, bool) = ANNOUNCE
            .key(&self.keys.ready)
            .key(&self.keys.workers)
            .key(&self.keys.target)
            .key(&self.keys.full)
            .arg(worker)
            .arg(slots)
            .arg(u64::try_from(WORKER_TTL.as_millis()).unwrap_or(u64::MAX))
            .arg(MAX_READY_JOBS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        let mut announced = self.announced();
        announced.at = Some(Instant::now());
        announced.target = target;
        drop(announced);
        if is_full {
            self.expect_fresh();
        }
        Ok((target, length))
    }

    /// Notes that a worker has no free slot, so that the list of new jobs is in use. New jobs are
    /// added to the list for [`FULL_TTL`], and this process learns only at its next announcement
    /// whether that goes on.
    fn expect_fresh(&self) {
        self.announced().fresh_until = Some(Instant::now() + FULL_TTL + ANNOUNCE_INTERVAL);
    }

    /// Whether the list of new jobs may be in use.
    fn expects_fresh(&self) -> bool {
        let until = self.announced().fresh_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    fn announced(&self) -> MutexGuard<'_, Announced> {
        self.announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The workers that Redis lists as alive, and their slots. A worker that is gone stays listed
    /// until another worker announces itself three seconds later or more.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn workers(&self) -> Result<Vec<(String, usize)>, QueueError> {
        let members: Vec<String> = redis::cmd("ZRANGE")
            .arg(&self.keys.workers)
            .arg(0)
            .arg(-1)
            .query_async(&mut self.connection.clone())
            .await?;
        let worker = |member: String| {
            let (name, slots) = member.rsplit_once('|')?;
            Some((name.to_owned(), slots.parse().ok()?))
        };
        Ok(members.into_iter().filter_map(worker).collect())
    }

    /// Checks that Redis answers and accepts writes: writes a key that lives for one second.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer or refuses the write.
    pub async fn check(&self) -> Result<(), QueueError> {
        redis::cmd("SET")
            .arg(format!("{}:check", self.keys.name))
            .arg(1)
            .arg("PX")
            .arg(1_000)
            .query_async(&mut self.connection.clone())
            .await
    }

    /// Records whether the last command to Redis worked: `failure` is its error. Sets the metrics,
    /// and logs only when the reason changes, because many tasks may meet the same failure many
    /// times a second.
    pub fn note(&self, failure: Option<&QueueError>) {
        let reason =
            failure.map(|error| RedisFailure::classify(error).unwrap_or(RedisFailure::Other));
        let mut last = self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        metrics::redis(reason);
        match (failure, reason) {
            _ if *last == reason => {}
            (Some(error), Some(reason)) => tracing::warn!(
                reason = reason.as_str(),
                %error,
                "Redis is unavailable: {}",
                reason.explanation()
            ),
            _ => tracing::info!("Redis is available again"),
        }
        *last = reason;
    }

    /// The reason that the last [`Self::note`] recorded; `None` if Redis worked.
    pub fn failure(&self) -> Option<RedisFailure> {
        *self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
