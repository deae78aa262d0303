//! PostgreSQL: pools that act as one role, transactions that see one tenant, and migrations.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres, Transaction};

use crate::id::TenantId;

/// What a process may do; see `migrations/roles.sql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The rows of the tenant set in the transaction.
    Api,
    /// Every job; everything else under the job's tenant.
    Worker,
    /// Reads everything, changes nothing.
    Reader,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "platen_api",
            Self::Worker => "platen_worker",
            Self::Reader => "platen_reader",
        }
    }
}

/// The SQL that makes the roles, for whoever may create roles where `platen migrate` may not.
pub const ROLES: &str = include_str!("../../migrations/roles.sql");

/// How long a connection may take to show that it lives.
const PULSE: Duration = Duration::from_secs(2);
/// How long a statement or a short transaction may take, the wait for a connection included. The server ends each
/// statement much sooner.
const ANSWER: Duration = Duration::from_secs(10);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// A pool whose every connection acts as `role`.
pub async fn connect(url: &str, role: Role, max_connections: u32) -> sqlx::Result<PgPool> {
    let seconds = if role == Role::Reader { "300s" } else { "5s" };
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
    answered(options.connect()).await?.close().await?;
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(10))
        // As the pool would by itself, but not for ever. Whoever was dropped while it waited leaves a connection that
        // may never speak again, and the pool would wait for that one, too.
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(lives(connection)))
        .after_release(|connection, _| Box::pin(lives(connection)))
        .connect_with(options)
        .await
}

async fn lives(connection: &mut PgConnection) -> sqlx::Result<bool> {
    within(PULSE, connection.ping()).await.map(|()| true)
}

/// Waits for Postgres, but not for ever: a connection may be half open, as after a failover whose old server vanished,
/// and nobody tells. Whether what was asked for has been done is not known then.
pub fn answered<T, E: From<sqlx::Error>>(
    asked: impl Future<Output = Result<T, E>> + Send,
) -> impl Future<Output = Result<T, E>> + Send {
    within(ANSWER, asked)
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
pub async fn begin_showing(
    pool: &PgPool,
    key_id: &str,
) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    sqlx::query!("SELECT set_config('platen.key', $1, true)", key_id)
        .fetch_one(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "this login may not create Platen's roles: have someone who may run this, then run `platen migrate` again\n\n{ROLES}"
    )]
    RolesMissing(#[source] sqlx::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// Creates the roles where that is allowed, lets `runtime_login` act as them, and runs what migrations are missing.
pub async fn migrate(owner_url: &str, runtime_login: Option<&str>) -> Result<(), MigrateError> {
    let mut connection = PgConnectOptions::from_str(owner_url)?
        .application_name("platen migrate")
        .connect()
        .await?;
    if let Err(error) = connection.execute(ROLES).await
        && !roles_exist(&mut connection).await?
    {
        return Err(MigrateError::RolesMissing(error));
    }
    if let Some(login) = runtime_login {
        allow_roles(&mut connection, login).await?;
    }
    connection.execute("SET ROLE platen_owner").await?;
    MIGRATIONS.run(&mut connection).await?;
    // Every role asks whether the schema is the one it knows.
    connection
        .execute("GRANT SELECT ON _sqlx_migrations TO platen_api, platen_worker, platen_reader")
        .await?;
    connection.close().await?;
    Ok(())
}

async fn roles_exist(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let there = sqlx::query_scalar!(
        r#"SELECT count(*) = 4 AS "there!" FROM pg_roles WHERE rolname IN ('platen_owner', 'platen_api', 'platen_worker', 'platen_reader')"#
    );
    there.fetch_one(connection).await
}

/// A runtime login may become the three runtime roles, but has no rights before it does.
async fn allow_roles(connection: &mut PgConnection, login: &str) -> sqlx::Result<()> {
    let statement = sqlx::query_scalar!(
        r#"SELECT format('ALTER ROLE %1$I NOINHERIT; GRANT platen_api, platen_worker, platen_reader TO %1$I', $1::text) AS "sql!""#,
        login
    )
    .fetch_one(&mut *connection)
    .await?;
    connection.execute(sqlx::AssertSqlSafe(statement)).await?;
    Ok(())
}

/// Whether this database has every migration this program knows.
pub async fn is_migrated(pool: &PgPool) -> sqlx::Result<bool> {
    let newest = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    let applied: Option<i64> =
        match sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(pool)
            .await
        {
            Ok(applied) => applied,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => None,
            Err(error) => return Err(error),
        };
    Ok(applied.is_some_and(|applied| applied >= newest))
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
