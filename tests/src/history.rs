//! A database with very many jobs, written by SQL instead of admitted and worked on one after the other.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

/// How many jobs of each kind there are. Those that have ended are the oldest, those that are queued the newest. The books
/// are kept, so `platen verify` finds nothing, and a worker can work on those that are queued. The files of those that have
/// ended do not exist.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Tenants, at least two. One of them has a quarter of the jobs. Each has a million credits left.
    pub tenants: u32,
    /// Jobs that have ended, with calls, artifacts and transfers.
    pub ended: u32,
    /// Jobs whose worker has leases for another hour, and has called nobody yet.
    pub running: u32,
    /// Jobs that are queued and due.
    pub queued: u32,
}

impl History {
    /// Fills a migrated database that has no jobs, as the superuser.
    ///
    /// # Panics
    ///
    /// Postgres fails.
    pub async fn fill(&self, owner_url: &str) {
        let options = owner_url.parse::<PgConnectOptions>().unwrap();
        // One connection, because the SQL creates temporary tables and functions.
        let mut owner = options.disable_statement_logging().connect().await.unwrap();
        let Self {
            tenants,
            ended,
            running,
            queued,
        } = self;
        let settings = format!(
            "SET history.tenants = {tenants}; SET history.ended = {ended}; SET history.running = {running}; SET history.queued = {queued}"
        );
        owner.execute(AssertSqlSafe(settings)).await.unwrap();
        sqlx::raw_sql(include_str!("history.sql"))
            .execute(&mut owner)
            .await
            .unwrap();
        // A server that got so many rows over time would have done this by itself.
        owner.execute("VACUUM (ANALYZE)").await.unwrap();
        owner.execute("CHECKPOINT").await.unwrap();
        owner.close().await.unwrap();
    }
}
