//! Low-water marks: values below which a scheduled task need not search, because an earlier run has
//! handled all rows there. While a transaction keeps an old snapshot open, Postgres cannot remove
//! the index entries of rows that were handled since, and a search from the lowest value would read
//! all of these entries again each time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

/// How often a search ignores its mark, because a transaction may have committed a row below the
/// mark after the mark was set.
const FULL_SEARCH_INTERVAL: Duration = Duration::from_mins(1);

/// The low-water marks of a worker's tasks.
#[derive(Debug, Default)]
pub(crate) struct LowWater {
    /// A time at or before the claim of every running job.
    pub(crate) claims: LowWaterMark<OffsetDateTime>,
    /// The number of the last billing line that this worker's newest fold has folded.
    pub(crate) billing_lines: LowWaterMark<i64>,
    /// The number of the last storage line that this worker's newest fold has folded.
    pub(crate) storage_lines: LowWaterMark<i64>,
}

/// The value at which a search begins.
#[derive(Debug)]
pub(crate) struct LowWaterMark<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    /// `None` until the first search has set it.
    mark: Option<T>,
    /// When a search last ignored the mark.
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
    /// The value at which the search that starts now begins. Returns `None` if it must search
    /// everything: once in each [`FULL_SEARCH_INTERVAL`], and while no mark is set.
    pub(crate) fn start(&self) -> Option<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_long_ago = |ignored: Instant| ignored.elapsed() >= FULL_SEARCH_INTERVAL;
        if state.ignored_at.is_none_or(is_long_ago) {
            state.ignored_at = Some(Instant::now());
            return None;
        }
        state.mark
    }

    /// Sets the value at which the next searches begin.
    pub(crate) fn set(&self, mark: T) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.mark = Some(mark);
    }
}
