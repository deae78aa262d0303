//! The interactions that the fake keeps in memory.

use super::{
    super::{
        fault::Fault,
        faults::{CallPlan, Marker},
    },
    answer::{self, Work, WorkResult},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// How many interactions are kept. The oldest are dropped first.
const MAX_INTERACTIONS: usize = 10_000;
/// How many interactions with an image are kept. The oldest are dropped first.
const MAX_IMAGES: usize = 512;

/// The latest interactions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Store {
    interactions: Mutex<VecDeque<Interaction>>,
}

struct Interaction {
    id: String,
    /// The faults of its next polls, in order. Each has the number of polls that are left for it, or `None` for all.
    polls: Vec<Marker>,
    state: State,
}

impl std::fmt::Debug for Interaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The other fields hold the prompt, which must not be logged.
        f.debug_struct("Interaction")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum State {
    /// The work ends at `due`, or never if `due` is `None`.
    Working {
        work: Arc<Work>,
        due: Option<Instant>,
    },
    Ended(Arc<WorkResult>),
}

/// The state of an interaction when it is looked up.
pub(super) enum LookupResult {
    NotFound,
    Working(Arc<Work>),
    /// The time of the work is over, but the image is not drawn yet.
    Due(Arc<Work>),
    Ended(Arc<WorkResult>),
}

impl Store {
    /// Keeps work that runs in the background.
    pub(super) fn keep_running(&self, work: Arc<Work>, plan: CallPlan) {
        let never = plan.fault == Some(Fault::Never);
        let due = (!never).then(|| Instant::now() + plan.delay);
        self.keep(Interaction {
            id: work.id.clone(),
            polls: plan.polls,
            state: State::Working { work, due },
        });
    }

    /// Keeps work that is done.
    pub(super) fn keep_ended(&self, id: &str, result: Arc<WorkResult>, polls: Vec<Marker>) {
        self.keep(Interaction {
            id: id.to_owned(),
            polls,
            state: State::Ended(result),
        });
    }

    /// Looks up an interaction.
    pub(super) fn find(&self, id: &str) -> LookupResult {
        let interactions = self.interactions();
        match interactions
            .iter()
            .rev()
            .find(|interaction| interaction.id == id)
            .map(|interaction| interaction.state.clone())
        {
            None => LookupResult::NotFound,
            Some(State::Ended(result)) => LookupResult::Ended(result),
            Some(State::Working { work, due }) => match due {
                Some(due) if due <= Instant::now() => LookupResult::Due(work),
                _ => LookupResult::Working(work),
            },
        }
    }

    /// Does the work that is due. If the work has ended meanwhile, returns the earlier result.
    pub(super) fn finish(&self, work: &Work) -> Arc<WorkResult> {
        let result = Arc::new(answer::run(work));
        self.replace(&work.id, Arc::clone(&result))
            .unwrap_or(result)
    }

    /// Ends running work with the status `cancelled`. If the work has ended meanwhile, returns its result.
    pub(super) fn cancel(&self, work: &Work) -> Arc<WorkResult> {
        let cancelled = Arc::new(answer::cancel(work));
        self.replace(&work.id, Arc::clone(&cancelled))
            .unwrap_or(cancelled)
    }

    /// Deletes an interaction. Returns whether it existed.
    pub(super) fn forget(&self, id: &str) -> bool {
        let mut interactions = self.interactions();
        let before = interactions.len();
        interactions.retain(|interaction| interaction.id != id);
        interactions.len() < before
    }

    /// The fault of the next poll of an interaction. Counts the poll.
    pub(super) fn next_poll_fault(&self, id: &str) -> Option<Fault> {
        let mut interactions = self.interactions();
        let interaction = interactions
            .iter_mut()
            .rev()
            .find(|interaction| interaction.id == id)?;
        let marker = interaction
            .polls
            .iter_mut()
            .find(|marker| marker.times != Some(0))?;
        marker.times = marker.times.map(|left| left - 1);
        Some(marker.fault.clone())
    }

    /// Sets the result of running work. If the work has ended already, returns the earlier result
    /// and changes nothing. If the interaction is no longer kept, returns `None`, too.
    fn replace(&self, id: &str, result: Arc<WorkResult>) -> Option<Arc<WorkResult>> {
        let mut interactions = self.interactions();
        let interaction = interactions
            .iter_mut()
            .rev()
            .find(|interaction| interaction.id == id)?;
        match &interaction.state {
            State::Ended(result) => Some(Arc::clone(result)),
            State::Working { .. } => {
                interaction.state = State::Ended(result);
                trim(&mut interactions);
                None
            }
        }
    }

    fn keep(&self, interaction: Interaction) {
        let mut interactions = self.interactions();
        interactions.push_back(interaction);
        trim(&mut interactions);
    }

    fn interactions(&self) -> MutexGuard<'_, VecDeque<Interaction>> {
        self.interactions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the oldest interactions beyond [`MAX_INTERACTIONS`], and the oldest with an image beyond [`MAX_IMAGES`].
fn trim(interactions: &mut VecDeque<Interaction>) {
    while interactions.len() > MAX_INTERACTIONS {
        interactions.pop_front();
    }
    let has_image = |interaction: &Interaction| matches!(&interaction.state, State::Ended(result) if result.image_sha256.is_some());
    let mut excess = interactions
        .iter()
        .filter(|interaction| has_image(interaction))
        .count()
        .saturating_sub(MAX_IMAGES);
    interactions.retain(|interaction| {
        let is_dropped = excess > 0 && has_image(interaction);
        excess -= usize::from(is_dropped);
        !is_dropped
    });
}
