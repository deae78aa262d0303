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

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

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
/// How many ids the ready queue holds while no worker has announced itself, so that the first
/// worker can start jobs at once.
const TARGET_WITHOUT_WORKERS: usize = 16;
/// A worker that has not announced itself for this long counts as gone.
const WORKER_TTL: Duration = Duration::from_secs(3);

/// Most ids in the list of new jobs. Workers without a free slot look through this list for jobs
/// that may start in their reserve. The dispatcher finds jobs that are dropped from the list.
const MAX_FRESH: usize = 1_000;
/// How long the list of new jobs is kept after the last new job.
const FRESH_TTL: Duration = Duration::from_secs(30);

/// Adds a new job to the ready queue if the queue is below its target, and to the list of new jobs
/// in any case. This is one script, so that no other command runs between the count and the
/// addition.
static PUSH_NEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local missing = tonumber(redis.call('GET', KEYS[2]) or ARGV[1]) - redis.call('ZCARD', KEYS[1])
          if missing > 0 then redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[3]) end
          redis.call('ZADD', KEYS[3], 'NX', ARGV[2], ARGV[3])
          redis.call('ZREMRANGEBYRANK', KEYS[3], ARGV[4], -1)
          redis.call('PEXPIRE', KEYS[3], ARGV[5])
          return 0",
    )
});

/// Names of the keys in Redis. Tests that share a Redis use a prefix each.
#[derive(Clone, Debug)]
struct Keys {
    /// The prefix of all keys (`PLATEN_QUEUE`).
    name: String,
    /// Sorted set, the ready queue: job id, scored by virtual time.
    ready: String,
    /// Sorted set: new jobs that nobody has popped yet, scored by virtual time. Workers fill their
    /// reserve from it.
    fresh: String,
    /// Sorted set: `worker|slots`, scored by when the worker last announced itself.
    workers: String,
    /// Number: how many ids the ready queue should hold.
    target: String,
}

impl Keys {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ready: format!("{name}:ring"),
            fresh: format!("{name}:fresh"),
            workers: format!("{name}:workers"),
            target: format!("{name}:target"),
        }
    }
}

/// The side of the ready queue that adds ids. It connects at its first use, and again after a
/// failure. So a process can start while Redis is unavailable. Clones share the connection.
#[derive(Clone)]
pub struct ReadyQueue {
    /// For the connections that the backend opens for itself.
    address: Address,
    connection: SharedConnection,
    keys: Keys,
    /// The reason that [`Self::note`] recorded last; `None` if Redis worked.
    last_failure: Arc<Mutex<Option<RedisFailure>>>,
}

/// How full the ready queue should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Ids it should hold: twice the slots of the live workers, at most 1,000.
    pub size: i64,
    /// How many ids are missing.
    pub capacity: i64,
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
        })
    }

    /// Adds ids with their virtual times while the ready queue is below its target. Returns how
    /// many ids were new. Ids that are in the queue already keep their place.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. Some ids may have been added.
    pub async fn push(&self, jobs: &[(JobId, i64)]) -> Result<usize, QueueError> {
        if jobs.is_empty() {
            return Ok(0);
        }
        // The key of the target expires some seconds after the last worker has announced itself.
        // Then the script uses a small default.
        let script = Script::new(
            r"local missing = tonumber(redis.call('GET', KEYS[2]) or ARGV[1]) - redis.call('ZCARD', KEYS[1])
              local added = 0
              for i = 2, #ARGV, 2 do
                if added >= missing then break end
                added = added + redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1])
              end
              return added",
        );
        let mut call = script.key(&self.keys.ready);
        call.key(&self.keys.target).arg(TARGET_WITHOUT_WORKERS);
        for (id, virtual_time) in jobs {
            call.arg(*virtual_time).arg(id.to_string());
        }
        call.invoke_async(&mut self.connection.clone()).await
    }

    /// Adds a new job to the ready queue if the queue is below its target. In any case, adds it to
    /// the list of new jobs, which workers without a free slot look through for their reserve.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. The job is not lost: a worker finds it in Postgres
    /// when it fills the ready queue again, or, while Redis is unavailable, when it has a free slot.
    pub async fn push_new(&self, job: JobId, virtual_time: i64) -> Result<(), QueueError> {
        PUSH_NEW
            .key(&self.keys.ready)
            .key(&self.keys.target)
            .key(&self.keys.fresh)
            .arg(TARGET_WITHOUT_WORKERS)
            .arg(virtual_time)
            .arg(job.to_string())
            .arg(MAX_FRESH)
            .arg(u64::try_from(FRESH_TTL.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(&mut self.connection.clone())
            .await
    }

    /// Announces that this worker is alive, and computes the new target of the ready queue from the
    /// slots of all live workers.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn announce(&self, worker: &str, slots: usize) -> Result<Target, QueueError> {
        // The script uses the clock of Redis, because the clocks of workers differ.
        let script = Script::new(
            r"local time = redis.call('TIME')
              local now = time[1] * 1000 + math.floor(time[2] / 1000)
              redis.call('ZADD', KEYS[2], now, ARGV[1] .. '|' .. ARGV[2])
              redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
              local slots = 0
              for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
                slots = slots + tonumber(string.match(member, '|(%d+)$'))
              end
              local target = math.min(2 * slots, tonumber(ARGV[4]))
              redis.call('SET', KEYS[3], target, 'PX', ARGV[3])
              return {target, math.max(0, target - redis.call('ZCARD', KEYS[1]))}",
        );
        let (size, capacity) = script
            .key(&self.keys.ready)
            .key(&self.keys.workers)
            .key(&self.keys.target)
            .arg(worker)
            .arg(slots)
            .arg(u64::try_from(WORKER_TTL.as_millis()).unwrap_or(u64::MAX))
            .arg(MAX_READY_JOBS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(Target { size, capacity })
    }

    /// Workers that announced themselves within the last seconds, and their slots.
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

    /// Records whether the last command to Redis worked. Sets the metrics, and logs only when the
    /// reason changes, because many tasks may meet the same failure many times a second.
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
