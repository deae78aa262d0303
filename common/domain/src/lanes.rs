//! How lanes stand, what of that is told, and how many jobs may be started because of it. What holds the calls back is in Redis.

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use crate::catalog::{Catalog, Lane, Model};
use crate::id::TenantId;
use crate::job::{Capacity, Exclusion, ModelCapacity};
use crate::outcome::{Class, Failure};

/// Capacity of a model where nothing is known that limits it.
const UNLIMITED: i64 = 1_000_000;

/// How long a lane is unavailable: the first and the longest time in a row.
#[derive(Clone, Copy, Debug)]
pub struct LaneTiming {
    /// How long its circuit breaker stays open before a probe; six times as long after a failure
    /// that only people can repair.
    pub breaker_open: (Duration, Duration),
    /// How long it pauses when even one call at a time is too many for its provider.
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
    /// The budget of retries is used up; a first try may be granted.
    Retries,
    /// The answers it got: [`Class::Throttled`] pauses it, any other class has opened its breaker.
    Answers(Class),
}

impl PauseReason {
    /// Reads the word of the scripts; what is no other reason is a class.
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
    /// Strikes against the lane; [`crate::outcome::STRIKES_OUT`] of them in a row open the breaker. 0 is a success.
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

impl LaneState {
    fn is_unavailable_for(&self, pseudonym: &str) -> bool {
        let mut closed = self.unavailable_for.iter();
        closed.any(|closed| closed.tenant == pseudonym)
    }

    /// The state as this tenant sees it: also unavailable where it is so for this tenant only.
    #[must_use]
    pub fn for_tenant(mut self, tenant: TenantId) -> Self {
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

    /// The class of the answers that make it unavailable; `None` where it is available or only
    /// full.
    pub fn unavailable_because(&self) -> Option<Class> {
        match self.pause.map(|pause| pause.reason) {
            Some(PauseReason::Answers(class)) => Some(class),
            _ => self.circuit_open,
        }
    }

    /// Jobs worth starting now; 0 while the lane grants no call. Otherwise its free places, and an
    /// eighth of its limit and one more: these jobs wait in their worker, so that a call that ends
    /// is followed by the next at once. But at most the calls that its gap between two calls allows
    /// within a second, and one more.
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
/// A model that its provider has retired counts as available: its jobs must start, so that they
/// fail at once instead of waiting until their deadline.
pub fn available(catalog: &Catalog, states: &[LaneState]) -> Capacity {
    let models: Vec<&Model> = catalog.models().collect();
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
        jobs_on_all_lanes: room(model.lanes(true)),
        jobs_on_first_lane: room(model.lanes(false)),
    });
    let shut = models.iter().flat_map(|model| {
        let home = of(model.lanes(false)).unwrap_or_default();
        let all = of(model.lanes(true)).unwrap_or_default();
        let tenants = home.iter().flat_map(|state| &state.unavailable_for);
        let shut = tenants.map(move |closed| Exclusion {
            model: Some(model.id.clone()),
            tenant: Some(closed.tenant.clone()),
            on_all_lanes: all
                .iter()
                .all(|state| state.capacity() == 0 || state.is_unavailable_for(&closed.tenant)),
        });
        shut.collect::<Vec<_>>()
    });
    Capacity::new(rooms).without(shut)
}
