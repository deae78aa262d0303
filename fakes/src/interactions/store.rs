//! The interactions that the fake keeps in memory.

use super::{
    super::{
        fault::Fault,
        faults::{CallPlan, Marker},
    },
    answer::{self, End, Work},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// How many are interaction. The oldest are dropped first.
const MAX_INTERACTIONS: usize = 10_000;
/// How many with pictures are interaction. The oldest are dropped first.
const MAX_PICTURES: usize = 512;

/// The latest interactions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Store {
    interactions: Mutex<VecDeque<Interaction>>,
}

struct Interaction {
    id: String,
    /// The faults of its polls.
    polls: Vec<Marker>,
    state: State,
}

impl std::fmt::Debug for Interaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The other fields hold the prompt, which does not belong into logs.
        f.debug_struct("Interaction")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum State {
    /// The work ends at `due`. `None`: never.
    Working {
        work: Arc<Work>,
        due: Option<Instant>,
    },
    Ended(Arc<End>),
}

/// The state that a poll finds.
pub(super) enum Found {
    Nothing,
    Working(Arc<Work>),
    /// The time of the work is over, but the picture is not drawn yet.
    Due(Arc<Work>),
    Ended(Arc<End>),
}

impl Store {
    /// Keeps work that runs in the background.
    pub(super) fn begin(&self, work: Arc<Work>, plan: CallPlan) {
        let never = plan.fault == Some(Fault::Never);
        let due = (!never).then(|| Instant::now() + plan.delay);
        self.keep(Interaction {
            id: work.id.clone(),
            polls: plan.polls,
            state: State::Working { work, due },
        });
    }

    /// Keeps work that is done.
    pub(super) fn end(&self, id: &str, end: Arc<End>, polls: Vec<Marker>) {
        self.keep(Interaction {
            id: id.to_owned(),
            polls,
            state: State::Ended(end),
        });
    }

    pub(super) fn find(&self, id: &str) -> Found {
        let interactions = self.interactions();
        match interactions
            .iter()
            .rev()
            .find(|interaction| interaction.id == id)
            .map(|interaction| interaction.state.clone())
        {
            None => Found::Nothing,
            Some(State::Ended(end)) => Found::Ended(end),
            Some(State::Working { work, due }) => match due {
                Some(due) if due <= Instant::now() => Found::Due(work),
                _ => Found::Working(work),
            },
        }
    }

    /// Does the work that is due. If another poll has finished it meanwhile, returns that result.
    pub(super) fn finish(&self, work: &Work) -> Arc<End> {
        let end = Arc::new(answer::end(work));
        self.replace(&work.id, Arc::clone(&end)).unwrap_or(end)
    }

    /// Ends running work as cancelled. If it has ended meanwhile, returns that result.
    pub(super) fn cancel(&self, work: &Work) -> Arc<End> {
        let cancelled = Arc::new(answer::cancelled(work));
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

    /// Sets the result of running work. If it had one already, returns that and changes nothing.
    fn replace(&self, id: &str, end: Arc<End>) -> Option<Arc<End>> {
        let mut interactions = self.interactions();
        let interaction = interactions
            .iter_mut()
            .rev()
            .find(|interaction| interaction.id == id)?;
        match &interaction.state {
            State::Ended(end) => Some(Arc::clone(end)),
            State::Working { .. } => {
                interaction.state = State::Ended(end);
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

fn trim(interactions: &mut VecDeque<Interaction>) {
    while interactions.len() > MAX_INTERACTIONS {
        interactions.pop_front();
    }
    let has_picture = |interaction: &Interaction| matches!(&interaction.state, State::Ended(end) if end.picture.is_some());
    let mut excess = interactions
        .iter()
        .filter(|interaction| has_picture(interaction))
        .count()
        .saturating_sub(MAX_PICTURES);
    interactions.retain(|interaction| {
        let is_dropped = excess > 0 && has_picture(interaction);
        excess -= usize::from(is_dropped);
        !is_dropped
    });
}
