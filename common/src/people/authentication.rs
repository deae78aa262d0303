//! Authentication: finds what an API key allows.
//!
//! This is the only transaction that runs before the tenant is known. Row-level security shows it
//! only the row of the given key.

use std::time::Duration;

use sqlx::PgPool;

use domain::api_key::{ApiKey, KeyRights};
use storage::database;

/// Returns what the key allows, and how long it is valid, if it expires. Returns `None` if the key
/// is unknown, wrong, expired or revoked. The cases are not distinguished, so that an answer does
/// not reveal which keys exist.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn authenticate(
    pool: &PgPool,
    key: &ApiKey,
) -> sqlx::Result<Option<(KeyRights, Option<Duration>)>> {
    let mut transaction = database::begin_for_key(pool, &key.id).await?;
    let found = storage::api_keys::rights(&mut transaction, key).await?;
    transaction.commit().await?;
    Ok(found)
}
