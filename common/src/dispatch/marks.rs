//! Where the search for due jobs begins, which each worker remembers.
//!
//! The marks are moved on once a second. So a search reads again only the index entries of jobs
//! that were claimed in the last second, and not of all jobs since the oldest snapshot. Once a
//! minute the first jobs are looked for in the whole queue. So a job that a mark has hidden,
//! because its commit took longer than [`storage::jobs::COMMIT_MARGIN`], starts at most a minute
//! late.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use domain::id::JobId;
use domain::job::Capacity;
use storage::jobs::Mark;

/// How often the marks are moved on.
const MOVE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the first jobs are looked for in the whole queue.
const FULL_SEARCH_INTERVAL: Duration = Duration::from_mins(1);

/// The marks of one worker. The default searches from the front.
#[derive(Debug, Default)]
pub struct SearchMarks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    marks: Vec<Mark>,
    /// When the marks were last moved.
    moved_at: Option<Instant>,
    /// When they were last moved after a search of the whole queue.
    searched_from_front_at: Option<Instant>,
}

impl SearchMarks {
    /// Reads the next due jobs, as [`storage::jobs::due`] does, from the marks on.
    ///
    /// # Errors
    /// Returns an error if Postgres fails.
    pub async fn search(
        &self,
        pool: &PgPool,
        limit: i64,
        capacity: &Capacity,
    ) -> sqlx::Result<Vec<(JobId, i64)>> {
        if let Some((marks, from_front)) = self.marks_to_move(capacity) {
            let moved = storage::jobs::next_marks(pool, &marks, from_front).await?;
            self.state().marks = moved;
        }
        let marks = self.state().marks.clone();
        storage::jobs::due(pool, limit, capacity, &marks).await
    }

    /// The marks, and whether to search the whole queue for their next places. Returns `None` if it
    /// is not yet time to move them. Otherwise remembers this time, so that nobody else moves them.
    fn marks_to_move(&self, capacity: &Capacity) -> Option<(Vec<Mark>, bool)> {
        let is_over = |last: Option<Instant>, interval| {
            last.is_none_or(|last: Instant| last.elapsed() >= interval)
        };
        let mut state = self.state();
        let from_front = is_over(state.searched_from_front_at, FULL_SEARCH_INTERVAL);
        if !from_front && !is_over(state.moved_at, MOVE_INTERVAL) {
            return None;
        }
        let now = Instant::now();
        state.moved_at = Some(now);
        if from_front {
            state.searched_from_front_at = Some(now);
        }
        Some((Mark::of_models(capacity, &state.marks), from_front))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
