//! Whether the data is as it must be: runs the queries of `storage::verify` over one snapshot. [`deep`] compares it with the bucket.

pub mod deep;

use std::time::{Duration, Instant};

use sqlx::{Executor, PgPool};
use storage::verify::FOR_WHOLE_TABLES;
use storage::verify::guards::Compared;
pub use storage::verify::{Finding, INVARIANTS, Invariant, guards}; // the paths of before

/// Runs every query over one snapshot, and compares the guards.
pub async fn verify(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    check(pool, |_, found, _| findings.extend(found)).await?;
    Ok(findings)
}

/// As [`verify`], and tells of each invariant as soon as it was looked at, and how long that took.
pub async fn check(
    pool: &PgPool,
    mut tell: impl FnMut(&Invariant, Vec<Finding>, Duration),
) -> sqlx::Result<()> {
    let mut snapshot = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    snapshot.execute(FOR_WHOLE_TABLES).await?;
    for invariant in INVARIANTS {
        let started = Instant::now();
        let rows: Vec<String> = sqlx::query_scalar(invariant.query)
            .fetch_all(&mut *snapshot)
            .await?;
        let found = rows.into_iter().map(|says| Finding {
            invariant: invariant.number,
            says,
        });
        tell(invariant, found.collect(), started.elapsed());
    }
    let started = Instant::now();
    match guards::check(&mut snapshot).await? {
        Compared::Findings(found) => tell(&guards::INVARIANT, found, started.elapsed()),
        Compared::Newer { database, program } => tracing::warn!(
            "The guards were NOT compared: the database has migration {database}, this program knows {program}. Run `platen verify` of the newer version"
        ),
    }
    snapshot.commit().await
}
