//! Totals of all jobs and calls of the service, by model and outcome, for billing, margins and
//! dashboards.
//!
//! Database triggers write the totals (`0012_billing_rollup.sql`). No process counts anything
//! itself, so replicas count nothing twice and restarts lose nothing. In one snapshot, the totals
//! always equal the rows they sum up; `platen verify` checks that (I15). [`store::fold`] merges the
//! lines that the triggers write into totals. It affects only how long a read takes, so it may run
//! anywhere, at any time, or never.

pub mod store;

use sqlx::PgPool;

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

/// Reads all totals in one snapshot. `pool` must be allowed to read every tenant's rows. The work
/// grows with the number of models and of lines that are not folded yet, not with the number of
/// jobs.
///
/// # Errors
/// Postgres fails.
pub async fn read(pool: &PgPool) -> sqlx::Result<Billing> {
    // One snapshot for all three reads: a job that ends in between would be counted twice or not at
    // all.
    let mut snapshot = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let billing = Billing {
        jobs: store::jobs(&mut snapshot).await?,
        open: store::open(&mut snapshot).await?,
        calls: store::calls(&mut snapshot).await?,
    };
    snapshot.commit().await?;
    Ok(billing)
}

/// Ended jobs with the same model, state and outcome, and their credits.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Catalogue id of the model.
    pub model: String,
    /// Final state.
    pub state: String,
    /// Class of the outcome.
    pub outcome: String,
    /// Number of jobs.
    pub count: i64,
    /// Credits charged.
    pub captured: i64,
    /// Credits of the holds that were given back.
    pub released: i64,
    /// Credits returned after a capture.
    pub refunded: i64,
}

/// Jobs of one model that have not ended.
#[derive(Clone, Debug)]
pub struct OpenJobs {
    /// Catalogue id of the model.
    pub model: String,
    /// Jobs that wait for a worker.
    pub queued: i64,
    /// Jobs that a worker holds.
    pub running: i64,
    /// Credits held for all of them.
    pub held: i64,
    /// Age of the oldest: seconds since it was first started, or else since it was due.
    pub oldest_seconds: f64,
    /// Seconds since the oldest queued job that is due could have run.
    pub queued_seconds: f64,
}

/// Ended calls with the same provider, model and outcome.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Name of the provider.
    pub provider: String,
    /// Catalogue id of the model.
    pub model: String,
    /// Class of the outcome.
    pub outcome: String,
    /// Number of calls.
    pub count: i64,
    /// What they cost us, in millionths of a US dollar. For `unknown`: what they may have cost.
    pub cost_micros: i64,
}
