//! Deletes the stored answers of requests with an `Idempotency-Key` once they have expired. See
//! [`domain::idempotency`].
//!
//! It deletes in small steps, so that no statement takes long and no lock is held for long. The
//! next run goes on where one run stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::database;

use crate::app::App;

/// Answers deleted by one statement.
const BATCH: i64 = 1_000;
/// How long one run may take. It is most of the minute until the next run, so that answers are
/// deleted as fast as they can be stored.
const MAX_RUN_TIME: Duration = Duration::from_secs(45);

pub(super) async fn run(app: Arc<App>) {
    let (began, mut deleted) = (Instant::now(), 0);
    while began.elapsed() < MAX_RUN_TIME && !app.stopping.is_cancelled() {
        let prune = storage::idempotency::prune(&app.pool, app.timing.answers_kept, BATCH);
        match database::with_timeout(prune).await {
            Ok(0) => break,
            Ok(answers) => deleted += answers,
            Err(error) => {
                tracing::warn!(%error, "Expired answers could not be deleted; the next run tries again");
                break;
            }
        }
    }
    if deleted > 0 {
        tracing::info!(
            answers = deleted,
            "Deleted {deleted} expired answers of requests with an Idempotency-Key"
        );
    }
    let prune = storage::operators::prune(&app.pool, app.timing.answers_kept);
    if let Err(error) = database::with_timeout(prune).await {
        tracing::warn!(%error, "Expired answers to operators could not be deleted; the next run tries again");
    }
}
