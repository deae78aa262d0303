//! Deletes objects that no row names: inputs of requests that broke off, renditions of attempts
//! that did not settle, originals that were stored after their job had ended. Deletes again what
//! has a receipt and exists all the same, as after a restored volume. [`common::files::orphans`] defines
//! both. Nothing is deleted unless the bucket belongs to this database.
//!
//! Each deletion is independent and may be repeated, so any number of sweepers may run, and die, at
//! any time.

use std::sync::Arc;

use bucket::Bucket;
use common::files::orphans::{Batch, Search, SearchError};

use crate::app::App;

/// What one walk through the bucket did.
#[derive(Default)]
struct Swept {
    objects: usize,
    bytes: u64,
    /// Files with a receipt that were deleted again.
    deleted_again: usize,
    /// Objects under keys that are not ours, which are left alone.
    foreign: usize,
    /// The key of one of them, for the log.
    foreign_key: Option<String>,
}

pub(super) async fn run(app: Arc<App>) {
    // An operator who starts a worker on an old copy of the database gets an hour to notice it.
    // Objects that only newer rows name would look unnamed and be deleted.
    if app.started.elapsed() < app.timing.sweep_every {
        return;
    }
    let mut swept = Swept::default();
    if let Err(error) = sweep(&app, &mut swept).await {
        tracing::warn!(%error, "The bucket could not be swept completely; the next run starts anew");
    }
    let Swept {
        objects,
        bytes,
        deleted_again,
        foreign,
        foreign_key,
    } = swept;
    if objects > 0 {
        tracing::info!(
            objects,
            bytes,
            "Deleted {objects} objects that no row names"
        );
    }
    if deleted_again > 0 {
        tracing::warn!(
            objects = deleted_again,
            "Deleted {deleted_again} files again: they had a receipt and were back, as after a restored copy of the bucket"
        );
    }
    if let Some(key) = foreign_key {
        tracing::warn!(
            objects = foreign,
            key,
            "Objects in the bucket are not ours or are no plain files, and were left alone; `platen verify --deep` lists them"
        );
    }
}

async fn sweep(app: &App, swept: &mut Swept) -> Result<(), SearchError> {
    if !app.owner().allows_deletion().await {
        return Ok(());
    }
    let mut search = Search::begin(&app.pool, app.spool.bucket(), app.timing.sweep_grace).await?;
    while !app.stopping.is_cancelled()
        && let Some(batch) = search.next().await?
        // Checked before each batch, because the bucket may be swapped at any time.
        && app.owner().allows_deletion().await
    {
        delete(app.spool.bucket(), batch, swept).await?;
    }
    Ok(())
}

async fn delete(bucket: &Bucket, batch: Batch, swept: &mut Swept) -> Result<(), SearchError> {
    for object in batch.unnamed {
        bucket.delete(&object.key).await?;
        swept.objects += 1;
        swept.bytes += object.bytes;
    }
    for object in batch.receipted {
        bucket.delete(&object.key).await?;
        swept.deleted_again += 1;
    }
    swept.foreign += batch.strange.len() + batch.irregular.len();
    if let Some(object) = batch.strange.into_iter().chain(batch.irregular).next() {
        swept.foreign_key.get_or_insert(object.key);
    }
    Ok(())
}
