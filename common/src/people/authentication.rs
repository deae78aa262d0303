//! Authentication: finds the tenant of an API key.
//!
//! This is the only transaction that runs before the tenant is known. Row-level security shows it
//! only the row of the given key.

use sqlx::PgPool;

use domain::id::TenantId;
use domain::tenant::ApiKey;
use storage::database;

/// Returns the tenant that the key belongs to. Returns `None` if the key is unknown, wrong or
/// revoked. The three cases are not distinguished, so that an answer does not reveal which keys
/// exist.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn authenticate(pool: &PgPool, key: &ApiKey) -> sqlx::Result<Option<TenantId>> {
    let mut transaction = database::begin_for_key(pool, &key.id).await?;
    let tenant = storage::tenants::of_key(&mut transaction, key).await?;
    transaction.commit().await?;
    Ok(tenant)
}
