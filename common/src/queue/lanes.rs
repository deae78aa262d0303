//! Lanes: rate limits and circuit breakers, shared by all workers through Redis.
//!
//! A lane is provider + project + location + model. Its state may be lost at any moment: without
//! Redis every lane counts as available, and only each job's own retry delays hold calls back.
//!
//! **Limit.** A lane has a limit of calls in flight. It follows additive increase, multiplicative
//! decrease, as TCP does: a success raises it where at least half of it was used; an answer
//! `throttled` cuts it to 85 %. Calls that began before the last cut do not cut again. After the
//! first cut calls start evenly, with a gap between them: a provider that counts calls per second
//! refuses bursts. Where the limit is one call and even that is too much, the lane pauses, each
//! time for longer. A provider's `Retry-After` is followed, up to two minutes. Retries need a
//! budget that successes fill, so that retries do not make an outage worse.
//!
//! **Circuit breaker.** Enough strikes in a row open it, and the lane is unavailable. After a while
//! it is half-open: one call probes, and a success closes it. A failure that the request itself may
//! have caused (an error 500, an answer without an image, no answer) opens the breaker for the
//! tenant that asked, and counts for at most half of what opens it for all tenants. So it takes two
//! tenants, and one tenant's prompts cannot make a model unavailable for others. For the same
//! reason one tenant may use at most seven eighths of a lane's limit.
//!
//! **Privacy.** Redis holds a short hash of a tenant's id: for two hours after its last call, and
//! with its strikes for one hour after the last strike.
//!
//! The scripts are in `lanes/`. `shared.lua` is put in front of each of the others; it lists all
//! keys and fields.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use redis::{RedisResult, Script, ScriptInvocation};
use time::OffsetDateTime;

use super::connection::SharedConnection;
use super::{QueueError, ReadyQueue};
use crate::catalog::{Catalog, Lane, Model};
use crate::config::LaneTiming;
use crate::id::{CallId, TenantId};
use crate::job::{Capacity, Exclusion, ModelCapacity};
use crate::outcome::{Class, Failure, STRIKES_OUT};

/// Calls in flight that a new lane allows.
const FIRST_LIMIT: u32 = 32;
/// Share of the limit that is left after a cut, in percent.
const CUT_PERCENT: u32 = 85;
/// Most retries in the budget; as many may start while no call succeeds.
const RETRY_BUDGET: u32 = 20;
/// What one success adds to the budget, in hundredths of a retry.
const RETRY_CREDIT_PERCENT: u32 = 25;
/// The longest time for which a provider's `Retry-After` is followed.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// Capacity of a model where nothing is known that limits it.
const UNLIMITED: i64 = 1_000_000;
/// The state of a lane is dropped this long after its last call.
const LANE_TTL: Duration = Duration::from_hours(6);
/// The strikes of one tenant are dropped this long after the last one.
const TENANT_TTL: Duration = Duration::from_hours(1);
/// How many tenants a lane lists as unavailable. With more, those with the longest times are
/// listed: dispatcher and claim leave these out.
const MAX_UNAVAILABLE_TENANTS: usize = 200;
/// How much longer the breaker stays open after a failure that only people can repair, such as a
/// wrong key: probing it often would achieve nothing.
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
    /// It may, now. Its end must be reported by [`Lanes::release`].
    Granted,
    /// It may not.
    Denied(Pause),
}

/// Why a lane grants no call, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long to wait before asking again makes sense.
    pub wait: Duration,
    /// Why.
    pub reason: PauseReason,
}

/// Why a lane grants no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// As many calls as its limit allows are in flight, or the last one started a moment ago.
    Full,
    /// The budget of retries is used up; a first try may be granted.
    Retries,
    /// The answers it got: [`Class::Throttled`] pauses it, any other class has opened its breaker.
    Answers(Class),
}

/// How a call ended, as far as it matters to its lane.
#[derive(Clone, Copy, Debug)]
pub struct CallResult {
    /// The class of its outcome.
    pub class: Class,
    /// Strikes against the lane; [`STRIKES_OUT`] of them in a row open the breaker. 0 is a success.
    pub strikes: u32,
    /// How long the provider asked to wait.
    pub retry_after: Option<Duration>,
}

impl CallResult {
    /// The call delivered an image.
    pub const OK: Self = Self {
        class: Class::Ok,
        strikes: 0,
        retry_after: None,
    };
}

impl From<&Failure> for CallResult {
    fn from(failure: &Failure) -> Self {
        Self {
            class: failure.class,
            strikes: failure.strikes(),
            retry_after: failure.retry_after,
        }
    }
}

/// A lane as `states.lua` returns it: limit, calls in flight, wait in ms, reason, gap in ms,
/// whether the breaker is not closed (1 or 0), what opened it, since when the lane is unavailable
/// (ms since 1970), the corrected fields, and the tenants it is unavailable for (hash, wait in ms,
/// class, since).
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

/// The state of a lane.
#[derive(Clone, Debug)]
pub struct LaneState {
    /// The lane.
    pub lane: Lane,
    /// Calls allowed in flight at once, 1 to 2,000; of a fraction the whole calls count.
    pub limit: f64,
    /// Calls in flight, of all workers together.
    pub in_flight: i64,
    /// Shortest time between two starts of calls; zero before the first cut of the limit.
    pub gap: Duration,
    /// What opened the circuit breaker; `None` where it is closed. It is half-open once `pause` is
    /// over.
    pub circuit_open: Option<Class>,
    /// Why no call is granted at the moment; `None` where one is.
    pub pause: Option<Pause>,
    /// Since when the provider's answers have made it unavailable; a success ends that.
    pub since: Option<OffsetDateTime>,
    /// Tenants it is unavailable for because of their own calls.
    pub unavailable_for: Vec<UnavailableFor>,
}

/// A tenant that a lane is unavailable for, because of its own calls.
#[derive(Clone, Debug)]
pub struct UnavailableFor {
    /// Hash of its id: [`TenantId::pseudonym`].
    pub tenant: String,
    /// Shortest time until one of its calls may probe the lane.
    pub wait: Duration,
    /// Class of the outcomes that made the lane unavailable.
    pub by: Class,
    /// Since when.
    pub since: Option<OffsetDateTime>,
}

impl PauseReason {
    fn parse(word: &str) -> Self {
        match word {
            "full" => Self::Full,
            "retries" => Self::Retries,
            class => Self::Answers(Class::parse(class).unwrap_or(Class::ProviderFault)),
        }
    }

    /// The word for it, in Redis and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Retries => "retries",
            Self::Answers(class) => class.as_str(),
        }
    }
}

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
    /// The lanes that stand beside a ready queue: on the same Redis, with the same prefix.
    pub fn new(ready_queue: &ReadyQueue, timing: LaneTiming) -> Self {
        Self {
            connection: ready_queue.connection.clone(),
            prefix: format!("{}:lane", ready_queue.keys.name),
            timing,
        }
    }

    /// Asks whether a call may start now.
    ///
    /// `ends_within` is the longest time the call may take: if nobody reports its end, it stops
    /// counting then. `retry` says whether it repeats a call that failed; such calls need a budget.
    ///
    /// # Errors
    /// Redis did not answer. Callers let the call start then: lanes may be lost.
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
            .arg(FIRST_LIMIT)
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

    /// Reports how a call that was granted ended. With `None` the end says nothing about the lane:
    /// the call is only taken off it. `ends_within` is the same as in [`Self::acquire`].
    ///
    /// # Errors
    /// Redis did not answer. The call stops counting by itself once its time is over.
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
        let (min_open, max_open) = self.timing.closed;
        let may_be_the_request =
            result.is_some_and(|result| result.class.may_be_caused_by_request());
        let _changed: i64 = self
            .keys(&RELEASE, lane, tenant)
            .arg(call.0.simple().to_string())
            .arg(FIRST_LIMIT)
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
    /// Redis did not answer.
    pub async fn states(&self, catalog: &Catalog) -> RedisResult<Vec<LaneState>> {
        let mut lanes: Vec<&Lane> = catalog.models().flat_map(|model| &model.lanes).collect();
        lanes.sort();
        lanes.dedup();
        self.states_of(&lanes).await
    }

    /// The state of these lanes, in the same order.
    ///
    /// # Errors
    /// Redis did not answer.
    pub async fn states_of(&self, lanes: &[&Lane]) -> RedisResult<Vec<LaneState>> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = STATES.arg(FIRST_LIMIT);
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
                circuit_open: (circuit_open == 1).then(|| Class::parse(&cause)).flatten(),
                pause: (wait > 0).then(|| Pause {
                    wait: Duration::from_millis(wait),
                    reason: PauseReason::parse(&why),
                }),
                since: timestamp(since),
                unavailable_for: tenants.into_iter().map(UnavailableFor::from).collect(),
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

/// How many jobs of each model may be started, and which tenants' jobs may not.
///
/// A model that its provider has retired counts as available: its jobs must start, so that they
/// fail at once instead of waiting until their deadline.
pub fn available(catalog: &Catalog, states: &[LaneState]) -> Capacity {
    available_models(catalog.models(), states)
}

/// As [`available`], of these models only.
pub fn available_models<'a>(
    models: impl IntoIterator<Item = &'a Model>,
    states: &[LaneState],
) -> Capacity {
    let models: Vec<&Model> = models.into_iter().collect();
    let states: HashMap<&Lane, &LaneState> =
        states.iter().map(|state| (&state.lane, state)).collect();
    // `None` where a lane's state is not known: then nothing is held back.
    let states_of = |lanes: &[Lane]| {
        let states = lanes.iter().map(|lane| states.get(lane).copied());
        states.collect::<Option<Vec<&LaneState>>>()
    };
    let is_retired = |state: &&LaneState| {
        let reason = state.pause.map(|pause| pause.reason);
        reason == Some(PauseReason::Answers(Class::ModelRetired))
    };
    let capacity = |lanes: &[Lane]| match states_of(lanes) {
        Some(states) if !states.iter().all(is_retired) => {
            states.into_iter().map(LaneState::capacity).sum()
        }
        _ => UNLIMITED,
    };
    let capacities = models.iter().map(|model| ModelCapacity {
        model: model.id.clone(),
        with_fallback: capacity(model.lanes(true)),
        primary_only: capacity(model.lanes(false)),
    });
    let exclusions = models.iter().flat_map(|model| {
        let primary = states_of(model.lanes(false)).unwrap_or_default();
        let all = states_of(model.lanes(true)).unwrap_or_default();
        let tenants = primary.iter().flat_map(|state| &state.unavailable_for);
        let exclusions = tenants.map(move |unavailable| Exclusion {
            model: Some(model.id.clone()),
            tenant: Some(unavailable.tenant.clone()),
            // A fallback lane without capacity helps this tenant no more than a closed one.
            everywhere: all.iter().all(|state| {
                state.capacity() == 0 || state.is_unavailable_for(&unavailable.tenant)
            }),
        });
        exclusions.collect::<Vec<_>>()
    });
    Capacity::new(capacities).without(exclusions)
}

impl From<(String, u64, String, i64)> for UnavailableFor {
    fn from((tenant, wait, why, since): (String, u64, String, i64)) -> Self {
        Self {
            tenant,
            wait: Duration::from_millis(wait),
            by: Class::parse(&why).unwrap_or(Class::ProviderFault),
            since: timestamp(since),
        }
    }
}

impl LaneState {
    fn is_unavailable_for(&self, pseudonym: &str) -> bool {
        let mut tenants = self.unavailable_for.iter();
        tenants.any(|unavailable| unavailable.tenant == pseudonym)
    }

    /// The state as this tenant sees it: also unavailable where it is so for this tenant only.
    #[must_use]
    pub fn seen_by(mut self, tenant: TenantId) -> Self {
        let pseudonym = tenant.pseudonym();
        let mut tenants = self.unavailable_for.iter();
        let Some(unavailable) = tenants.find(|unavailable| unavailable.tenant == pseudonym) else {
            return self;
        };
        if self.unavailable_because().is_none() {
            self.pause = Some(Pause {
                wait: unavailable.wait,
                reason: PauseReason::Answers(unavailable.by),
            });
            self.circuit_open = Some(unavailable.by);
            self.since = unavailable.since;
        }
        self
    }

    /// The class of the answers that make it unavailable; `None` where it is available or only
    /// full.
    pub fn unavailable_because(&self) -> Option<Class> {
        match self.pause.map(|pause| pause.reason) {
            Some(PauseReason::Answers(class)) => Some(class),
            _ => self.circuit_open,
        }
    }

    /// Jobs worth starting now: calls it would grant within the next second, and an eighth of its
    /// limit on top. Those wait in their worker, so that a call that ends is followed by the next
    /// at once.
    fn capacity(&self) -> i64 {
        if self.pause.is_some() {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 2,000")]
        let limit = self.limit as i64;
        let free = (limit - self.in_flight).max(0) + limit / 8 + 1;
        let per_second = 1_000 / i64::try_from(self.gap.as_millis()).unwrap_or(1).max(1) + 1;
        free.min(per_second)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time at so many milliseconds since 1970; `None` for 0.
fn timestamp(millis: i64) -> Option<OffsetDateTime> {
    (millis > 0)
        .then(|| OffsetDateTime::from_unix_timestamp(millis / 1000).ok())
        .flatten()
}
