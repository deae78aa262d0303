//! `platen verify`: checks every invariant of the data.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use bucket::Bucket;
use clap::Args;
use common::config::Config;
use common::money::anchor::{self, Depth};
use common::verify::deep::{self, Progress, Report};
use secrecy::SecretString;
use servers::secrets;
use storage::database::DatabaseRole;
use storage::verify;

use crate::arguments::DatabaseArgs;
use crate::database::{folder, open_bucket, with_connection, works_in_folder};
use crate::say;

/// The arguments of `platen verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// Also read every stored file, and search the bucket for files that no row names. May take hours.
    #[arg(long)]
    deep: bool,
    /// If nothing is wrong, write an anchor of the ledger, as workers do every hour.
    #[arg(long)]
    anchor: bool,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

/// A summary of what was checked.
struct CheckSummary {
    /// How much of the bucket was read; `None` without `--deep`.
    deep: Option<Progress>,
    anchors: AnchorComparison,
    /// The name of the anchor that was written; `None` if none was written.
    written: Option<String>,
}

/// The result of the comparison with anchors.
enum AnchorComparison {
    /// This many anchors were compared. Mismatches are reported as findings.
    Compared(usize),
    /// No anchor was compared, for this reason.
    NotCompared(String),
}

/// Checks the invariants, and prints each finding and a summary. The exit code is 1 if there are findings.
///
/// # Errors
///
/// Returns an error if the database or the bucket cannot be reached, or if the output cannot be written.
pub async fn run(config: &Config, args: VerifyArgs) -> anyhow::Result<ExitCode> {
    // How many findings there are, and whether all of them could be printed so far.
    let (mut findings, mut printed) = (0_u64, Ok(()));
    let summary = check(config, &args, |report| match report {
        Report::Finding(finding) => {
            findings += 1;
            // After the first line that could not be written, no further line is printed.
            if printed.is_ok() {
                printed = say!("{}: {}", finding.invariant, finding.text);
            }
        }
        Report::Progress(Progress {
            read,
            bytes,
            listed,
        }) => tracing::info!(
            findings,
            "{read} files read ({} MB), {listed} objects of the bucket looked at, {findings} findings",
            bytes / 1_000_000
        ),
    })
    .await?;
    printed?;
    match &summary.anchors {
        AnchorComparison::Compared(0) => {
            say!("no anchor was compared with the ledger: there is none yet")?;
        }
        AnchorComparison::Compared(anchors) => say!("anchors compared with the ledger: {anchors}")?,
        AnchorComparison::NotCompared(reason) => say!("anchors were NOT compared: {reason}")?,
    }
    if findings > 0 {
        say!("{findings} findings")?;
        return Ok(ExitCode::FAILURE);
    }
    if let Some(name) = summary.written {
        say!("anchored as {name}")?;
    }
    let invariants = verify::INVARIANTS.len();
    match summary.deep {
        None => {
            say!(
                "all is well: {invariants} invariants hold, and what guards the data is in place"
            )?;
        }
        Some(Progress { read, listed, .. }) => say!(
            "all is well: {invariants} invariants hold, what guards the data is in place, {read} files are as they were stored, and each of {listed} objects has its row or is young"
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks the invariants, the guards of the database and the anchors, and with `--deep` also the bucket. Calls `report` with each
/// finding. With `--anchor`, writes an anchor if the checks before it (all but that of the bucket) had no finding.
async fn check(
    config: &Config,
    args: &VerifyArgs,
    mut report: impl FnMut(Report),
) -> anyhow::Result<CheckSummary> {
    let data = args.database.data_folder();
    with_connection(config, data, DatabaseRole::Reader, async |pool| {
        let mut findings = 0_usize;
        common::verify::check(pool, |_invariant, found, _duration| {
            findings += found.len();
            found.into_iter().map(Report::Finding).for_each(&mut report);
        })
        .await?;
        let mut written = None;
        let anchors = match open_anchors(config, data) {
            Ok((bucket, key)) => {
                let compared = anchor::compare(pool, &bucket, &key, Depth::All).await?;
                findings += compared.findings.len();
                let found = compared.findings.into_iter();
                found.map(Report::Finding).for_each(&mut report);
                if args.anchor && findings == 0 {
                    written = anchor::write(pool, &bucket, &key, None).await?;
                }
                AnchorComparison::Compared(compared.anchors)
            }
            Err(error) if args.anchor => return Err(error),
            Err(error) => AnchorComparison::NotCompared(format!("{error:#}")),
        };
        let mut summary = CheckSummary {
            deep: None,
            anchors,
            written,
        };
        if args.deep {
            let (_, bucket) = open_bucket(config, data)?;
            // An object that the sweeper is about to remove is no finding. So objects without a row count only if they are older
            // than two further runs of the sweeper.
            let timing = &config.timing;
            let grace = timing.sweep_grace + timing.sweep_every * 2;
            summary.deep = Some(deep::check(pool, &bucket, grace, &mut report).await?);
        }
        Ok(summary)
    })
    .await
}

/// Opens the bucket with the anchors, and reads the key that signed them.
fn open_anchors(config: &Config, data: Option<&Path>) -> anyhow::Result<(Bucket, SecretString)> {
    let (_, bucket) = open_bucket(config, data)?;
    let key = match &config.signing_key {
        Some(key) => Some(key.clone()),
        // `platen up` keeps its key in its data folder.
        None if works_in_folder(config, data) => {
            secrets::read(&folder(data).join("signing.key"), &[])?.map(SecretString::from)
        }
        None => None,
    };
    let key =
        key.context("PLATEN_SIGNING_KEY is not set, so forged anchors cannot be recognized")?;
    Ok((bucket, key))
}
