//! Deletes files and prompts that are due, and keeps a receipt of each. What is due, and why the steps come in this order, stands in
//! [`common::retention`].
//!
//! Each step may be repeated and none needs the one before to have been made by the same worker, so a worker may die between
//! any two: after a lease another takes the file up.

use std::sync::Arc;

use common::ownership::Ownership;
use common::retention::{self, Due, FileClass};
use common::{database, telemetry, upload, uploading};
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use crate::app::App;

/// Files, prompts and uploads looked at in one step, and how many are deleted side by side.
const BATCH: i64 = 50;
const AT_ONCE: usize = 8;

pub(super) async fn run(app: Arc<App>) {
    // So that all are told from the start.
    for class in FileClass::ALL {
        telemetry::DELETIONS
            .with_label_values(&[class.as_str()])
            .inc_by(0);
    }
    if let Err(error) = expire_uploads(&app).await {
        tracing::warn!(%error, "Uploads whose time is over could not be looked for; the next turn tries again");
    }
    while !app.stopping.is_cancelled() {
        // From a bucket that is not ours, nothing is deleted. Prompts need no bucket.
        let files = app.owner().allows_deletion().await;
        let take = retention::store::take(&app.pool, BATCH, app.timing.lease, files);
        let due = match database::with_timeout(take).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "Files that are due could not be looked for");
                break;
            }
        };
        let taken = due.len();
        let deleted = delete(&app, due).await;
        if taken > 0 {
            tracing::info!(
                deleted,
                taken,
                "Deleted {deleted} files and prompts that were due"
            );
        }
        // The bucket may be away: the rest is tried again in a while.
        if deleted < taken || taken < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            break;
        }
    }
    match database::with_timeout(retention::store::overdue(&app.pool)).await {
        Ok((files, seconds)) => {
            telemetry::DELETIONS_DUE.set(files);
            telemetry::DELETIONS_LATE.set(seconds);
        }
        Err(error) => tracing::debug!(%error, "What is due could not be counted"),
    }
}

/// Plans the deletion of uploads whose time is over. Each that was looked at is due no longer, so the search comes to an end.
async fn expire_uploads(app: &App) -> sqlx::Result<()> {
    let mut planned = 0_u64;
    while !app.stopping.is_cancelled() {
        let due = database::with_timeout(upload::store::due(&app.pool, BATCH)).await?;
        let looked_at = due.len();
        for (tenant, id) in due {
            let expired =
                database::with_timeout(uploading::expire(&app.pool, tenant, id, None)).await?;
            planned += u64::from(expired);
        }
        if looked_at < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            break;
        }
    }
    if planned > 0 {
        tracing::info!(
            uploads = planned,
            "{planned} uploads are due: no job has needed them for as long as their tenants said"
        );
    }
    Ok(())
}

/// Deletes what is due; returns how much of it has a receipt now. The bucket is asked whose it is before and after: were it swapped
/// meanwhile, that a file is not there would say nothing.
async fn delete(app: &App, due: Vec<sqlx::Result<Due>>) -> usize {
    let gone = stream::iter(due)
        .map(|due| gone(app, due))
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready);
    let gone: Vec<Due> = gone.collect().await;
    let (prompts, files): (Vec<Due>, Vec<Due>) = gone
        .into_iter()
        .partition(|due| due.class == FileClass::Prompt);
    let mut receipts = prompts.len();
    if files.is_empty() {
        return receipts;
    }
    match app.owner().check_since(Instant::now()).await {
        Ok(Ownership::Ours) => {}
        answer => {
            let says = answer.map(Ownership::problem);
            tracing::warn!(
                files = files.len(),
                ?says,
                "The bucket was swapped while files were deleted: no receipt is written, and they are deleted again"
            );
            return receipts;
        }
    }
    for due in files {
        match database::with_timeout(retention::store::receipt(&app.pool, &due)).await {
            Ok(()) => {
                count(&due);
                receipts += 1;
            }
            Err(error) => not_deleted(&due, &error.into()),
        }
    }
    receipts
}

/// What is gone: a prompt with its receipt, a file without.
async fn gone(app: &App, due: sqlx::Result<Due>) -> Option<Due> {
    let due = match due {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(%error, "A file that is due is left to a worker that knows what it is");
            return None;
        }
    };
    let gone = match due.class {
        FileClass::Prompt => erase(app, &due).await,
        _ => remove(app, &due).await,
    };
    match gone {
        Ok(()) => Some(due),
        Err(error) => {
            not_deleted(&due, &error);
            None
        }
    }
}

fn count(due: &Due) {
    telemetry::DELETIONS
        .with_label_values(&[due.class.as_str()])
        .inc();
}

fn not_deleted(due: &Due, error: &anyhow::Error) {
    tracing::warn!(
        deletion = due.id,
        class = due.class.as_str(),
        error = format!("{error:#}"),
        "What is due was not deleted; it is tried again"
    );
}

/// Removes a file from the bucket, and asks the bucket whether it is gone.
async fn remove(app: &App, due: &Due) -> anyhow::Result<()> {
    let hide = async {
        let mut transaction = database::begin_for(&app.pool, due.tenant).await?;
        retention::store::hide(&mut transaction, due).await?;
        transaction.commit().await
    };
    database::with_timeout(hide).await?;
    let bucket = app.spool.bucket();
    bucket.delete(&due.object_key).await?;
    anyhow::ensure!(
        bucket.measure(&due.object_key).await?.is_none(),
        "the bucket still has it"
    );
    Ok(())
}

/// Removes a prompt from its row.
async fn erase(app: &App, due: &Due) -> anyhow::Result<()> {
    let erase = async {
        let mut transaction = database::begin_for(&app.pool, due.tenant).await?;
        retention::store::erase(&mut transaction, due).await?;
        retention::store::receipt(&mut *transaction, due).await?;
        transaction.commit().await
    };
    database::with_timeout(erase).await?;
    count(due);
    Ok(())
}
