//! Removes objects that no row names: inputs of requests that broke off, renditions of attempts that did not settle,
//! originals that came after their job had ended. Deletes once more what has a receipt and is there all the same, as after a volume
//! was restored. What they are stands in [`common::orphans`]. Nothing is removed unless the bucket is this database's.
//!
//! Each removal stands alone and may be repeated, so any number of sweepers may run, and die, at any time.

use std::sync::Arc;

use common::bucket::Bucket;
use common::orphans::{Batch, Search, SearchError};

use crate::app::App;

/// What one walk through the bucket came to.
#[derive(Default)]
struct Swept {
    objects: usize,
    bytes: u64,
    /// Deleted once more.
    again: usize,
    strange: usize,
    /// One of them, for the log.
    stranger: Option<String>,
}

pub(super) async fn run(app: Arc<App>) {
    // Whoever starts on an old copy of the database gets an hour to see it, before what only newer rows name is removed.
    if app.started.elapsed() < app.timing.sweep_every {
        return;
    }
    let mut swept = Swept::default();
    if let Err(error) = sweep(&app, &mut swept).await {
        tracing::warn!(%error, "The bucket could not be swept to its end; the next turn begins anew");
    }
    let Swept {
        objects,
        bytes,
        again,
        strange,
        stranger,
    } = swept;
    if objects > 0 {
        tracing::info!(
            objects,
            bytes,
            "Removed {objects} objects that no row names"
        );
    }
    if again > 0 {
        tracing::warn!(
            objects = again,
            "Deleted {again} files once more: they have a receipt, and had come back, as with a copy of the bucket"
        );
    }
    if let Some(key) = stranger {
        tracing::warn!(
            objects = strange,
            key,
            "Objects in the bucket are not ours, or are no plain files, and were left alone: `platen verify --deep` lists them"
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
        // The bucket may have been swapped meanwhile.
        && app.owner().allows_deletion().await
    {
        remove(app.spool.bucket(), batch, swept).await?;
    }
    Ok(())
}

async fn remove(bucket: &Bucket, batch: Batch, swept: &mut Swept) -> Result<(), SearchError> {
    for object in batch.unnamed {
        bucket.delete(&object.key).await?;
        swept.objects += 1;
        swept.bytes += object.bytes;
    }
    for object in batch.receipted {
        bucket.delete(&object.key).await?;
        swept.again += 1;
    }
    swept.strange += batch.strange.len() + batch.irregular.len();
    if let Some(object) = batch.strange.into_iter().chain(batch.irregular).next() {
        swept.stranger.get_or_insert(object.key);
    }
    Ok(())
}
