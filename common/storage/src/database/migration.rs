//! Bringing the schema up to date beside processes that serve.
//!
//! A migration that waits for a lock on a table lets everybody wait who comes after it. So it waits for a moment only, gives up,
//! and is tried again, until whoever holds the lock is done: each migration is one transaction, so a try that gives up has
//! changed nothing.

use std::str::FromStr;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{MigrateError as Failed, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};

use super::DatabaseRole;

/// The SQL that makes the roles, for whoever may create roles where `platen migrate` may not.
pub const ROLES: &str = include_str!("../../../../migrations/roles.sql");

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// How long a migration waits for a lock before it lets others pass.
const LOCK_TIMEOUT: &str = "200ms";
/// How often it is looked meanwhile who holds it.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Between two tries, at first and at most.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long it is tried in all.
const LOCK_WAIT_LIMIT: Duration = Duration::from_mins(2);

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "this login may not create Platen's roles: have someone who may run this, then run `platen migrate` again\n\n{ROLES}"
    )]
    RolesMissing(#[source] sqlx::Error),
    #[error(
        "the schema could not be changed within {} s, because others hold locks that this needs: {holders}. Nothing was half done. Wait until they have ended, or end them with `SELECT pg_terminate_backend(<process>)`, then run `platen migrate` again", waited.as_secs()
    )]
    Locked { waited: Duration, holders: String },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Migration(#[from] Failed),
}

/// A login that processes connect with.
#[derive(Clone, Debug)]
pub struct Login {
    pub name: String,
    /// What it may act as.
    pub roles: Vec<DatabaseRole>,
    /// With this password it is made where it is missing; without one it must be there.
    pub password: Option<SecretString>,
}

/// Creates the roles where that is allowed, lets `runtime_login` act as all three runtime roles, and runs what migrations are missing.
pub async fn migrate(owner_url: &str, runtime_login: Option<&str>) -> Result<(), MigrateError> {
    migrate_within(owner_url, runtime_login, LOCK_WAIT_LIMIT).await
}

/// The same for several logins, each with roles of its own.
pub async fn migrate_with(owner_url: &str, logins: &[Login]) -> Result<(), MigrateError> {
    migrate_logins(owner_url, logins, LOCK_WAIT_LIMIT).await
}

/// The same; after `patience` it gives up waiting for locks, and says who holds them.
pub async fn migrate_within(
    owner_url: &str,
    runtime_login: Option<&str>,
    patience: Duration,
) -> Result<(), MigrateError> {
    let logins: Vec<Login> = runtime_login
        .into_iter()
        .map(|name| Login {
            name: name.to_owned(),
            roles: DatabaseRole::ALL.to_vec(),
            password: None,
        })
        .collect();
    migrate_logins(owner_url, &logins, patience).await
}

async fn migrate_logins(
    owner_url: &str,
    logins: &[Login],
    patience: Duration,
) -> Result<(), MigrateError> {
    // A statement may have a password in it.
    let options = PgConnectOptions::from_str(owner_url)?
        .application_name("platen migrate")
        .disable_statement_logging();
    let began = Instant::now();
    let mut holders = "nobody that is seen now".to_owned();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(RETRY_DELAY.0)
        .with_max_delay(RETRY_DELAY.1)
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        let error = match try_once(&options, logins, &mut holders).await {
            Err(error) if is_locked_out(&error) => error,
            done => return done,
        };
        let waited = began.elapsed();
        if waited >= patience {
            return Err(MigrateError::Locked { waited, holders });
        }
        tracing::info!(%error, "The schema is in use by {holders}; it is changed later");
        tokio::time::sleep(pauses.next().unwrap_or(RETRY_DELAY.1)).await;
    }
}

/// One try on a connection of its own. `holders` becomes who was seen to hold a lock that it waited for.
async fn try_once(
    options: &PgConnectOptions,
    logins: &[Login],
    holders: &mut String,
) -> Result<(), MigrateError> {
    let mut watch = options.connect().await?;
    let hurried = options.clone().options([("lock_timeout", LOCK_TIMEOUT)]);
    let mut connection = hurried.connect().await?;
    let process = sqlx::query_scalar!(r#"SELECT pg_backend_pid() AS "process!""#)
        .fetch_one(&mut connection)
        .await?;
    let done = {
        let mut work = std::pin::pin!(apply(&mut connection, logins));
        loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = tokio::time::sleep(POLL_INTERVAL) => {
                    if let Some(seen) = blocking_sessions(&mut watch, process).await? {
                        *holders = seen;
                    }
                }
            }
        }
    };
    // With its connection a try lets go of all it holds, such as the lock of all migrations.
    connection.close().await.ok();
    watch.close().await.ok();
    done
}

async fn apply(connection: &mut PgConnection, logins: &[Login]) -> Result<(), MigrateError> {
    if let Err(error) = connection.execute(ROLES).await
        && !roles_exist(connection).await?
    {
        return Err(MigrateError::RolesMissing(error));
    }
    for login in logins {
        allow_roles(connection, login).await?;
    }
    connection.execute("SET ROLE platen_owner").await?;
    MIGRATIONS.run(&mut *connection).await?;
    // Every role asks whether the schema is the one it knows.
    connection
        .execute("GRANT SELECT ON _sqlx_migrations TO platen_api, platen_worker, platen_reader")
        .await?;
    Ok(())
}

/// Whether it only waited for too long.
fn is_locked_out(error: &MigrateError) -> bool {
    let (MigrateError::Database(error)
    | MigrateError::Migration(Failed::Execute(error) | Failed::ExecuteMigration(error, _))) = error
    else {
        return false;
    };
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

/// What this process waits for, and whom, in words; `None` where it waits for nobody.
async fn blocking_sessions(watch: &mut PgConnection, process: i32) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"-- migration::who_holds_up
        SELECT string_agg(format('%s (process %s, login %s%s)', coalesce(nullif(application_name, ''), 'a client'), pid, usename,
                 ', in a transaction since ' || extract(epoch FROM clock_timestamp() - xact_start)::int || ' s'), ', ' ORDER BY pid)
               || coalesce(' on ' || (SELECT string_agg(relation::regclass::text, ', ') FROM pg_locks WHERE pid = $1 AND NOT granted AND relation IS NOT NULL), '')
        FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))"#,
        process
    )
    .fetch_one(watch)
    .await
}

async fn roles_exist(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let there = sqlx::query_scalar!(
        r#"SELECT count(*) = 4 AS "there!" FROM pg_roles WHERE rolname IN ('platen_owner', 'platen_api', 'platen_worker', 'platen_reader')"#
    );
    there.fetch_one(connection).await
}

/// A runtime login may become its roles, but has no rights before it does. A login without a limit of connections gets one, so that a
/// few are left for operators whatever the processes do; a number that somebody set stays.
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
        share(&login.roles),
        FOR_OPERATORS,
    )
    .fetch_one(&mut *connection)
    .await?;
    connection.execute(sqlx::AssertSqlSafe(statements)).await?;
    Ok(())
}

/// Connections that the limits of the logins leave to operators, beside those Postgres itself reserves.
const FOR_OPERATORS: i32 = 5;

/// How much of all connections a login may take, in percent: three logins with a role each take no more than all together.
fn share(roles: &[DatabaseRole]) -> i32 {
    roles
        .iter()
        .map(|role| match role {
            DatabaseRole::Api | DatabaseRole::Worker => 45,
            DatabaseRole::Reader => 10,
        })
        .sum()
}

/// Whether this database has every migration this program knows.
pub async fn is_migrated(pool: &PgPool) -> sqlx::Result<bool> {
    let applied = applied(&mut *pool.acquire().await?).await?;
    Ok(applied.is_some_and(|applied| applied >= newest()))
}

/// Version of the newest migration this program knows.
pub fn newest() -> i64 {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// Version of the newest migration this database has; `None` where it has none.
pub async fn applied(connection: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    match sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await
    {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Ok(None),
        applied => applied,
    }
}
