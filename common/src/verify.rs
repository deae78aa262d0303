//! `platen verify`: the invariants about data, as queries that return no rows when all is well.
//!
//! The numbers (I1, I2 and so on) are the numbers of the invariants in `docs/invariants.md`. All
//! queries run in one read-only snapshot and block no other transaction. Each row they return is
//! one finding in words. [`deep`] checks whether the bucket contains exactly the files that rows
//! name. `storage::verify::guards` checks what protects the rows.

pub mod deep;

use std::time::{Duration, Instant};

use sqlx::{Executor, PgPool};
use storage::verify::SETTINGS;
use storage::verify::guards::Comparison;
use storage::verify::{Finding, INVARIANTS, Invariant, guards};

/// Checks all invariants and the guards, in one snapshot. `pool` must act as `platen_reader`.
///
/// # Errors
/// Returns an error if Postgres fails. A violation is a finding, not an error.
pub async fn verify(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    check(pool, |_, found, _| findings.extend(found)).await?;
    Ok(findings)
}

/// Does the same as [`verify`]. Calls `report` after each invariant, with its findings and how long
/// its check took.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn check(
    pool: &PgPool,
    mut report: impl FnMut(&Invariant, Vec<Finding>, Duration),
) -> sqlx::Result<()> {
    let mut snapshot = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    snapshot.execute(SETTINGS).await?;
    for invariant in INVARIANTS {
        let started = Instant::now();
        let rows: Vec<String> = sqlx::query_scalar(invariant.query)
            .fetch_all(&mut *snapshot)
            .await?;
        let found = rows.into_iter().map(|text| Finding {
            invariant: invariant.number,
            text,
        });
        report(invariant, found.collect(), started.elapsed());
    }
    let started = Instant::now();
    match guards::check(&mut snapshot).await? {
        Comparison::Findings(found) => report(&guards::INVARIANT, found, started.elapsed()),
        Comparison::Newer { database, program } => tracing::warn!(
            "The guards were NOT compared: the database has migration {database}, this program knows {program}. Run `platen verify` of the newer version"
        ),
    }
    snapshot.commit().await
}
