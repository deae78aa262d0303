//! Migrates the schema while other processes use the database.
//!
//! A migration that waits for a lock on a table makes every later statement on that table wait,
//! too. So a migration waits only for a moment, gives up, and is tried again until the lock is
//! free. Each migration is one transaction, so a try that gives up has changed nothing.

use std::str::FromStr;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{MigrateError as SqlxMigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};

use super::DatabaseRole;

/// The SQL that creates the database roles. An administrator runs it if the login of `platen
/// migrate` may not create roles.
pub const ROLES: &str = include_str!("../../../../migrations/roles.sql");

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// How long a migration waits for a lock before it lets other statements pass.
const LOCK_TIMEOUT: &str = "200ms";
/// How often a waiting migration checks which sessions hold the lock.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// First and longest delay between two tries.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long a migration is tried in total.
const LOCK_WAIT_LIMIT: Duration = Duration::from_mins(2);

/// Why the schema could not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A database role does not exist, and this login may not create it.
    #[error(
        "this login may not create Platen's roles: have someone who may run this, then run `platen migrate` again\n\n{ROLES}"
    )]
    RolesMissing(#[source] sqlx::Error),
    /// Other sessions held the locks during all tries.
    #[error(
        "the schema could not be changed within {} s, because other sessions hold locks that this needs: {blockers}. No migration was applied in part. Wait until they have ended, or end them with `SELECT pg_terminate_backend(<process>)`, then run `platen migrate` again", waited.as_secs()
    )]
    Locked {
        /// How long the migration was tried.
        waited: Duration,
        /// The sessions that held the locks, in words.
        blockers: String,
    },
    /// Postgres could not be reached, or refused a statement.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A migration failed.
    #[error(transparent)]
    Migration(#[from] SqlxMigrateError),
}

/// A login that processes connect with.
#[derive(Clone, Debug)]
pub struct Login {
    /// The name of the login.
    pub name: String,
    /// The roles that the login may act as.
    pub roles: Vec<DatabaseRole>,
    /// The password with which the login is created if it is missing. Without a password the login
    /// must exist.
    pub password: Option<SecretString>,
}

/// Creates the roles if they are missing, lets `runtime_login` act as all three runtime roles, and
/// runs the missing migrations. `owner_url` is the URL of the login that migrates.
///
/// # Errors
/// Returns a [`MigrateError`] if the schema cannot be migrated. Waits for locks for up to two
/// minutes.
pub async fn migrate(owner_url: &str, runtime_login: Option<&str>) -> Result<(), MigrateError> {
    migrate_within(owner_url, runtime_login, LOCK_WAIT_LIMIT).await
}

/// Does the same as [`migrate`], for several logins with roles of their own.
///
/// # Errors
/// Returns a [`MigrateError`] if the schema cannot be migrated.
pub async fn migrate_with(owner_url: &str, logins: &[Login]) -> Result<(), MigrateError> {
    migrate_with_logins(owner_url, logins, LOCK_WAIT_LIMIT).await
}

/// Does the same as [`migrate`], but waits for locks for up to `max_wait`.
///
/// # Errors
/// Returns a [`MigrateError`] if the schema cannot be migrated.
pub async fn migrate_within(
    owner_url: &str,
    runtime_login: Option<&str>,
    max_wait: Duration,
) -> Result<(), MigrateError> {
    let logins: Vec<Login> = runtime_login
        .into_iter()
        .map(|name| Login {
            name: name.to_owned(),
            roles: DatabaseRole::ALL.to_vec(),
            password: None,
        })
        .collect();
    migrate_with_logins(owner_url, &logins, max_wait).await
}

async fn migrate_with_logins(
    owner_url: &str,
    logins: &[Login],
    max_wait: Duration,
) -> Result<(), MigrateError> {
    // Statements are not logged, because `CREATE ROLE` contains a password.
    let options = PgConnectOptions::from_str(owner_url)?
        .application_name("platen migrate")
        .disable_statement_logging();
    let began = Instant::now();
    let mut blockers = "no blocking session is visible now".to_owned();
    let mut delays = ExponentialBuilder::default()
        .with_min_delay(RETRY_DELAY.0)
        .with_max_delay(RETRY_DELAY.1)
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        let error = match try_once(&options, logins, &mut blockers).await {
            Err(error) if is_lock_conflict(&error) => error,
            done => return done,
        };
        let waited = began.elapsed();
        if waited >= max_wait {
            return Err(MigrateError::Locked { waited, blockers });
        }
        tracing::info!(%error, "The migration waits for sessions that use the schema ({blockers}) and is tried again");
        tokio::time::sleep(delays.next().unwrap_or(RETRY_DELAY.1)).await;
    }
}

/// Tries the migration once, on a connection of its own. If it sees sessions that hold a lock it
/// waits for, sets `blockers` to their description.
async fn try_once(
    options: &PgConnectOptions,
    logins: &[Login],
    blockers: &mut String,
) -> Result<(), MigrateError> {
    // The observer needs its own connection, because the first one can run no query while it waits.
    let mut observer = options.connect().await?;
    let with_lock_timeout = options.clone().options([("lock_timeout", LOCK_TIMEOUT)]);
    let mut connection = with_lock_timeout.connect().await?;
    let process = sqlx::query_scalar!(r#"SELECT pg_backend_pid() AS "process!""#)
        .fetch_one(&mut connection)
        .await?;
    let result = {
        let mut work = std::pin::pin!(apply(&mut connection, logins));
        loop {
            tokio::select! {
                biased;
                result = &mut work => break result,
                () = tokio::time::sleep(POLL_INTERVAL) => {
                    if let Some(sessions) = blocking_sessions(&mut observer, process).await? {
                        *blockers = sessions;
                    }
                }
            }
        }
    };
    // Closing the connection releases all its locks. sqlx takes an advisory lock for the whole
    // session, and another migrating process would wait for it.
    connection.close().await.ok();
    observer.close().await.ok();
    result
}

/// Creates roles, sets up logins, and runs the missing migrations.
async fn apply(connection: &mut PgConnection, logins: &[Login]) -> Result<(), MigrateError> {
    // `ROLES` fails if the login may not create roles. That does not matter if the roles exist.
    if let Err(error) = connection.execute(ROLES).await
        && !roles_exist(connection).await?
    {
        return Err(MigrateError::RolesMissing(error));
    }
    for login in logins {
        allow_roles(connection, login).await?;
    }
    // `platen_owner` owns the tables, whichever login migrates.
    connection.execute("SET ROLE platen_owner").await?;
    MIGRATIONS.run(&mut *connection).await?;
    // Each process reads this table at its start, to check whether the schema has every migration
    // that the process knows.
    connection
        .execute("GRANT SELECT ON _sqlx_migrations TO platen_api, platen_worker, platen_reader")
        .await?;
    Ok(())
}

/// Whether a try failed only because of a lock: it waited too long (`lock_not_available`), or it and a running process
/// waited for each other (`deadlock_detected`). Nothing was changed then.
fn is_lock_conflict(error: &MigrateError) -> bool {
    let (MigrateError::Database(error)
    | MigrateError::Migration(
        SqlxMigrateError::Execute(error) | SqlxMigrateError::ExecuteMigration(error, _),
    )) = error
    else {
        return false;
    };
    error
        .as_database_error()
        .is_some_and(|error| matches!(error.code().as_deref(), Some("55P03" | "40P01")))
}

/// Describes the sessions that block a session, and the tables that it waits for. `process` is the
/// process id of the waiting session. Returns `None` if no session blocks it.
async fn blocking_sessions(
    observer: &mut PgConnection,
    process: i32,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"-- migration::who_holds_up
        SELECT string_agg(format('%s (process %s, login %s%s)', coalesce(nullif(application_name, ''), 'a client'), pid, usename,
                 ', in a transaction since ' || extract(epoch FROM clock_timestamp() - xact_start)::int || ' s'), ', ' ORDER BY pid)
               || coalesce(' on ' || (SELECT string_agg(relation::regclass::text, ', ') FROM pg_locks WHERE pid = $1 AND NOT granted AND relation IS NOT NULL), '')
        FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))"#,
        process
    )
    .fetch_one(observer)
    .await
}

/// Whether all four database roles exist.
async fn roles_exist(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let exist = sqlx::query_scalar!(
        r#"SELECT count(*) = 4 AS "there!" FROM pg_roles WHERE rolname IN ('platen_owner', 'platen_api', 'platen_worker', 'platen_reader')"#
    );
    exist.fetch_one(connection).await
}

/// Creates a runtime login if it is missing, and lets it act as its roles.
///
/// The login inherits nothing (`NOINHERIT`), so it has no rights before it takes a role. A login
/// without a connection limit gets a limit of at least 4, so that some connections are left for
/// operators, whatever the processes do. A limit that somebody has set stays.
async fn allow_roles(connection: &mut PgConnection, login: &Login) -> sqlx::Result<()> {
    let roles: Vec<String> = login
        .roles
        .iter()
        .map(|role| role.name().to_owned())
        .collect();
    let password = login.password.as_ref().map(SecretString::expose_secret);
    let statements = sqlx::query_scalar!(
        r#"-- migration::allow_roles
        SELECT concat_ws('; ',
            CASE WHEN r.oid IS NULL AND $3::text IS NOT NULL
              THEN format('CREATE ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOINHERIT PASSWORD %L', l.name, $3::text) END,
            format('ALTER ROLE %1$I NOINHERIT; GRANT %2$s TO %1$I', l.name, array_to_string($2::text[], ', ')),
            CASE WHEN coalesce(r.rolconnlimit, -1) = -1 THEN format('ALTER ROLE %I CONNECTION LIMIT %s', l.name, greatest(4, left_for_all * $4::int / 100)) END) AS "sql!"
        FROM (SELECT $1::text AS name,
                current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                  - coalesce(current_setting('reserved_connections', true), '0')::int - $5::int AS left_for_all) l
          LEFT JOIN pg_roles r ON r.rolname = l.name"#,
        login.name,
        &roles,
        password,
        connection_share_percent(&login.roles),
        OPERATOR_CONNECTIONS,
    )
    .fetch_one(&mut *connection)
    .await?;
    // Postgres itself has built this SQL text. `format` quotes names with %I and the password with
    // %L, so the text is safe to run.
    connection.execute(sqlx::AssertSqlSafe(statements)).await?;
    Ok(())
}

/// How many connections the limits of the logins leave to operators, in addition to the connections
/// that Postgres reserves.
const OPERATOR_CONNECTIONS: i32 = 5;

/// The share of all connections that a login may take, in percent. Three logins with one role each
/// may take 100 % together.
fn connection_share_percent(roles: &[DatabaseRole]) -> i32 {
    roles
        .iter()
        .map(|role| match role {
            DatabaseRole::Api | DatabaseRole::Worker => 45,
            DatabaseRole::Reader => 10,
        })
        .sum()
}

/// Whether this database has the newest migration that this program knows, or a newer one.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn is_migrated(pool: &PgPool) -> sqlx::Result<bool> {
    let applied = applied(&mut *pool.acquire().await?).await?;
    Ok(applied.is_some_and(|applied| applied >= newest()))
}

/// The version of the newest migration that this program knows.
pub fn newest() -> i64 {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// The version of the newest migration that this database has; `None` if it has none.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn applied(connection: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    match sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await
    {
        // `undefined_table`: no migration has run in this database yet.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Ok(None),
        applied => applied,
    }
}
