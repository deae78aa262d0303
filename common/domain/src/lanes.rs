//! How lanes stand, what of that is told, and how many jobs may be started because of it. What holds the calls back is in Redis.

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use crate::catalog::{Catalog, Lane, Model};
use crate::id::TenantId;
use crate::job::{Capacity, Exclusion, ModelCapacity};
use crate::outcome::{Class, Failure};

/// Room where nothing is known that holds jobs back.
const UNLIMITED: i64 = 1_000_000;

/// How long a lane lets nobody in: first and longest.
#[derive(Clone, Copy, Debug)]
pub struct LaneTiming {
    /// After faults, until it is probed. What only people can mend is probed six times more rarely.
    pub closed: (Duration, Duration),
    /// When its provider says that even one call at a time is too many.
    pub throttled: (Duration, Duration),
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

impl PauseReason {
    /// Reads the word of the scripts; what is no other reason is a class.
    pub fn parse(word: &str) -> Self {
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
