//! Writes an anchor of all ledgers into the bucket, after it has compared the newest one. See [`common::anchor`].
//!
//! Where the ledger is not what was anchored, nothing is written until an operator has looked: an anchor of a rewritten ledger would
//! end the alarm.

use std::sync::Arc;

use common::anchor::{self, AnchorError, Depth};
use common::database::{self, DatabaseRole};
use common::telemetry;
use secrecy::ExposeSecret;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    if let Err(error) = compare_and_write(&app).await {
        tracing::warn!(%error, "The ledger could not be anchored; the next turn tries again");
    }
}

async fn compare_and_write(app: &App) -> Result<(), AnchorError> {
    let (bucket, key) = (app.spool.bucket(), &app.signing_key);
    // For a moment only, once an hour: workers see one tenant at a time, and this needs all.
    let reader = database::connect(app.reader_url.expose_secret(), DatabaseRole::Reader, 1).await?;
    let compared = anchor::compare(&reader, bucket, key, Depth::Newest).await?;
    let findings = i64::try_from(compared.findings.len()).unwrap_or(i64::MAX);
    telemetry::LEDGER_REWRITTEN.set(findings);
    for finding in &compared.findings {
        tracing::error!("{}: {}", finding.invariant, finding.says);
    }
    let mut newest = compared.newest;
    if findings == 0
        && let Some(name) =
            anchor::write(&reader, bucket, key, Some(app.timing.anchor_every)).await?
    {
        newest = anchor::store::now(&reader).await.map(Some)?;
        tracing::info!(anchor = name, "Anchored the ledger");
    }
    if let Some(newest) = newest {
        telemetry::ANCHORED.set(newest.unix_timestamp());
    }
    reader.close().await;
    Ok(())
}
