//! Values below which a scheduled task has nothing to look at, because an earlier run has seen it
//! to its end. While somebody keeps a snapshot open, Postgres keeps the index entries of what was
//! done since, and a search from the lowest value would read them again each time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

/// How often a search ignores its mark. Something may have been committed below it.
const FULL_SEARCH_INTERVAL: Duration = Duration::from_mins(1);

/// The marks of a worker's tasks.
#[derive(Debug, Default)]
pub(crate) struct LowWater {
    /// Since when the running jobs were claimed.
    pub(crate) claims: LowWaterMark<OffsetDateTime>,
    /// The number of the first billing line that was not folded.
    pub(crate) billing_lines: LowWaterMark<i64>,
    /// The number of the first storage line that was not folded.
    pub(crate) storage_lines: LowWaterMark<i64>,
}

/// A value from which on a search begins.
#[derive(Debug)]
pub(crate) struct LowWaterMark<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    mark: Option<T>,
    ignored_at: Option<Instant>,
}

impl<T> Default for LowWaterMark<T> {
    fn default() -> Self {
        Self(Mutex::new(State {
            mark: None,
            ignored_at: None,
        }))
    }
}

impl<T: Copy> LowWaterMark<T> {
    /// From where to search now. `None`: everything, which it says once a minute.
    pub(crate) fn start(&self) -> Option<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |ignored: Instant| ignored.elapsed() >= FULL_SEARCH_INTERVAL;
        if state.ignored_at.is_none_or(is_over) {
            state.ignored_at = Some(Instant::now());
            return None;
        }
        state.mark
    }

    /// Sets from where the next searches begin.
    pub(crate) fn set(&self, mark: T) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.mark = Some(mark);
    }
}
