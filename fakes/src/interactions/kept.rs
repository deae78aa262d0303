//! The interactions the fake remembers.

use super::{
    super::{
        fault::Fault,
        faults::{Fate, Look, Marker},
    },
    answer,
    request::Ask,
};
use serde_json::Value;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// How many are remembered, and how many of them with their pictures; the oldest are forgotten first.
const MOST_INTERACTIONS: usize = 10_000;
const MOST_PICTURES: usize = 512;

/// The latest interactions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    interactions: Mutex<VecDeque<Interaction>>,
}

struct Interaction {
    id: String,
    /// What its polls meet.
    polls: Vec<Marker>,
    state: State,
}

impl std::fmt::Debug for Interaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Prompts are in it.
        f.debug_struct("Interaction")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum State {
    /// The work ends at `due`, or never.
    Working {
        work: Arc<Work>,
        due: Option<Instant>,
    },
    Ended(Arc<End>),
}

/// What there is to do.
pub(super) struct Work {
    pub(super) id: String,
    pub(super) created: String,
    pub(super) ask: Ask,
    pub(super) fault: Option<Fault>,
    pub(super) look: Look,
}

/// How it ended.
pub(super) struct End {
    pub(super) status: String,
    /// The interaction as a poll tells it.
    pub(super) body: Value,
    /// The SHA-256 of the picture in it, in hex.
    pub(super) picture: Option<String>,
}

/// What a poll finds.
pub(super) enum Found {
    Nothing,
    Working(Arc<Work>),
    /// The work is over, but nobody has looked at it yet.
    Due(Arc<Work>),
    Ended(Arc<End>),
}

impl Kept {
    /// Remembers work that goes on in the background.
    pub(super) fn begin(&self, work: Arc<Work>, fate: Fate) {
        let never = fate.fault == Some(Fault::Never);
        let due = (!never).then(|| Instant::now() + fate.delay);
        self.keep(Interaction {
            id: work.id.clone(),
            polls: fate.polls,
            state: State::Working { work, due },
        });
    }

    /// Remembers work that is done.
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
            .find(|kept| kept.id == id)
            .map(|kept| kept.state.clone())
        {
            None => Found::Nothing,
            Some(State::Ended(end)) => Found::Ended(end),
            Some(State::Working { work, due }) => match due {
                Some(due) if due <= Instant::now() => Found::Due(work),
                _ => Found::Working(work),
            },
        }
    }

    /// Does the work that is due, unless somebody was quicker.
    pub(super) fn settle(&self, work: &Work) -> Arc<End> {
        let end = Arc::new(answer::end(work));
        self.replace(&work.id, Arc::clone(&end)).unwrap_or(end)
    }

    /// Ends work under way as cancelled, unless it ended otherwise just before.
    pub(super) fn cancel(&self, work: &Work) -> Arc<End> {
        let cancelled = Arc::new(answer::cancelled(work));
        self.replace(&work.id, Arc::clone(&cancelled))
            .unwrap_or(cancelled)
    }

    /// Forgets an interaction; says whether there was one.
    pub(super) fn forget(&self, id: &str) -> bool {
        let mut interactions = self.interactions();
        let before = interactions.len();
        interactions.retain(|kept| kept.id != id);
        interactions.len() < before
    }

    /// The fault the next poll of an interaction meets.
    pub(super) fn fault(&self, id: &str) -> Option<Fault> {
        let mut interactions = self.interactions();
        let kept = interactions.iter_mut().rev().find(|kept| kept.id == id)?;
        let marker = kept
            .polls
            .iter_mut()
            .find(|marker| marker.times != Some(0))?;
        marker.times = marker.times.map(|left| left - 1);
        Some(marker.fault.clone())
    }

    /// Puts an end to work under way; gives back the end it had already.
    fn replace(&self, id: &str, end: Arc<End>) -> Option<Arc<End>> {
        let mut interactions = self.interactions();
        let kept = interactions.iter_mut().rev().find(|kept| kept.id == id)?;
        match &kept.state {
            State::Ended(end) => Some(Arc::clone(end)),
            State::Working { .. } => {
                kept.state = State::Ended(end);
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
    while interactions.len() > MOST_INTERACTIONS {
        interactions.pop_front();
    }
    let drawn =
        |kept: &Interaction| matches!(&kept.state, State::Ended(end) if end.picture.is_some());
    let mut surplus = interactions
        .iter()
        .filter(|kept| drawn(kept))
        .count()
        .saturating_sub(MOST_PICTURES);
    interactions.retain(|kept| {
        let forgotten = surplus > 0 && drawn(kept);
        surplus -= usize::from(forgotten);
        !forgotten
    });
}
