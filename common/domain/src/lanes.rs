//! The state of lanes, and how many jobs may be started because of it. The scripts that grant and
//! refuse calls, and keep the state, run in Redis (`common/queue`).

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use crate::catalog::{Catalog, Lane, Model};
use crate::id::TenantId;
use crate::job::{Capacity, Exclusion, ModelCapacity};
use crate::outcome::{Class, Failure};

/// Jobs that may be started of a model that nothing limits: more than there ever are.
const UNLIMITED: i64 = 1_000_000;

/// How long a lane is unavailable. Each value is the first and the longest time: the time doubles
/// with each time in a row.
#[derive(Clone, Copy, Debug)]
pub struct LaneTiming {
    /// How long the lane's circuit breaker stays open before a probe. Both times are six times as
    /// long after a failure that only people can repair.
    pub breaker_open: (Duration, Duration),
    /// How long the lane pauses when even one call at a time is too many for its provider.
    pub throttled: (Duration, Duration),
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
    /// The budget of retries is used up. The first call for an output may still be granted.
    Retries,
    /// The provider's answers. After [`Class::Throttled`] the lane pauses; any other class has
    /// opened its circuit breaker.
    Answers(Class),
}

impl PauseReason {
    /// Parses the word that the scripts in Redis use. Any word but `full` and `retries` is the name
    /// of a class. The name of a class that this version does not know counts as a fault of the
    /// provider.
    pub fn parse(word: &str) -> Self {
        match word {
            "full" => Self::Full,
            "retries" => Self::Retries,
            class => Self::Answers(class.parse().unwrap_or(Class::ProviderFault)),
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

/// How a call ended, as far as it matters to its lane.
#[derive(Clone, Copy, Debug)]
pub struct CallResult {
    /// The class of its outcome.
    pub class: Class,
    /// Strikes against the lane. [`crate::outcome::STRIKES_OUT`] of them in a row open the circuit
    /// breaker. A call with 0 strikes closes it, unless its class is [`Class::Throttled`].
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

/// The state of a lane.
#[derive(Clone, Debug)]
pub struct LaneState {
    /// The lane.
    pub lane: Lane,
    /// Calls allowed in flight at once, 1 to 2,000. The fraction is rounded down when calls are
    /// granted.
    pub limit: f64,
    /// Calls in flight, of all workers together.
    pub in_flight: i64,
    /// Shortest time between the starts of two calls; zero until the limit is first lowered.
    pub gap: Duration,
    /// The class that opened the circuit breaker; `None` while the breaker is closed. An open
    /// breaker is half-open once `pause` is over.
    pub circuit_open: Option<Class>,
    /// Why no call is granted at the moment; `None` if one would be granted.
    pub pause: Option<Pause>,
    /// Since when the provider's answers have made the lane unavailable; `None` after a success.
    pub since: Option<OffsetDateTime>,
    /// Tenants for which the lane is unavailable because of their own calls.
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

impl LaneState {
    /// Whether the lane is unavailable for the tenant with this pseudonym because of its own calls.
    fn is_unavailable_for(&self, pseudonym: &str) -> bool {
        let mut blocked = self.unavailable_for.iter();
        blocked.any(|blocked| blocked.tenant == pseudonym)
    }

    /// The state as this tenant sees it: a lane that is unavailable for this tenant only is shown
    /// as unavailable.
    #[must_use]
    pub fn for_tenant(mut self, tenant: TenantId) -> Self {
        let pseudonym = tenant.pseudonym();
        let mut blocked = self.unavailable_for.iter();
        let Some(blocked) = blocked.find(|blocked| blocked.tenant == pseudonym) else {
            return self;
        };
        if self.unavailable_because().is_none() {
            self.pause = Some(Pause {
                wait: blocked.wait,
                reason: PauseReason::Answers(blocked.by),
            });
            self.circuit_open = Some(blocked.by);
            self.since = blocked.since;
        }
        self
    }

    /// The class of the answers that make the lane unavailable for all tenants. `None` if it is
    /// available, or grants no call for another reason: it is full, or has no budget for retries.
    pub fn unavailable_because(&self) -> Option<Class> {
        match self.pause.map(|pause| pause.reason) {
            Some(PauseReason::Answers(class)) => Some(class),
            _ => self.circuit_open,
        }
    }

    /// How many jobs are worth starting now. 0 while the lane grants no call. Otherwise one for
    /// each call that the limit still allows, an eighth of the limit, and one more: these extra
    /// jobs wait in their worker, so that the next call starts at once when a call ends. At most
    /// one more than the calls that may start within a second by `gap`; a gap below a millisecond
    /// counts as one.
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

/// How many jobs of each model may be started, and which tenants' jobs may not.
///
/// A model with a lane that `states` does not have is not limited. A model that its provider has
/// retired is not limited either: its jobs must start, so that they fail at once instead of waiting
/// until their deadline.
pub fn available(catalog: &Catalog, states: &[LaneState]) -> Capacity {
    let models: Vec<&Model> = catalog.models().collect();
    let states: HashMap<&Lane, &LaneState> =
        states.iter().map(|state| (&state.lane, state)).collect();
    // `None` if the state of one of the lanes is not known.
    let states_of = |lanes: &[Lane]| {
        let states = lanes.iter().map(|lane| states.get(lane).copied());
        states.collect::<Option<Vec<&LaneState>>>()
    };
    let is_retired = |state: &&LaneState| {
        let why = state.pause.map(|pause| pause.reason);
        why == Some(PauseReason::Answers(Class::ModelRetired))
    };
    let jobs_on = |lanes: &[Lane]| match states_of(lanes) {
        Some(states) if !states.iter().all(is_retired) => {
            states.into_iter().map(LaneState::capacity).sum()
        }
        _ => UNLIMITED,
    };
    let capacities = models.iter().map(|model| ModelCapacity {
        model: model.id.clone(),
        jobs_on_all_lanes: jobs_on(model.lanes(true)),
        jobs_on_first_lane: jobs_on(model.lanes(false)),
    });
    // A tenant is excluded only if the model's first lane is unavailable for it: otherwise all its
    // jobs may use that lane.
    let exclusions = models.iter().flat_map(|model| {
        let first_lane = states_of(model.lanes(false)).unwrap_or_default();
        let all_lanes = states_of(model.lanes(true)).unwrap_or_default();
        let tenants = first_lane.iter().flat_map(|state| &state.unavailable_for);
        let exclusions = tenants.map(move |blocked| Exclusion {
            model: Some(model.id.clone()),
            tenant: Some(blocked.tenant.clone()),
            on_all_lanes: all_lanes
                .iter()
                .all(|state| state.capacity() == 0 || state.is_unavailable_for(&blocked.tenant)),
        });
        exclusions.collect::<Vec<_>>()
    });
    Capacity::new(capacities).without(exclusions)
}
