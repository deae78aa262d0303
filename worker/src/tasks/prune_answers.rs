//! Deletes answers that were kept for repeated requests, once their time is over. What they are stands in [`common::idempotency`].
//!
//! In small steps, so that no statement takes long and no lock is held for long; what one turn leaves, the next one takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{database, idempotency, operator};

use crate::app::App;

/// Answers deleted by one statement.
const BATCH: i64 = 1_000;
/// How long one turn goes on while there are more: most of the minute to the next, so that whatever can be kept can be deleted as fast.
const LONGEST: Duration = Duration::from_secs(45);

pub(super) async fn run(app: Arc<App>) {
    let (began, mut deleted) = (Instant::now(), 0);
    while began.elapsed() < LONGEST && !app.stopping.is_cancelled() {
        let prune = idempotency::store::prune(&app.pool, app.timing.answers_kept, BATCH);
        match database::with_timeout(prune).await {
            Ok(0) => break,
            Ok(answers) => deleted += answers,
            Err(error) => {
                tracing::warn!(%error, "Answers for repeated requests could not be deleted; the next turn tries again");
                break;
            }
        }
    }
    if deleted > 0 {
        tracing::info!(
            answers = deleted,
            "Deleted {deleted} answers for repeated requests whose time was over"
        );
    }
    let prune = operator::store::prune(&app.pool, app.timing.answers_kept);
    if let Err(error) = database::with_timeout(prune).await {
        tracing::warn!(%error, "Answers to operators could not be deleted; the next turn tries again");
    }
}
