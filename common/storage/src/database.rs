//! PostgreSQL: pools that act as one database role, and transactions that see one tenant.
//!
//! Migrations are in `migration`. [`row`] turns values of rows into values of the program.

mod begin;
mod connections;
mod migration;
pub mod row;
mod transaction;

use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

pub use begin::{begin, begin_for, begin_for_key, begin_with_wallet};
pub use connections::report_connections;
pub use migration::{
    Login, MigrateError, ROLES, applied, is_migrated, migrate, migrate_with, migrate_within, newest,
};
pub use transaction::Transaction;

/// A database role, which decides what a connection may read and change. `migrations/roles.sql`
/// creates the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(prefix = "platen_", serialize_all = "snake_case")]
pub enum DatabaseRole {
    /// `platen_api`: the rows of the tenant that is set in the transaction, and operators' records.
    Api,
    /// `platen_worker`: the rows of all tenants in a few tables, such as jobs and due deletions. In
    /// other tables, the rows of the tenant that is set in the transaction.
    Worker,
    /// `platen_reader`: reads the rows of all tenants, and changes none.
    Reader,
}

impl DatabaseRole {
    /// All roles that processes act as.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The name of the role in Postgres.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How long after its last use a connection is used again without a test. It may be broken all the
/// same: every caller handles a connection that breaks, because that may happen at any time.
const TRUST_DURATION: Duration = Duration::from_secs(1);
/// Settings for statements that read few rows, by an index. Postgres keeps a plan while its table
/// grows. Without these settings, a plan that was made while the table fitted into one page could
/// read the whole table, and would soon be slow.
const SHORT_STATEMENTS: [(&str, &str); 3] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];
/// How long a connection may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement or a short transaction may take, including the wait for a connection. The
/// server ends each statement much sooner (`statement_timeout`). This timeout is for servers that
/// do not answer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a pool whose connections all act as `role`.
///
/// Postgres ends a statement after 5 seconds (300 seconds for a reader), a wait for a lock after 2
/// seconds, and an idle transaction after 10 seconds.
///
/// # Errors
/// Returns an error if the URL is not valid, if the server cannot be reached within 10 seconds, or
/// if the login may not act as this role.
pub async fn connect(url: &str, role: DatabaseRole, max_connections: u32) -> sqlx::Result<PgPool> {
    // A reader reads whole tables, for example in `platen verify`.
    let statement_timeout = if role == DatabaseRole::Reader {
        "300s"
    } else {
        "5s"
    };
    let mut options = PgConnectOptions::from_str(url)?
        .application_name(&format!("platen {}", role.name()))
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
        .options([
            ("role", role.name()),
            ("statement_timeout", statement_timeout),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
    if role != DatabaseRole::Reader {
        options = options.options(SHORT_STATEMENTS);
    }
    if role == DatabaseRole::Worker {
        // Making a plan for each execution would cost more than most statements do. Without this
        // setting the planner would do so for statements with arrays, because it guesses that the
        // arrays are longer than they are.
        options = options.options([("plan_cache_mode", "force_generic_plan")]);
    }
    // The first connection is opened without the pool, to get its error. The pool would retry until
    // its timeout and then report only the timeout.
    with_timeout(options.connect()).await?.close().await?;
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(10))
        // The pool's own test has no timeout. After a failover a connection may be broken without
        // being closed and never answer, and the pool would wait for it forever. So the same test
        // is made here, with a timeout.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                let used_lately =
                    meta.idle_for < TRUST_DURATION && !begin::connections_are_suspect();
                Ok(is_current(meta.age) && (used_lately || answers(connection).await?))
            })
        })
        .after_release(|_, meta| Box::pin(async move { Ok(is_current(meta.age)) }))
        .connect_with(options)
        .await
}

/// Whether a connection of this age holds no plans of an older schema.
fn is_current(age: Duration) -> bool {
    let changed = *SCHEMA_CHANGED_AT
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    changed.is_none_or(|changed| changed.elapsed() > age)
}

/// Whether a connection answers.
async fn answers(connection: &mut PgConnection) -> sqlx::Result<bool> {
    within(PING_TIMEOUT, connection.ping()).await.map(|()| true)
}

/// When a statement of this process last found that the schema had changed since it was prepared.
static SCHEMA_CHANGED_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Makes the pools close every connection that exists now, if a statement failed because the schema
/// has changed since it was prepared, such as a column that has another type now. Returns whether
/// that was the reason.
///
/// The connection would refuse this statement forever, and other connections may have prepared it,
/// too. A caller that repeats the statement, or its transaction, succeeds on a new connection.
pub fn renew_connections_if_schema_changed(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database_error) = error else {
        return false;
    };
    // `feature_not_supported`: "cached plan must not change result type".
    let changed = database_error.code().as_deref() == Some("0A000");
    if changed {
        tracing::warn!(%error, "The schema has changed since a statement was prepared: all connections are renewed");
        let mut last = SCHEMA_CHANGED_AT
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(Instant::now());
    }
    changed
}

/// Whether the database caused the failure and a later try may succeed: a lost connection, a lock,
/// a restart. Any other failure is a mistake in our code, or in what it was given.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        // Classes of SQLSTATE codes (PostgreSQL manual, appendix A): connection exception, invalid
        // transaction state, transaction rollback, insufficient resources, object not in
        // prerequisite state, operator intervention, system error.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "25", "40", "53", "55", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// An error that may contain an error of Postgres.
pub trait PostgresError: From<sqlx::Error> {
    /// The error of Postgres; `None` if this is another error.
    fn postgres(&self) -> Option<&sqlx::Error>;
}

impl PostgresError for sqlx::Error {
    fn postgres(&self) -> Option<&sqlx::Error> {
        Some(self)
    }
}

/// Waits for work on Postgres, at most 10 seconds.
///
/// A connection may be broken without being closed, for example after a failover whose old server
/// vanished. Then no answer ever comes. After the timeout it is not known whether the work was
/// done. After a change of the schema the caller may repeat the work at once (see
/// [`renew_connections_if_schema_changed`]).
///
/// # Errors
/// Returns the error of the work, or [`io::ErrorKind::TimedOut`] if the work takes too long.
pub fn with_timeout<T, E: PostgresError>(
    work: impl Future<Output = Result<T, E>> + Send,
) -> impl Future<Output = Result<T, E>> + Send {
    let result = within(STATEMENT_TIMEOUT, work);
    async move {
        result.await.inspect_err(|error| {
            // The caller gets the error in any case.
            let _renewed = error
                .postgres()
                .is_some_and(renew_connections_if_schema_changed);
        })
    }
}

/// Waits for `work` for at most `time`. After that, returns [`io::ErrorKind::TimedOut`].
fn within<T, E: From<sqlx::Error>>(
    time: Duration,
    work: impl Future<Output = Result<T, E>> + Send,
) -> impl Future<Output = Result<T, E>> + Send {
    // The work is boxed, because otherwise every future that waits for Postgres would grow by its
    // size.
    let result = tokio::time::timeout(time, Box::pin(work));
    async move {
        result.await.unwrap_or_else(|_| {
            let text = format!("Postgres did not answer within {} s", time.as_secs());
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)).into())
        })
    }
}

/// What a guarded write did: one that names a fence or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum GuardedWrite {
    /// It changed its row.
    Changed,
    /// It changed this number of rows instead of one. 0: another process was faster.
    UnexpectedRowCount(u64),
}

impl GuardedWrite {
    /// Whether it changed its row.
    pub fn has_changed(self) -> bool {
        self == Self::Changed
    }

    /// For a write that must change its row.
    ///
    /// # Errors
    /// It did not.
    pub fn required(self) -> Result<(), UnexpectedRowCount> {
        match self {
            Self::Changed => Ok(()),
            Self::UnexpectedRowCount(rows) => Err(UnexpectedRowCount(rows)),
        }
    }
}

/// A guarded write that must change its row changed this number of rows instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the write touched {0} rows instead of one")]
pub struct UnexpectedRowCount(pub u64);

/// What a guarded write did, from the number of rows that its statement changed.
pub fn one_row(result: &sqlx::postgres::PgQueryResult) -> GuardedWrite {
    match result.rows_affected() {
        1 => GuardedWrite::Changed,
        rows => GuardedWrite::UnexpectedRowCount(rows),
    }
}
