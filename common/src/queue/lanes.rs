//! Lanes: what all workers together know about each place a model is called at. Shared in Redis, and may vanish:
//! without it every lane is open, and each job's own delays are all that holds calls back.
//!
//! A lane lets in as many calls at once as its provider bears: one more whenever the limit was used and nothing was
//! refused, a seventh fewer when the provider says that it is busy (additive increase, multiplicative decrease; of
//! calls that were made before the last cut, none cuts again). From then on calls are let in evenly, not in bursts: a
//! provider that counts calls by the second refuses what comes at once after a pause. At its least the lane pauses
//! instead, each time longer; a provider's own hint is kept to. Retries live on a budget that successes fill: an outage is
//! not made worse.
//!
//! Strikes in a row close the lane; when the pause is over, one call probes whether it opens again. What a request
//! may have brought about (an error 500, an answer that is no picture, none at all) closes it for the tenant that
//! asked, and counts for half of what closes it for all: so it takes two tenants, and nobody's prompts stop a model
//! for others. For the same reason an eighth of the calls it lets in is kept from each tenant. Of a tenant Redis
//! holds a short hash of its id, for two hours after its last call, and its strikes for one hour after the last.
//!
//! The scripts are in `lanes/`; `shared.lua` goes before each of the others.

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

/// Calls a lane lets in at once before it has learned anything.
const FIRST_LIMIT: u32 = 32;
/// What is left of the limit after a cut, in hundredths.
const CUT_PERCENT: u32 = 85;
/// Retries a lane allows out of nothing, and what one success adds, in hundredths.
const RETRY_BUDGET: u32 = 20;
const RETRY_CREDIT_PERCENT: u32 = 25;
/// A provider's hint is kept to, but not for longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// Room where nothing is known that holds jobs back.
const UNLIMITED: i64 = 1_000_000;
/// What lanes know is forgotten when nobody has called for so long.
const LANE_TTL: Duration = Duration::from_hours(6);
/// Strikes of one tenant are forgotten when there was none for so long.
const TENANT_TTL: Duration = Duration::from_hours(1);
/// Tenants a lane is closed for that are remembered, those for the longest time: what dispatcher and claim leave out.
const MAX_UNAVAILABLE_TENANTS: usize = 200;

/// The lanes of one Platen.
#[derive(Clone)]
pub struct Lanes {
    connection: SharedConnection,
    prefix: String,
    timing: LaneTiming,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquisition {
    Granted,
    Denied(Pause),
}

/// Why a lane lets nobody in, and for how long at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    pub wait: Duration,
    pub reason: PauseReason,
}

/// What keeps a lane from letting calls in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// As many calls as it bears are in flight.
    Full,
    /// Too many of its calls were retries.
    Retries,
    /// Its answers: [`Class::Throttled`] pauses it, strikes close it.
    Answers(Class),
}

/// How a call ended, as far as it concerns its lane.
#[derive(Clone, Copy, Debug)]
pub struct CallResult {
    pub class: Class,
    pub strikes: u32,
    /// The provider asked to wait this long.
    pub retry_after: Option<Duration>,
}

impl CallResult {
    /// With a picture.
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

/// What the script tells of a lane: limit, calls in flight, wait, why, gap, whether it is
/// broken, by what, since when it has let nobody in, which values were corrected, and for which tenants it is closed.
type State = (
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

/// How a lane stands.
#[derive(Clone, Debug)]
pub struct LaneState {
    pub lane: Lane,
    /// Calls it lets in at once.
    pub limit: f64,
    pub in_flight: i64,
    /// Time between two calls that are let in, where they are let in evenly.
    pub gap: Duration,
    /// What closed it, where strikes have; once its pause is over, one call may probe it.
    pub circuit_open: Option<Class>,
    /// Why it lets nobody in, where it does not.
    pub pause: Option<Pause>,
    /// Since when its provider's answers have closed or paused it; a success ends that.
    pub since: Option<OffsetDateTime>,
    /// For which tenants it is closed because of their own calls.
    pub unavailable_for: Vec<UnavailableFor>,
}

/// A tenant whose calls have closed a lane for it.
#[derive(Clone, Debug)]
pub struct UnavailableFor {
    /// [`TenantId::pseudonym`].
    pub tenant: String,
    /// Until it may probe the lane, at least.
    pub wait: Duration,
    pub by: Class,
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
    pub fn new(ring: &ReadyQueue, timing: LaneTiming) -> Self {
        Self {
            connection: ring.connection.clone(),
            prefix: format!("{}:lane", ring.keys.name),
            timing,
        }
    }

    /// Lets a call in, or says for how long not. `ends_within` bounds how long it counts when nobody reports its end.
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

    /// Reports how a call that was let in ended; `None`: it says nothing of the lane.
    pub async fn release(
        &self,
        lane: &Lane,
        tenant: TenantId,
        call: CallId,
        ended: Option<CallResult>,
        ends_within: Duration,
    ) -> Result<(), QueueError> {
        let strikes = ended.map_or(0, |ended| ended.strikes);
        let hint = ended.and_then(|ended| ended.retry_after);
        // What only people can mend is probed more rarely.
        let patience = if strikes * 2 >= STRIKES_OUT { 6 } else { 1 };
        let (least, most) = self.timing.closed;
        let by_request = ended.is_some_and(|ended| ended.class.may_be_caused_by_request());
        let _changed: i64 = self
            .keys(&RELEASE, lane, tenant)
            .arg(call.0.simple().to_string())
            .arg(FIRST_LIMIT)
            .arg(ended.map_or("", |ended| ended.class.as_str()))
            .arg(strikes)
            .arg(millis(ends_within))
            .arg(CUT_PERCENT)
            .arg(millis(least * patience))
            .arg(millis(most * patience))
            .arg(millis(self.timing.throttled.0))
            .arg(millis(self.timing.throttled.1))
            .arg(millis(hint.unwrap_or_default().min(MAX_RETRY_AFTER)))
            .arg(RETRY_BUDGET)
            .arg(RETRY_CREDIT_PERCENT)
            .arg(STRIKES_OUT)
            .arg(millis(LANE_TTL))
            .arg(tenant.pseudonym())
            .arg(i32::from(by_request))
            .arg(millis(TENANT_TTL))
            .arg(MAX_UNAVAILABLE_TENANTS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(())
    }

    /// How every lane of the catalogue stands.
    pub async fn states(&self, catalog: &Catalog) -> RedisResult<Vec<LaneState>> {
        let mut lanes: Vec<&Lane> = catalog.models().flat_map(|model| &model.lanes).collect();
        lanes.sort();
        lanes.dedup();
        self.states_of(&lanes).await
    }

    /// How these lanes stand.
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
        let states: Vec<State> = call.invoke_async(&mut self.connection.clone()).await?;
        let state = |(lane, state): (&&Lane, State)| {
            let (limit, in_flight, wait, why, gap, broken, cause, since, corrected, tenants) =
                state;
            if !corrected.is_empty() {
                tracing::warn!(
                    %lane,
                    fields = corrected,
                    "Redis held values for the lane that Platen never writes; they were corrected: who else writes there?"
                );
            }
            LaneState {
                lane: (*lane).clone(),
                limit,
                in_flight,
                gap: Duration::from_millis(gap),
                circuit_open: (broken == 1).then(|| Class::parse(&cause)).flatten(),
                pause: (wait > 0).then(|| Pause {
                    wait: Duration::from_millis(wait),
                    reason: PauseReason::parse(&why),
                }),
                since: moment(since),
                unavailable_for: tenants.into_iter().map(UnavailableFor::from).collect(),
            }
        };
        Ok(lanes.iter().zip(states).map(state).collect())
    }

    fn hash(&self, lane: &Lane) -> String {
        format!("{}:{lane}", self.prefix)
    }

    /// A script with all that is kept of a lane and of a tenant there.
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

/// How many jobs of each model may be started, and of which tenants none. A model that its provider no longer has lets jobs
/// through: they are to end at once, not to wait.
pub fn available(catalog: &Catalog, states: &[LaneState]) -> Capacity {
    available_models(catalog.models(), states)
}

/// The same of these models only.
pub fn available_models<'a>(
    models: impl IntoIterator<Item = &'a Model>,
    states: &[LaneState],
) -> Capacity {
    let models: Vec<&Model> = models.into_iter().collect();
    let states: HashMap<&Lane, &LaneState> =
        states.iter().map(|state| (&state.lane, state)).collect();
    let of = |lanes: &[Lane]| {
        let states = lanes.iter().map(|lane| states.get(lane).copied());
        states.collect::<Option<Vec<&LaneState>>>()
    };
    let retired = |state: &&LaneState| {
        let why = state.pause.map(|pause| pause.reason);
        why == Some(PauseReason::Answers(Class::ModelRetired))
    };
    let room = |lanes: &[Lane]| match of(lanes) {
        Some(states) if !states.iter().all(retired) => {
            states.into_iter().map(LaneState::capacity).sum()
        }
        _ => UNLIMITED,
    };
    let rooms = models.iter().map(|model| ModelCapacity {
        model: model.id.clone(),
        with_fallback: room(model.lanes(true)),
        primary_only: room(model.lanes(false)),
    });
    let shut = models.iter().flat_map(|model| {
        let home = of(model.lanes(false)).unwrap_or_default();
        let all = of(model.lanes(true)).unwrap_or_default();
        let tenants = home.iter().flat_map(|state| &state.unavailable_for);
        let shut = tenants.map(move |closed| Exclusion {
            model: Some(model.id.clone()),
            tenant: Some(closed.tenant.clone()),
            everywhere: all
                .iter()
                .all(|state| state.capacity() == 0 || state.is_unavailable_for(&closed.tenant)),
        });
        shut.collect::<Vec<_>>()
    });
    Capacity::new(rooms).without(shut)
}

impl From<(String, u64, String, i64)> for UnavailableFor {
    fn from((tenant, wait, why, since): (String, u64, String, i64)) -> Self {
        Self {
            tenant,
            wait: Duration::from_millis(wait),
            by: Class::parse(&why).unwrap_or(Class::ProviderFault),
            since: moment(since),
        }
    }
}

impl LaneState {
    fn is_unavailable_for(&self, pseudonym: &str) -> bool {
        let mut closed = self.unavailable_for.iter();
        closed.any(|closed| closed.tenant == pseudonym)
    }

    /// The same as this tenant meets it: closed where it is closed for the tenant only.
    #[must_use]
    pub fn seen_by(mut self, tenant: TenantId) -> Self {
        let pseudonym = tenant.pseudonym();
        let mut closed = self.unavailable_for.iter();
        let Some(closed) = closed.find(|closed| closed.tenant == pseudonym) else {
            return self;
        };
        if self.unavailable_because().is_none() {
            self.pause = Some(Pause {
                wait: closed.wait,
                reason: PauseReason::Answers(closed.by),
            });
            self.circuit_open = Some(closed.by);
            self.since = closed.since;
        }
        self
    }

    /// What keeps it closed, or paused.
    pub fn unavailable_because(&self) -> Option<Class> {
        match self.pause.map(|pause| pause.reason) {
            Some(PauseReason::Answers(class)) => Some(class),
            _ => self.circuit_open,
        }
    }

    /// Calls it would let in within the next second, and a few to wait at the door: what ends is followed at once.
    fn capacity(&self) -> i64 {
        if self.pause.is_some() {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 2,000")]
        let limit = self.limit as i64;
        let free = (limit - self.in_flight).max(0) + limit / 8 + 1;
        let a_second = 1_000 / i64::try_from(self.gap.as_millis()).unwrap_or(1).max(1) + 1;
        free.min(a_second)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time in milliseconds since 1970; 0 is none.
fn moment(millis: i64) -> Option<OffsetDateTime> {
    (millis > 0)
        .then(|| OffsetDateTime::from_unix_timestamp(millis / 1000).ok())
        .flatten()
}
