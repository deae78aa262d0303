//! Deletes objects that no row names: inputs of requests that broke off, renditions of attempts
//! that did not settle, and originals that were stored after their job had ended. Deletes files
//! again that have a receipt and exist all the same, for example after a volume was restored.
//! [`common::files::orphans`] defines both. Nothing is deleted unless the bucket belongs to this
//! database.
//!
//! Each deletion is independent and may be repeated. So any number of workers may sweep at the same
//! time, and each may die at any time.

use std::sync::Arc;

use bucket::Bucket;
use common::files::orphans::{Batch, Search, SearchError};

use crate::app::App;

/// What one run of the sweep did.
#[derive(Default)]
struct SweepSummary {
    /// Objects without a row that were deleted.
    unnamed: usize,
    /// The size of these objects, in bytes.
    unnamed_bytes: u64,
    /// Files with a receipt that were deleted again.
    deleted_again: usize,
    /// Objects that were left alone, because their keys are not ours or they are not plain files.
    foreign: usize,
    /// The key of one of the foreign objects, for the log.
    foreign_example: Option<String>,
}

pub(super) async fn run(app: Arc<App>) {
    // An operator who starts a worker on an old copy of the database gets the time of one interval
    // (by default an hour) to notice the mistake. Objects that only newer rows name would look
    // unnamed, and would be deleted.
    if app.started.elapsed() < app.timing.sweep_every {
        return;
    }
    let mut summary = SweepSummary::default();
    if let Err(error) = sweep(&app, &mut summary).await {
        tracing::warn!(%error, "The bucket could not be swept completely; the next run starts anew");
    }
    let SweepSummary {
        unnamed,
        unnamed_bytes,
        deleted_again,
        foreign,
        foreign_example,
    } = summary;
    if unnamed > 0 {
        tracing::info!(
            objects = unnamed,
            bytes = unnamed_bytes,
            "Deleted {unnamed} objects that no row names"
        );
    }
    if deleted_again > 0 {
        tracing::warn!(
            objects = deleted_again,
            "Deleted {deleted_again} files again: they had a receipt but existed, as happens when a copy of the bucket is restored"
        );
    }
    if let Some(key) = foreign_example {
        tracing::warn!(
            objects = foreign,
            key,
            "Left {foreign} objects in the bucket alone, because they are not ours or are not plain files; `platen verify --deep` lists them"
        );
    }
}

/// Searches the whole bucket, in batches, until the worker stops.
async fn sweep(app: &App, summary: &mut SweepSummary) -> Result<(), SearchError> {
    if !app.owner().allows_deletion().await {
        return Ok(());
    }
    let mut search = Search::begin(&app.pool, app.spool.bucket(), app.timing.sweep_grace).await?;
    while !app.stop_signal.is_cancelled()
        && let Some(batch) = search.next().await?
        // Checked before each batch, because the bucket may be swapped at any time.
        && app.owner().allows_deletion().await
    {
        sweep_batch(app.spool.bucket(), batch, summary).await?;
    }
    Ok(())
}

/// Deletes the unnamed and the receipted objects of a batch. Counts the strange and the irregular
/// objects as foreign, and leaves them alone. The overdue objects are left to the task `retain`.
async fn sweep_batch(
    bucket: &Bucket,
    batch: Batch,
    summary: &mut SweepSummary,
) -> Result<(), SearchError> {
    for object in batch.unnamed {
        bucket.delete(&object.key).await?;
        summary.unnamed += 1;
        summary.unnamed_bytes += object.bytes;
    }
    for object in batch.receipted {
        bucket.delete(&object.key).await?;
        summary.deleted_again += 1;
    }
    summary.foreign += batch.strange.len() + batch.irregular.len();
    if let Some(object) = batch.strange.into_iter().chain(batch.irregular).next() {
        summary.foreign_example.get_or_insert(object.key);
    }
    Ok(())
}
