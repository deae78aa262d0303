//! Authentication: the one transaction that runs before the tenant is known.

use sqlx::PgPool;

use crate::database;
use crate::id::TenantId;
use crate::tenant::{self, ApiKey};

/// Whom a key speaks for; `None` when it is unknown, wrong or revoked.
pub async fn authenticate(pool: &PgPool, key: &ApiKey) -> sqlx::Result<Option<TenantId>> {
    let mut transaction = database::begin_for_key(pool, &key.id).await?;
    let tenant = tenant::store::of_key(&mut transaction, key).await?;
    transaction.commit().await?;
    Ok(tenant)
}
