//! What all jobs and calls of the service came to, by model and outcome: for billing, margins and dashboards.
//!
//! It is read from a roll-up that triggers keep (`0012_billing_rollup.sql`), never counted in a process: replicas count
//! nothing twice and restarts forget nothing. What is read in one snapshot equals the rows it sums up, at every moment;
//! `platen verify` compares them (I15). [`store::fold`] keeps it short and may run anywhere, at any time, or not at all.

pub mod store;

use sqlx::PgPool;

/// Everything, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Billing {
    pub jobs: Vec<Jobs>,
    pub open: Vec<OpenJobs>,
    pub calls: Vec<Calls>,
}

/// Reads everything in one snapshot, as a reader. What that takes depends on the number of models and of lines that are not
/// folded yet, not on the number of jobs.
pub async fn read(pool: &PgPool) -> sqlx::Result<Billing> {
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

/// Jobs of one model that ended alike, and their credits.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub model: String,
    pub state: String,
    pub outcome: String,
    pub count: i64,
    pub captured: i64,
    pub released: i64,
    pub refunded: i64,
}

/// Jobs of one model that have not ended.
#[derive(Clone, Debug)]
pub struct OpenJobs {
    pub model: String,
    pub queued: i64,
    pub running: i64,
    /// Credits held for them.
    pub held: i64,
    /// Since when the oldest has been due or worked on.
    pub oldest_seconds: f64,
    /// Since when the oldest that is due waits for a worker.
    pub queued_seconds: f64,
}

/// Calls that ended alike, and what they cost us, in millionths of a US dollar; of `unknown`, what they may have cost.
#[derive(Clone, Debug)]
pub struct Calls {
    pub provider: String,
    pub model: String,
    pub outcome: String,
    pub count: i64,
    pub cost_micros: i64,
}
