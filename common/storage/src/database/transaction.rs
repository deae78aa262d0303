//! A transaction on a connection of a pool.
//!
//! sqlx's own transaction rolls back only what has begun. A transaction that failed as it began would
//! go back to the pool with its connection, so each connection would have to be tested by one more
//! statement when it is given back. This one is rolled back by whatever ends it, except a commit.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Executor, PgConnection, PgPool, Postgres, SqlStr};

use super::within;

/// How long a rollback may take. It waits for the statement that was interrupted, which Postgres
/// ends after 5 seconds.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(6);

/// A transaction that is rolled back when it is dropped without [`Self::commit`].
#[derive(Debug)]
pub struct Transaction {
    /// `None` once it has ended.
    connection: Option<PoolConnection<Postgres>>,
}

impl Transaction {
    /// Takes a connection of the pool and begins a transaction on it with these statements.
    ///
    /// # Errors
    /// Returns an error if no connection becomes free within 10 seconds, if a statement fails, or if
    /// they take longer than `timeout`.
    pub(super) async fn begin(
        pool: &PgPool,
        statements: SqlStr,
        timeout: Duration,
    ) -> sqlx::Result<Self> {
        // If a statement fails, or if the caller goes away meanwhile, this value is dropped.
        let mut transaction = Self {
            connection: Some(pool.acquire().await?),
        };
        within(timeout, transaction.execute(statements)).await?;
        Ok(transaction)
    }

    /// Commits. If this fails, nobody knows whether the transaction was committed.
    ///
    /// # Errors
    /// Returns an error if Postgres fails.
    pub async fn commit(mut self) -> sqlx::Result<()> {
        self.execute("COMMIT").await?;
        self.connection = None;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(IS_OPEN)
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(IS_OPEN)
    }
}

/// Why a transaction that can be used has a connection.
const IS_OPEN: &str = "only `commit` and `drop` take the connection, and both end the value";

impl Drop for Transaction {
    #[expect(
        clippy::disallowed_methods,
        reason = "`tokio::spawn`: it ends within seconds, and the pool waits for its connection when it is closed"
    )]
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            tokio::spawn(async move {
                let rollback = connection.execute("ROLLBACK");
                if within(ROLLBACK_TIMEOUT, rollback).await.is_err() {
                    connection.close_on_drop();
                }
            });
        }
    }
}
