//! Deletes answers that were kept for repeated requests, once their time is over. What they are stands in [`common::idempotency`].
//!
//! In small steps, so that no statement takes long and no lock is held for long; what one turn leaves, the next one takes.

use std::sync::Arc;

use common::{database, idempotency};

use crate::app::App;

/// Answers deleted by one statement.
const BATCH: i64 = 1_000;
/// Statements of one turn: with a turn a minute, a worker keeps up with 300 requests a second.
const BATCHES_PER_TURN: u64 = 20;

pub(super) async fn run(app: Arc<App>) {
    let mut deleted = 0;
    for _ in 0..BATCHES_PER_TURN {
        let prune = idempotency::store::prune(&app.pool, app.timing.answers_kept, BATCH);
        match database::answered(prune).await {
            Ok(0) => break,
            Ok(answers) => deleted += answers,
            Err(error) => {
                tracing::warn!(%error, "Answers for repeated requests could not be deleted; the next turn tries again");
                break;
            }
        }
        if app.stopping.is_cancelled() {
            break;
        }
    }
    if deleted > 0 {
        tracing::info!(
            answers = deleted,
            "Deleted {deleted} answers for repeated requests whose time was over"
        );
    }
}
