//! Deletes files and prompts that are due, and writes a receipt for each. [`domain::retention`]
//! says what is due, and why the steps come in this order.
//!
//! Each step may be repeated, also by another worker. So a worker may die between any two steps:
//! another worker takes the file after the duration of one lease.

use std::sync::Arc;

use common::files::uploading;
use domain::ownership::Ownership;
use domain::retention::{Due, FileClass};
use futures::stream::{self, StreamExt};
use storage::database;
use tokio::time::Instant;

use crate::app::App;

/// The most files, prompts or uploads that are handled in one step.
const BATCH: i64 = 50;
/// The most files that are deleted at the same time.
const MAX_CONCURRENT: usize = 8;

pub(super) async fn run(app: Arc<App>) {
    // A counter that is written once appears at the first scrape, before anything happens.
    for &class in FileClass::ALL {
        telemetry::DELETIONS
            .with_label_values(&[class.as_str()])
            .inc_by(0);
    }
    if let Err(error) = expire_uploads(&app).await {
        tracing::warn!(%error, "The deletion of expired uploads could not be planned; the next run tries again");
    }
    while !app.stop_signal.is_cancelled() {
        // Nothing is deleted from a bucket that is not ours. Prompts are in Postgres, so they are
        // deleted in any case.
        let with_files = app.owner().allows_deletion().await;
        let take = storage::retention::take(&app.pool, BATCH, app.timing.lease, with_files);
        let due = match database::with_timeout(take).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "Files and prompts that are due could not be queried; the next run tries again");
                break;
            }
        };
        let taken = due.len();
        let deleted = delete_due(&app, due).await;
        if taken > 0 {
            tracing::info!(
                deleted,
                taken,
                "Deleted {deleted} files and prompts that were due"
            );
        }
        // A failed deletion may mean that the bucket is unavailable, so the rest waits for a later
        // run.
        if deleted < taken || taken < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            break;
        }
    }
    match database::with_timeout(storage::retention::overdue(&app.pool)).await {
        Ok((files, seconds)) => {
            telemetry::DELETIONS_DUE.set(files);
            telemetry::DELETIONS_LATE.set(seconds);
        }
        Err(error) => tracing::debug!(%error, "Files that are due could not be counted"),
    }
}

/// Plans the deletion of uploads that expired by their tenant's retention. Each step leaves fewer
/// such uploads, so the loop ends.
async fn expire_uploads(app: &App) -> sqlx::Result<()> {
    let mut planned = 0_u64;
    while !app.stop_signal.is_cancelled() {
        let due = database::with_timeout(storage::uploads::due(&app.pool, BATCH)).await?;
        let found = due.len();
        for (tenant, id) in due {
            let expired =
                database::with_timeout(uploading::expire(&app.pool, tenant, id, None)).await?;
            planned += u64::from(expired);
        }
        if found < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            break;
        }
    }
    if planned > 0 {
        tracing::info!(
            uploads = planned,
            "Planned the deletion of {planned} uploads: no job has needed them during the retention time of their tenant"
        );
    }
    Ok(())
}

/// Deletes the files and prompts that are due, and returns how many of them have a receipt now. The
/// caller has checked the bucket's owner before. This function checks it again before it writes the
/// receipts of files, because a missing file proves nothing if the bucket was swapped meanwhile.
async fn delete_due(app: &App, due: Vec<sqlx::Result<Due>>) -> usize {
    let deleted = stream::iter(due)
        .map(|due| delete_one(app, due))
        .buffer_unordered(MAX_CONCURRENT)
        .filter_map(std::future::ready);
    let deleted: Vec<Due> = deleted.collect().await;
    let (prompts, files): (Vec<Due>, Vec<Due>) = deleted
        .into_iter()
        .partition(|due| due.class == FileClass::Prompt);
    let mut receipts = prompts.len();
    if files.is_empty() {
        return receipts;
    }
    match app.owner().check_since(Instant::now()).await {
        Ok(Ownership::Ours) => {}
        answer => {
            let problem = answer.map(Ownership::problem);
            tracing::warn!(
                files = files.len(),
                ?problem,
                "The bucket is not ours, or did not answer, after files were deleted: no receipt is written, and they are deleted again"
            );
            return receipts;
        }
    }
    for due in files {
        match database::with_timeout(storage::retention::receipt(&app.pool, &due)).await {
            Ok(()) => {
                count(&due);
                receipts += 1;
            }
            Err(error) => log_failure(&due, &error.into()),
        }
    }
    receipts
}

/// Deletes one prompt and writes its receipt, or deletes one file and writes no receipt yet.
/// Returns `None` if that failed.
async fn delete_one(app: &App, due: sqlx::Result<Due>) -> Option<Due> {
    let due = match due {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(%error, "A file that is due has a class that this version does not know, so it was not deleted; a newer worker deletes it");
            return None;
        }
    };
    let result = match due.class {
        FileClass::Prompt => delete_prompt(app, &due).await,
        _ => delete_file(app, &due).await,
    };
    match result {
        Ok(()) => Some(due),
        Err(error) => {
            log_failure(&due, &error);
            None
        }
    }
}

/// Counts a deletion in the metric.
fn count(due: &Due) {
    telemetry::DELETIONS
        .with_label_values(&[due.class.as_str()])
        .inc();
}

fn log_failure(due: &Due, error: &anyhow::Error) {
    tracing::warn!(
        deletion = due.id,
        class = due.class.as_str(),
        error = format!("{error:#}"),
        "A file or prompt that is due could not be deleted; a later run tries again"
    );
}

/// Hides a file, so that the API gives no link to it any more, deletes it from the bucket, and
/// checks that it is gone.
async fn delete_file(app: &App, due: &Due) -> anyhow::Result<()> {
    let hide = async {
        let mut transaction = database::begin_for(&app.pool, due.tenant).await?;
        storage::retention::hide(&mut transaction, due).await?;
        transaction.commit().await
    };
    database::with_timeout(hide).await?;
    let bucket = app.spool.bucket();
    bucket.delete(&due.object_key).await?;
    anyhow::ensure!(
        bucket.measure(&due.object_key).await?.is_none(),
        "the bucket still has the file"
    );
    Ok(())
}

/// Deletes a prompt from its row, and writes the receipt in the same transaction.
async fn delete_prompt(app: &App, due: &Due) -> anyhow::Result<()> {
    let erase = async {
        let mut transaction = database::begin_for(&app.pool, due.tenant).await?;
        storage::retention::erase(&mut transaction, due).await?;
        storage::retention::receipt(&mut *transaction, due).await?;
        transaction.commit().await
    };
    database::with_timeout(erase).await?;
    count(due);
    Ok(())
}
