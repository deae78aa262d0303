//! PostgreSQL: pools that act as one role, and transactions that see one tenant. Migrations are in [`migration`], what rows say
//! is read by [`row`].

mod connections;
mod migration;
pub mod row;

use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres, Transaction};

pub use connections::watch;
use domain::id::TenantId;
pub use migration::{
    Login, MigrateError, ROLES, applied, is_migrated, migrate, migrate_with, migrate_within, newest,
};

/// What a process may do; see `migrations/roles.sql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseRole {
    /// The rows of the tenant set in the transaction.
    Api,
    /// Every job; everything else under the job's tenant.
    Worker,
    /// Reads everything, changes nothing.
    Reader,
}

impl DatabaseRole {
    pub const ALL: [Self; 3] = [Self::Api, Self::Worker, Self::Reader];

    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "platen_api",
            Self::Worker => "platen_worker",
            Self::Reader => "platen_reader",
        }
    }
}

/// How long a connection may take to show that it lives.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement or a short transaction may take, the wait for a connection included. The server ends each
/// statement much sooner.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool whose every connection acts as `role`.
pub async fn connect(url: &str, role: DatabaseRole, max_connections: u32) -> sqlx::Result<PgPool> {
    let seconds = if role == DatabaseRole::Reader {
        "300s"
    } else {
        "5s"
    };
    let options = PgConnectOptions::from_str(url)?
        .application_name(&format!("platen {}", role.name()))
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
        .options([
            ("role", role.name()),
            ("statement_timeout", seconds),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
    // Once without the pool: it would ask again until its time is up, and then say no more than that.
    with_timeout(options.connect()).await?.close().await?;
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(10))
        // As the pool would by itself, but not for ever. Whoever was dropped while it waited leaves a connection that
        // may never speak again, and the pool would wait for that one, too.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| Box::pin(is_of_use(connection, meta.age)))
        .after_release(|connection, meta| Box::pin(is_of_use(connection, meta.age)))
        .connect_with(options)
        .await
}

/// Whether a connection of this age may be used further. It must answer, and have no plans of an older schema.
async fn is_of_use(connection: &mut PgConnection, age: Duration) -> sqlx::Result<bool> {
    let changed = *SCHEMA_CHANGED
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if changed.is_some_and(|changed| changed.elapsed() <= age) {
        return Ok(false);
    }
    within(PING_TIMEOUT, connection.ping()).await.map(|()| true)
}

/// When a statement of this process last found that the schema had changed under its plan.
static SCHEMA_CHANGED: Mutex<Option<Instant>> = Mutex::new(None);

/// Whether a statement failed because the schema has changed since it was prepared: a column has another type now. Its connection
/// would refuse it for ever, and others have prepared it, too. So each connection that was made before now is closed
/// instead of used again, and whoever repeats the statement, or its transaction, succeeds on a new one.
pub fn schema_changed(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(said) = error else {
        return false;
    };
    // "cached plan must not change result type"
    let changed = said.code().as_deref() == Some("0A000");
    if changed {
        tracing::warn!(%error, "The schema has changed under a prepared statement: connections are made anew");
        let mut last = SCHEMA_CHANGED
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(Instant::now());
    }
    changed
}

/// An error that may be one of Postgres.
pub trait PostgresError: From<sqlx::Error> {
    fn postgres(&self) -> Option<&sqlx::Error>;
}

impl PostgresError for sqlx::Error {
    fn postgres(&self) -> Option<&sqlx::Error> {
        Some(self)
    }
}

/// Waits for Postgres, but not for ever: a connection may be half open, as after a failover whose old server vanished,
/// and nobody tells. Whether what was asked for has been done is not known then. After a change of the schema it may be asked
/// again at once: see [`schema_changed`].
pub fn with_timeout<T, E: PostgresError>(
    asked: impl Future<Output = Result<T, E>> + Send,
) -> impl Future<Output = Result<T, E>> + Send {
    let answer = within(STATEMENT_TIMEOUT, asked);
    async move {
        answer.await.inspect_err(|error| {
            let _healed_by_whoever_asks_again = error.postgres().is_some_and(schema_changed);
        })
    }
}

fn within<T, E: From<sqlx::Error>>(
    time: Duration,
    asked: impl Future<Output = Result<T, E>> + Send,
) -> impl Future<Output = Result<T, E>> + Send {
    // In a box, or all that wait for Postgres would grow by its size.
    let answer = tokio::time::timeout(time, Box::pin(asked));
    async move {
        answer.await.unwrap_or_else(|_| {
            let says = format!("Postgres did not answer within {} s", time.as_secs());
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, says)).into())
        })
    }
}

/// Begins a transaction that sees and changes this tenant's rows only.
pub async fn begin_for(
    pool: &PgPool,
    tenant: TenantId,
) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "SELECT set_config('platen.tenant', $1, true)",
        tenant.0.to_string()
    )
    .fetch_one(&mut *transaction)
    .await?;
    Ok(transaction)
}

/// Begins a transaction that sees no tenant's rows, but the one API key it was shown.
pub async fn begin_for_key(
    pool: &PgPool,
    key_id: &str,
) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    sqlx::query!("SELECT set_config('platen.key', $1, true)", key_id)
        .fetch_one(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// A write that named a fence or a key touched no row: someone else was there first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the write touched {0} rows instead of one")]
pub struct NotOneRow(pub u64);

/// Each guarded write must touch exactly one row.
pub fn one_row(result: &sqlx::postgres::PgQueryResult) -> Result<(), NotOneRow> {
    match result.rows_affected() {
        1 => Ok(()),
        rows => Err(NotOneRow(rows)),
    }
}
