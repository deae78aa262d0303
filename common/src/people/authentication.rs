//! Authentication: finds the tenant of an API key.
//!
//! This is the one transaction that runs before the tenant is known. Row-level security shows it
//! the row of the given key only.

use sqlx::PgPool;

use domain::id::TenantId;
use domain::tenant::ApiKey;
use storage::database;

/// Returns the tenant that the key belongs to. `None` if the key is unknown, wrong or revoked; the
/// three are not distinguished, so that an answer tells nothing about which keys exist.
///
/// # Errors
/// Postgres fails.
pub async fn authenticate(pool: &PgPool, key: &ApiKey) -> sqlx::Result<Option<TenantId>> {
    let mut transaction = database::begin_for_key(pool, &key.id).await?;
    let tenant = storage::tenants::of_key(&mut transaction, key).await?;
    transaction.commit().await?;
    Ok(tenant)
}
