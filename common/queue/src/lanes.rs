//! Lanes: rate limits and circuit breakers, shared by all workers through Redis.
//!
//! A lane is provider + project + location + model. Its state may be lost at any moment: without
//! Redis every lane counts as available, and only each job's own retry delays hold calls back.
//!
//! **Limit.** A lane has a limit of calls in flight. It follows additive increase, multiplicative
//! decrease, as TCP does. A success raises the limit if at least half of it was used. An answer
//! `throttled` cuts the limit to 85 %. Calls that began before the last cut do not cut it again.
//! After the first cut, calls start evenly, with a gap between them, because a provider that counts
//! calls per second refuses bursts. If the limit is one call and even that is too much, the lane
//! pauses, each time for longer. A provider's `Retry-After` is followed, up to two minutes. Retries
//! need a budget, which grows with time and with each success, so that retries do not make an
//! outage worse.
//!
//! **Circuit breaker.** Failures count as strikes, and enough strikes in a row open the breaker.
//! Then the lane is unavailable. After a while it is half-open: one call probes the provider, and a
//! success closes the breaker. A failure that the request itself may have caused (an error 500, an
//! answer without an image, no answer) opens the breaker for the tenant that asked, and gives at
//! most half of the strikes that open it for all tenants. So it takes two tenants to open it for
//! all, and one tenant's prompts cannot make a model unavailable for others. For the same reason
//! one tenant may use at most seven eighths of a lane's limit.
//!
//! **Privacy.** Redis holds only a short hash of a tenant's id. It holds this hash for two hours
//! after the tenant's last call, and for one hour after the tenant's last strike.
//!
//! The scripts are in `lanes/`. Rust puts `shared.lua` in front of each of the other scripts. That
//! file lists all keys and fields.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{RedisResult, Script, ScriptInvocation};
use time::OffsetDateTime;

use super::connection::SharedConnection;
use super::{QueueError, ReadyQueue};
use domain::catalog::{Catalog, Lane};
use domain::id::{CallId, TenantId};
use domain::lanes::{CallResult, LaneState, LaneTiming, Pause, PauseReason, UnavailableFor};
use domain::outcome::{Class, STRIKES_OUT};

/// Calls in flight that a new lane allows.
const INITIAL_LIMIT: u32 = 32;
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
pub struct Lanes {
    connection: SharedConnection,
    prefix: String,
    timing: LaneTiming,
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

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lanes/shared.lua"),
        include_str!("lanes/acquire.lua")
    ))
});
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lanes/shared.lua"),
        include_str!("lanes/release.lua")
    ))
});
static STATES: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lanes/shared.lua"),
        include_str!("lanes/states.lua")
    ))
});

impl Lanes {
    /// The lanes that belong to a ready queue: they are in the same Redis, with the same prefix.
    pub fn new(ready_queue: &ReadyQueue, timing: LaneTiming) -> Self {
        Self {
            connection: ready_queue.connection.clone(),
            prefix: format!("{}:lane", ready_queue.keys.name),
            timing,
        }
    }

    /// Takes a place on the lane for a call, if one may start now.
    ///
    /// `ends_within` is the longest time the call may take. If nobody reports the end of the call,
    /// it stops counting after this time. `retry` says whether the call repeats a call that failed.
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
        retry: bool,
    ) -> Result<Acquisition, QueueError> {
        let (wait, why): (u64, String) = self
            .keys(&ACQUIRE, lane, tenant)
            .arg(call.0.simple().to_string())
            .arg(millis(ends_within))
            .arg(INITIAL_LIMIT)
            .arg(i32::from(retry))
            .arg(RETRY_BUDGET)
            .arg(millis(LANE_TTL))
            .arg(tenant.pseudonym())
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
    /// call is only removed from it. `ends_within` is the same as in [`Self::acquire`].
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
        let factor = if strikes * 2 >= STRIKES_OUT {
            PERMANENT_FAULT_FACTOR
        } else {
            1
        };
        let (min_open, max_open) = self.timing.breaker_open;
        let may_be_the_request =
            result.is_some_and(|result| result.class.may_be_caused_by_request());
        let _changed: i64 = self
            .keys(&RELEASE, lane, tenant)
            .arg(call.0.simple().to_string())
            .arg(INITIAL_LIMIT)
            .arg(result.map_or("", |result| result.class.as_str()))
            .arg(strikes)
            .arg(millis(ends_within))
            .arg(CUT_PERCENT)
            .arg(millis(min_open * factor))
            .arg(millis(max_open * factor))
            .arg(millis(self.timing.throttled.0))
            .arg(millis(self.timing.throttled.1))
            .arg(millis(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)))
            .arg(RETRY_BUDGET)
            .arg(RETRY_CREDIT_PERCENT)
            .arg(STRIKES_OUT)
            .arg(millis(LANE_TTL))
            .arg(tenant.pseudonym())
            .arg(i32::from(may_be_the_request))
            .arg(millis(TENANT_TTL))
            .arg(MAX_UNAVAILABLE_TENANTS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(())
    }

    /// The state of every lane of the catalogue, sorted by lane.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn states(&self, catalog: &Catalog) -> RedisResult<Vec<LaneState>> {
        let mut lanes: Vec<&Lane> = catalog.models().flat_map(|model| &model.lanes).collect();
        lanes.sort();
        lanes.dedup();
        self.states_of(&lanes).await
    }

    /// The state of these lanes, in the same order.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn states_of(&self, lanes: &[&Lane]) -> RedisResult<Vec<LaneState>> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = STATES.arg(INITIAL_LIMIT);
        call.arg(MAX_UNAVAILABLE_TENANTS);
        for lane in lanes {
            let hash = self.hash(lane);
            call.key(&hash)
                .key(format!("{hash}:calls"))
                .key(format!("{hash}:closed"));
        }
        let replies: Vec<StateReply> = call.invoke_async(&mut self.connection.clone()).await?;
        let state = |(lane, reply): (&&Lane, StateReply)| {
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
                lane: (*lane).clone(),
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

    fn hash(&self, lane: &Lane) -> String {
        format!("{}:{lane}", self.prefix)
    }

    /// A script with the six keys that belong to a lane and a tenant on it.
    fn keys<'a>(&self, script: &'a Script, lane: &Lane, tenant: TenantId) -> ScriptInvocation<'a> {
        let (hash, tenant) = (self.hash(lane), tenant.pseudonym());
        let mut call = script.prepare_invoke();
        call.key(&hash)
            .key(format!("{hash}:calls"))
            .key(format!("{hash}:tenant:{tenant}"))
            .key(format!("{hash}:tenant:{tenant}:calls"))
            .key(format!("{hash}:closed"))
            .key(format!("{hash}:strikers"));
        call
    }
}

/// Converts one tenant of a script's reply.
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
