//! Compares the newest anchor with the ledgers of all tenants, then writes the next anchor into the
//! bucket. See [`common::money::anchor`].
//!
//! While the ledger differs from the newest anchor, no new anchor is written. A new anchor would
//! match the rewritten ledger, and so end the alarm before an operator has looked at the
//! difference.

use std::sync::Arc;

use common::money::anchor::{self, AnchorError, Depth};
use secrecy::ExposeSecret;
use storage::database::{self, DatabaseRole};

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if let Err(error) = compare_and_write(&app).await {
        tracing::warn!(%error, "The ledger could not be anchored; the next run tries again");
    }
}

/// Compares the newest anchor with the ledger, writes the next anchor if they agree, and sets the
/// metrics.
async fn compare_and_write(app: &App) -> Result<(), AnchorError> {
    let (bucket, key) = (app.spool.bucket(), &app.signing_key);
    // The worker's role sees one tenant at a time, but the comparison needs all tenants. The
    // connection is open only during this run, once an hour.
    let reader = database::connect(app.reader_url.expose_secret(), DatabaseRole::Reader, 1).await?;
    let compared = anchor::compare(&reader, bucket, key, Depth::Newest).await?;
    let findings = i64::try_from(compared.findings.len()).unwrap_or(i64::MAX);
    telemetry::LEDGER_REWRITTEN.set(findings);
    for finding in &compared.findings {
        tracing::error!("{}: {}", finding.invariant, finding.text);
    }
    let mut newest = compared.newest;
    if findings == 0
        && let Some(name) =
            anchor::write(&reader, bucket, key, Some(app.timing.anchor_every)).await?
    {
        // The anchor that was just written is the newest.
        newest = storage::anchors::now(&reader).await.map(Some)?;
        tracing::info!(anchor = name, "Wrote an anchor of the ledger");
    }
    if let Some(newest) = newest {
        telemetry::ANCHORED.set(newest.unix_timestamp());
    }
    reader.close().await;
    Ok(())
}
