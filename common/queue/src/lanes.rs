//! Lanes: rate limits and circuit breakers, shared by all workers through Redis.
//!
//! A lane is provider + project + location + model. Its state may be lost at any moment: without
//! Redis every lane counts as available, and only each job's own retry delays hold calls back.
//!
//! **Limit.** A lane has a limit of calls in flight. It starts at the model's `concurrency` in the
//! catalogue. Until the first answer `throttled` it doubles, up to the model's `max_concurrency`,
//! each time that it was used up for a second. From then on it follows additive increase,
//! multiplicative decrease, as TCP does. A success raises the limit if at least half of it was
//! used. An answer `throttled` cuts the limit to 85 %. Calls that began before the last cut do not
//! cut it again. After the first cut, calls start evenly, with a gap between them, because a
//! provider that counts calls per second refuses bursts. If the limit is one call and even that is
//! too much, the lane pauses, each time for longer. A provider's `Retry-After` is followed, up to
//! two minutes. Retries need a budget, which grows with time and with each success, so that retries
//! do not make an outage worse.
//!
//! **Circuit breaker.** Failures count as strikes, and enough strikes in a row open the breaker.
//! Then the lane is unavailable. After a while it is half-open: one call probes the provider, and a
//! success closes the breaker. A failure that the request itself may have caused (an error 500, an
//! answer without an image, no answer) opens the breaker for the tenant that asked, and gives at
//! most half of the strikes that open it for all tenants. So it takes two tenants to open it for
//! all, and one tenant's prompts cannot make a model unavailable for others. For the same reason
//! one tenant may use at most seven eighths of a lane's limit.
//!
//! **Privacy.** Redis holds only a short hash of a tenant's id. It holds this hash while a call of
//! the tenant is in flight, and for one hour after the tenant's last strike.
//!
//! The scripts are in `lanes/`. Rust puts `shared.lua` in front of each of the other scripts. That
//! file lists all keys and fields.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{RedisResult, Script, ScriptInvocation};
use time::OffsetDateTime;

use super::connection::SharedConnection;
use super::{Keys, QueueError, ReadyQueue, TARGET_WITHOUT_WORKERS};
use domain::catalog::{Catalog, Concurrency, Lane};
use domain::id::{CallId, JobId, TenantId};
use domain::lanes::{CallResult, LaneState, LaneTiming, Pause, PauseReason, UnavailableFor};
use domain::outcome::{Class, STRIKES_OUT};

/// Share of the limit that is left after a cut, in percent.
const CUT_PERCENT: u32 = 85;
/// Most retries in the budget. At most this many retries may start at once while no call succeeds.
const RETRY_BUDGET: u32 = 20;
/// What one success adds to the budget, in hundredths of a retry.
const RETRY_CREDIT_PERCENT: u32 = 25;
/// The longest time for which a provider's `Retry-After` is followed.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// The state of a lane is dropped this long after its last call.
const LANE_TTL: Duration = Duration::from_hours(6);
/// The strikes of one tenant are dropped this long after the last one.
const TENANT_TTL: Duration = Duration::from_hours(1);
/// How many tenants a lane lists as unavailable. If there are more, those with the longest times
/// are listed. Dispatcher and claim skip the listed tenants.
const MAX_UNAVAILABLE_TENANTS: usize = 200;
/// How much longer the breaker stays open after a failure that only people can repair, such as a
/// wrong key. Frequent probes would achieve nothing.
const PERMANENT_FAULT_FACTOR: u32 = 6;

/// The lanes of one installation. Clones share the connection to Redis.
#[derive(Clone)]
#[expect(clippy::struct_field_names, reason = "lanes are made of lanes")]
pub struct Lanes {
    connection: SharedConnection,
    /// The keys of the ready queue that the lanes belong to.
    keys: Keys,
    timing: LaneTiming,
    /// Every lane of the catalogue, sorted.
    lanes: Arc<[Lane]>,
    /// How many calls may be in flight on each lane of a model, by the model's id.
    concurrency: Arc<HashMap<String, Concurrency>>,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquisition {
    /// The call may start now. The caller must report its end with [`Lanes::release`].
    Granted,
    /// The call may not start yet, for this reason and time.
    Denied(Pause),
}

/// The state of a lane as `states.lua` returns it: limit, calls in flight, wait in ms, reason, gap
/// in ms, whether the breaker is open or half-open (1 or 0), the outcome class that opened it,
/// since when the lane is unavailable (ms since 1970), the fields whose values were corrected, and
/// the tenants for whom the lane is unavailable (hash, wait in ms, class, since).
type StateReply = (
    f64,
    i64,
    u64,
    String,
    u64,
    u8,
    String,
    i64,
    String,
    Vec<(String, u64, String, i64)>,
);

/// A script with `shared.lua` in front of it.
macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                include_str!("lanes/shared.lua"),
                include_str!($file)
            ))
        })
    };
}

static ACQUIRE: LazyLock<Script> = script!("lanes/acquire.lua");
static RELEASE: LazyLock<Script> = script!("lanes/release.lua");
static STATES: LazyLock<Script> = script!("lanes/states.lua");
static PUSH_NEW: LazyLock<Script> = script!("lanes/push_new.lua");

impl Lanes {
    /// The lanes of a catalogue that belong to a ready queue: they are in the same Redis, with the
    /// same prefix.
    pub fn new(ready_queue: &ReadyQueue, timing: LaneTiming, catalog: &Catalog) -> Self {
        let mut lanes: Vec<Lane> = catalog
            .models()
            .flat_map(|model| model.lanes.iter().cloned())
            .collect();
        lanes.sort();
        lanes.dedup();
        let models = catalog.models();
        Self {
            connection: ready_queue.connection.clone(),
            keys: ready_queue.keys.clone(),
            timing,
            lanes: lanes.into(),
            concurrency: Arc::new(
                models
                    .map(|model| (model.id.clone(), model.concurrency))
                    .collect(),
            ),
        }
    }

    /// Takes a place on the lane for a call, if one may start now.
    ///
    /// `ends_within` is the longest time the call may take. If nobody reports the end of the call,
    /// it stops counting after this time. `is_retry` says that the call repeats a call that failed.
    /// Such calls need the budget of retries.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. Callers then let the call start, because the
    /// state of lanes may be lost at any time.
    pub async fn acquire(
        &self,
        lane: &Lane,
        tenant: TenantId,
        call: CallId,
        ends_within: Duration,
        is_retry: bool,
    ) -> Result<Acquisition, QueueError> {
        let (wait, why): (u64, String) = self
            .prepare(&ACQUIRE, lane, tenant, call, ends_within)
            .arg(i32::from(is_retry))
            .arg(RETRY_BUDGET)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(match wait {
            0 => Acquisition::Granted,
            wait => Acquisition::Denied(Pause {
                wait: Duration::from_millis(wait),
                reason: PauseReason::parse(&why),
            }),
        })
    }

    /// Reports how a granted call ended. With `None` the end says nothing about the lane, and the
    /// call is only removed from the lane. `ends_within` must be what [`Self::acquire`] was given.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. The call then stops counting by itself after
    /// `ends_within`.
    pub async fn release(
        &self,
        lane: &Lane,
        tenant: TenantId,
        call: CallId,
        result: Option<CallResult>,
        ends_within: Duration,
    ) -> Result<(), QueueError> {
        let strikes = result.map_or(0, |result| result.strikes);
        let retry_after = result.and_then(|result| result.retry_after);
        // Only failures that people may have to repair have so many strikes at once.
        let factor = if strikes * 2 >= STRIKES_OUT {
            PERMANENT_FAULT_FACTOR
        } else {
            1
        };
        let (min_open, max_open) = self.timing.breaker_open;
        let may_be_the_request =
            result.is_some_and(|result| result.class.may_be_caused_by_request());
        let _done: i64 = self
            .prepare(&RELEASE, lane, tenant, call, ends_within)
            .arg(result.map_or("", |result| result.class.as_str()))
            .arg(strikes)
            .arg(i32::from(may_be_the_request))
            .arg(millis(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)))
            .arg(CUT_PERCENT)
            .arg(millis(min_open * factor))
            .arg(millis(max_open * factor))
            .arg(millis(self.timing.throttled.0))
            .arg(millis(self.timing.throttled.1))
            .arg(RETRY_BUDGET)
            .arg(RETRY_CREDIT_PERCENT)
            .arg(STRIKES_OUT)
            .arg(millis(TENANT_TTL))
            .arg(MAX_UNAVAILABLE_TENANTS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(())
    }

    /// Adds a new job to the ready queue if the queue is below its target, and to the list of new
    /// jobs while a worker has no free slot. `lanes` are those that the job may use. Adds nothing
    /// if the job may not start, because none of them would grant a call. If all of them are
    /// unavailable because the provider has retired the model, the job may start, so that it fails
    /// at once. Returns whether the job may start.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. The job is not lost: a worker finds it in
    /// Postgres when it fills the ready queue again, or, while Redis is unavailable, when it has a
    /// free slot.
    pub async fn push_new(
        &self,
        job: JobId,
        virtual_time: i64,
        tenant: TenantId,
        lanes: &[Lane],
    ) -> Result<bool, QueueError> {
        let mut call = PUSH_NEW.key(&self.keys.lanes);
        call.key(&self.keys.ready)
            .key(&self.keys.target)
            .key(&self.keys.full)
            .key(&self.keys.fresh)
            .arg(job.to_string())
            .arg(virtual_time)
            .arg(TARGET_WITHOUT_WORKERS)
            .arg(tenant.pseudonym())
            .arg(millis(LANE_TTL));
        for lane in lanes {
            self.add_lane(&mut call, lane);
        }
        let may_start: i64 = call.invoke_async(&mut self.connection.clone()).await?;
        Ok(may_start == 1)
    }

    /// The state of every lane of the catalogue, sorted by lane.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn states(&self) -> RedisResult<Vec<LaneState>> {
        self.states_of(&self.lanes).await
    }

    /// The state of these lanes, in the same order.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn states_of(&self, lanes: &[Lane]) -> RedisResult<Vec<LaneState>> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = STATES.key(&self.keys.lanes);
        call.arg(millis(LANE_TTL)).arg(MAX_UNAVAILABLE_TENANTS);
        for lane in lanes {
            self.add_lane(&mut call, lane);
            call.arg(format!("{}:tenant:", self.prefix(lane)));
        }
        let replies: Vec<StateReply> = call.invoke_async(&mut self.connection.clone()).await?;
        let state = |(lane, reply): (&Lane, StateReply)| {
            let (limit, in_flight, wait, why, gap, circuit_open, cause, since, corrected, tenants) =
                reply;
            if !corrected.is_empty() {
                tracing::warn!(
                    %lane,
                    fields = corrected,
                    "Redis held values for the lane that Platen never writes. They were corrected: find out who else writes there"
                );
            }
            LaneState {
                lane: lane.clone(),
                limit,
                in_flight,
                gap: Duration::from_millis(gap),
                circuit_open: (circuit_open == 1).then(|| cause.parse().ok()).flatten(),
                pause: (wait > 0).then(|| Pause {
                    wait: Duration::from_millis(wait),
                    reason: PauseReason::parse(&why),
                }),
                since: timestamp(since),
                unavailable_for: tenants.into_iter().map(unavailable_for).collect(),
            }
        };
        Ok(lanes.iter().zip(replies).map(state).collect())
    }

    /// The first and the highest limit of calls in flight on a lane.
    fn concurrency(&self, lane: &Lane) -> Concurrency {
        // A call of an earlier attempt may be on a lane that is no longer in the catalogue.
        let limits = self.concurrency.get(&lane.model);
        limits.copied().unwrap_or_default()
    }

    /// What the keys of a lane begin with.
    fn prefix(&self, lane: &Lane) -> String {
        format!("{}:lane:{lane}", self.keys.name)
    }

    /// Adds what the scripts about several lanes need of each lane: the keys of its calls in flight
    /// and of the tenants that it is unavailable for, its name, and its limits.
    fn add_lane(&self, script: &mut ScriptInvocation<'_>, lane: &Lane) {
        let (prefix, limits) = (self.prefix(lane), self.concurrency(lane));
        script
            .key(format!("{prefix}:calls"))
            .key(format!("{prefix}:closed"))
            .arg(lane.to_string())
            .arg(limits.initial)
            .arg(limits.max);
    }

    /// A call of `script` with the keys and arguments that `acquire.lua` and `release.lua` have in
    /// common.
    fn prepare<'a>(
        &self,
        script: &'a Script,
        lane: &Lane,
        tenant: TenantId,
        call: CallId,
        ends_within: Duration,
    ) -> ScriptInvocation<'a> {
        let (prefix, tenant) = (self.prefix(lane), tenant.pseudonym());
        let limits = self.concurrency(lane);
        let mut invocation = script.key(&self.keys.lanes);
        invocation
            .key(format!("{prefix}:calls"))
            .key(format!("{prefix}:tenant:{tenant}"))
            .key(format!("{prefix}:closed"))
            .key(format!("{prefix}:strikers"))
            .arg(lane.to_string())
            .arg(limits.initial)
            .arg(limits.max)
            .arg(millis(LANE_TTL))
            .arg(tenant)
            .arg(call.0.simple().to_string())
            .arg(millis(ends_within));
        invocation
    }
}

/// Converts one tenant of a script's reply. A class that this version does not know counts as a
/// fault of the provider.
fn unavailable_for((tenant, wait, why, since): (String, u64, String, i64)) -> UnavailableFor {
    UnavailableFor {
        tenant,
        wait: Duration::from_millis(wait),
        by: why.parse().unwrap_or(Class::ProviderFault),
        since: timestamp(since),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time at `millis` milliseconds since 1970; `None` for 0.
fn timestamp(millis: i64) -> Option<OffsetDateTime> {
    (millis > 0)
        .then(|| OffsetDateTime::from_unix_timestamp(millis / 1000).ok())
        .flatten()
}
