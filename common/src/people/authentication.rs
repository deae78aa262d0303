//! Authentication: the one transaction that runs before the tenant is known.

use sqlx::PgPool;

use domain::id::TenantId;
use domain::tenant::ApiKey;
use storage::database;

/// Whom a key speaks for; `None` when it is unknown, wrong or revoked.
pub async fn authenticate(pool: &PgPool, key: &ApiKey) -> sqlx::Result<Option<TenantId>> {
    let mut transaction = database::begin_for_key(pool, &key.id).await?;
    let tenant = storage::tenants::of_key(&mut transaction, key).await?;
    transaction.commit().await?;
    Ok(tenant)
}
