//! Begins transactions, each in one round trip to Postgres.
//!
//! One text with several statements begins a transaction. Postgres executes the statements one
//! after the other, and each sees what was committed before that statement began. The only values
//! in the texts are UUIDs and the public parts of API keys, so nothing needs to be quoted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgPool, SqlSafeStr};

use super::transaction::Transaction;
use domain::id::TenantId;

/// How long Postgres may take to begin a transaction. It ends a wait for a lock sooner.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(4);
/// After a connection was found to be broken, for how long connections are tested before each use.
const DISTRUST_DURATION: Duration = Duration::from_secs(10);

/// When a connection was last found to be broken.
static BROKEN_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Whether a connection of this process was found to be broken lately. Others may be, too.
pub(super) fn connections_are_suspect() -> bool {
    let broken_at = *BROKEN_AT.lock().unwrap_or_else(PoisonError::into_inner);
    broken_at.is_some_and(|broken_at| broken_at.elapsed() < DISTRUST_DURATION)
}

/// Begins a transaction without a tenant. Row-level security hides the rows of all tenants, except
/// from roles that may see them all.
///
/// # Errors
/// Returns an error if Postgres fails, or if no connection becomes free within 10 seconds.
pub async fn begin(pool: &PgPool) -> sqlx::Result<Transaction> {
    begin_with(pool, "-- database::begin\nBEGIN".to_owned()).await
}

/// Begins a transaction for this tenant. It sees and changes only rows of this tenant, except that
/// workers see some tables of all tenants ([`DatabaseRole::Worker`](super::DatabaseRole::Worker)).
///
/// # Errors
/// Returns an error if Postgres fails, or if no connection becomes free within 10 seconds.
pub async fn begin_for(pool: &PgPool, tenant: TenantId) -> sqlx::Result<Transaction> {
    // `true` limits the setting to this transaction, so the connection goes back to the pool
    // without the setting. The policies of row-level security compare the setting with each row.
    let tenant = tenant.0;
    begin_with(
        pool,
        format!(
            "-- database::begin_for\nBEGIN; SELECT set_config('platen.tenant', '{tenant}', true)"
        ),
    )
    .await
}

/// Does the same as [`begin_for`], and locks the tenant's wallet until the transaction ends. If the
/// tenant has no wallet, nothing is locked.
///
/// Statements that follow see everything that other transactions of the tenant did before they
/// released the lock. That is why the lock is a statement of its own: what a statement sees is
/// fixed when it begins, which is before it gets a lock.
///
/// Each statement of the transaction is planned once for each connection, and not again for each
/// value. Otherwise the planner would make new plans for the statements of admission each time,
/// because it guesses that arrays of unknown length are longer than they are.
///
/// # Errors
/// Returns an error if the lock is not free within 2 seconds, if Postgres fails, or if no
/// connection becomes free within 10 seconds.
pub async fn begin_with_wallet(pool: &PgPool, tenant: TenantId) -> sqlx::Result<Transaction> {
    // `lock_wallet` is a function of the database, so its statements are planned once for each
    // connection. It turns `enable_sort` off, so that the newest version of the wallet's row is
    // found at the end of an index ([`crate::settlements`]). Otherwise the planner would read all
    // versions and sort them, because it believes that there is only one.
    let tenant = tenant.0;
    begin_with(
        pool,
        format!("-- database::begin_with_wallet\nBEGIN; SELECT lock_wallet('{tenant}')"),
    )
    .await
}

/// Begins a transaction that sees no rows of any tenant, except the API key with this id. It is
/// used to find the tenant of a request, before the tenant can be set.
///
/// # Errors
/// Returns an error if the id has other characters than letters and digits, if Postgres fails, or
/// if no connection becomes free within 10 seconds.
pub async fn begin_for_key(pool: &PgPool, key_id: &str) -> sqlx::Result<Transaction> {
    if !key_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(sqlx::Error::Protocol("not the id of an API key".to_owned()));
    }
    begin_with(
        pool,
        format!(
            "-- database::begin_for_key\nBEGIN; SELECT set_config('platen.key', '{key_id}', true)"
        ),
    )
    .await
}

/// Begins a transaction with these statements. They must write no rows, because they are repeated
/// once if the connection seems to be broken, also after a timeout.
async fn begin_with(pool: &PgPool, statements: String) -> sqlx::Result<Transaction> {
    let statements = AssertSqlSafe(statements).into_sql_str();
    match Transaction::begin(pool, statements.clone(), BEGIN_TIMEOUT).await {
        // A connection that was used a moment ago is not tested before it is used again: these
        // statements are its test. From now on all connections are tested for a while.
        Err(error) if is_broken(&error) => {
            *BROKEN_AT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            Transaction::begin(pool, statements, BEGIN_TIMEOUT).await
        }
        begun => begun,
    }
}

/// Whether an error may mean that the connection cannot be used any more.
fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        // Connection exception; operator intervention, such as a shutdown.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
        _ => false,
    }
}
