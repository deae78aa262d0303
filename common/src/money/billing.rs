//! Totals of all jobs and calls of the service, by model and outcome, for billing, margins and
//! dashboards.
//!
//! Database triggers write the totals (`0012_billing_rollup.sql`). No process counts anything
//! itself, so replicas count nothing twice and restarts lose nothing. In one snapshot, the totals
//! always equal the sums of the rows; `platen verify` checks that (invariant I15).
//! [`storage::billing::fold`] merges the lines that the triggers write into totals. Folding affects
//! only how long a read takes, so it may run anywhere, at any time, or never.

mod exposition;

use sqlx::PgPool;
use storage::billing::{Calls, Jobs, OpenJobs};

pub use exposition::metrics;

/// All totals at one moment.
#[derive(Clone, Debug, Default)]
pub struct Billing {
    /// Jobs that have ended.
    pub jobs: Vec<Jobs>,
    /// Jobs that have not ended.
    pub open: Vec<OpenJobs>,
    /// Calls that have ended.
    pub calls: Vec<Calls>,
}

/// Reads all totals in one snapshot. `pool` must be allowed to read every tenant's rows. The cost
/// of the queries grows with the number of models, of running jobs and of lines that are not folded
/// yet, not with the number of queued or ended jobs.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn read(pool: &PgPool) -> sqlx::Result<Billing> {
    // One snapshot for all three reads: a job that ends in between would not be counted at all.
    let mut snapshot = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let billing = Billing {
        jobs: storage::billing::jobs(&mut snapshot).await?,
        open: storage::billing::open(&mut snapshot).await?,
        calls: storage::billing::calls(&mut snapshot).await?,
    };
    snapshot.commit().await?;
    Ok(billing)
}
