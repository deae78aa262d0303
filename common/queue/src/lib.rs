//! Redis, the doorbell: one sorted set of job ids, lowest turn first; beside it who rings, how full it is kept, and
//! what workers tell each other of the lanes.
//!
//! Ringing twice is ringing once, and a lost ring costs a re-ring (`common::dispatch`), so Redis may be
//! emptied at any moment. [`Ring`] adds ids; [`Doorbell`] is the apalis `Backend` that pops them; [`Lanes`] holds
//! back what a provider does not bear.

mod address;
mod backend;
mod connection;
pub mod lanes;
mod metrics;
mod trouble;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use redis::{RedisError, Script};

pub use address::Address;
pub use backend::{ReadyJob, ReadyQueueBackend, ReadyQueueConfig};
pub use lanes::Lanes;
pub use trouble::Trouble;

use connection::SharedConnection;
use domain::id::JobId;

/// A failure to talk to Redis.
pub type QueueError = RedisError;

/// The set never holds more than this.
const MAX_READY_JOBS: usize = 1_000;
/// What it holds while no worker has announced itself: enough to start at once when one does.
const WITHOUT_WORKERS: usize = 16;
/// A worker that has not announced itself for this long is gone.
const WORKER_TTL: Duration = Duration::from_secs(3);

/// New jobs that wait to be looked at by workers without a free slot, and for how long they do after the last one
/// came. The dispatcher finds what this forgets.
const MAX_FRESH: usize = 1_000;
const FRESH_TTL: Duration = Duration::from_secs(30);

static PUSH_NEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local room = tonumber(redis.call('GET', KEYS[2]) or ARGV[1]) - redis.call('ZCARD', KEYS[1])
          if room > 0 then redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[3]) end
          redis.call('ZADD', KEYS[3], 'NX', ARGV[2], ARGV[3])
          redis.call('ZREMRANGEBYRANK', KEYS[3], ARGV[4], -1)
          redis.call('PEXPIRE', KEYS[3], ARGV[5])
          return 0",
    )
});

/// Names of the keys; tests that share a Redis use a name each.
#[derive(Clone, Debug)]
struct Keys {
    /// What all of them begin with.
    name: String,
    /// Sorted set: job id, scored by turn.
    ready: String,
    /// Sorted set: new jobs that nobody has popped yet, scored by turn; what workers fill their reserve with.
    fresh: String,
    /// Sorted set: `worker|slots`, scored by when it was last heard of.
    workers: String,
    /// How many ids the ring should hold.
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

/// The adding side. Connects when first used and again whenever it must: a process starts without Redis.
#[derive(Clone)]
pub struct ReadyQueue {
    /// For connections of the doorbell's own.
    address: Address,
    connection: SharedConnection,
    keys: Keys,
    /// What was wrong with Redis when that was noted last.
    trouble: Arc<Mutex<Option<Trouble>>>,
}

/// How full the ring should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Ids it should hold: twice the slots of the live workers.
    pub size: i64,
    /// How many of them are missing.
    pub capacity: i64,
}

impl ReadyQueue {
    /// # Errors
    /// A URL that is none.
    pub fn new(address: impl Into<Address>, name: &str) -> Result<Self, QueueError> {
        let address = address.into();
        address.check()?;
        Ok(Self {
            connection: SharedConnection::new(address.clone()),
            address,
            keys: Keys::new(name),
            trouble: Arc::default(),
        })
    }

    /// Adds ids by turn while the ring is below its target. Returns how many were new.
    pub async fn push(&self, jobs: &[(JobId, i64)]) -> Result<usize, QueueError> {
        if jobs.is_empty() {
            return Ok(0);
        }
        let script = Script::new(
            r"local room = tonumber(redis.call('GET', KEYS[2]) or ARGV[1]) - redis.call('ZCARD', KEYS[1])
              local added = 0
              for i = 2, #ARGV, 2 do
                if added >= room then break end
                added = added + redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1])
              end
              return added",
        );
        let mut call = script.key(&self.keys.ready);
        call.key(&self.keys.target).arg(WITHOUT_WORKERS);
        for (id, turn) in jobs {
            call.arg(*turn).arg(id.to_string());
        }
        call.invoke_async(&mut self.connection.clone()).await
    }

    /// Rings for a new job: while the ring is below its target by its turn there, and in any case for workers whose
    /// slots are all taken, which look whether it may start in their reserve.
    pub async fn push_new(&self, job: JobId, turn: i64) -> Result<(), QueueError> {
        PUSH_NEW
            .key(&self.keys.ready)
            .key(&self.keys.target)
            .key(&self.keys.fresh)
            .arg(WITHOUT_WORKERS)
            .arg(turn)
            .arg(job.to_string())
            .arg(MAX_FRESH)
            .arg(u64::try_from(FRESH_TTL.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(&mut self.connection.clone())
            .await
    }

    /// Says that this worker lives, and learns how full the ring should be.
    pub async fn announce(&self, worker: &str, slots: usize) -> Result<Target, QueueError> {
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
        let (size, room) = script
            .key(&self.keys.ready)
            .key(&self.keys.workers)
            .key(&self.keys.target)
            .arg(worker)
            .arg(slots)
            .arg(u64::try_from(WORKER_TTL.as_millis()).unwrap_or(u64::MAX))
            .arg(MAX_READY_JOBS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(Target {
            size,
            capacity: room,
        })
    }

    /// Workers that have announced themselves of late, and their slots.
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

    /// Whether Redis answers and takes writes: it keeps a key of a second.
    pub async fn check(&self) -> Result<(), QueueError> {
        redis::cmd("SET")
            .arg(format!("{}:check", self.keys.name))
            .arg(1)
            .arg("PX")
            .arg(1_000)
            .query_async(&mut self.connection.clone())
            .await
    }

    /// Remembers whether Redis does what it was asked, and says in log and metrics when that changes, and why.
    pub fn note(&self, failure: Option<&QueueError>) {
        let trouble = failure.map(|error| Trouble::of(error).unwrap_or(Trouble::Other));
        let mut known = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        metrics::redis(trouble);
        match (failure, trouble) {
            _ if *known == trouble => {}
            (Some(error), Some(trouble)) => tracing::warn!(
                reason = trouble.as_str(),
                %error,
                "Redis is away: {}",
                trouble.plain_words()
            ),
            _ => tracing::info!("Redis answers again"),
        }
        *known = trouble;
    }

    /// What was wrong with Redis when that was noted last.
    pub fn trouble(&self) -> Option<Trouble> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
