//! Deletes the stored answers of requests with an `Idempotency-Key` once they have expired. See
//! [`domain::idempotency`].
//!
//! Answers to tenants are deleted in small steps, so that no statement takes long and no lock is held
//! for long. The next run goes on where the last run stopped. Operators send few requests: theirs are
//! deleted by one statement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::database;

use crate::app::App;

/// The most answers that one statement deletes.
const BATCH: i64 = 1_000;
/// How long one run may take. This is most of the minute until the next run, so that answers are
/// deleted as fast as they are stored.
const MAX_RUN_TIME: Duration = Duration::from_secs(45);

pub(super) async fn run(app: Arc<App>) {
    let (started, mut deleted) = (Instant::now(), 0);
    while started.elapsed() < MAX_RUN_TIME && !app.stop_signal.is_cancelled() {
        let prune = storage::idempotency::prune(&app.pool, app.timing.idempotency_retention, BATCH);
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
    let prune = storage::operators::prune(&app.pool, app.timing.idempotency_retention);
    if let Err(error) = database::with_timeout(prune).await {
        tracing::warn!(%error, "Expired answers to operators could not be deleted; the next run tries again");
    }
}
