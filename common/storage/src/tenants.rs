//! SQL of tenants and their API keys.

use sqlx::{PgConnection, PgPool};
use subtle::ConstantTimeEq;

use crate::database::row::RowId;
use domain::id::TenantId;
use domain::tenant::ApiKey;

/// Inserts a tenant with an empty wallet. The transaction must be for this tenant.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn insert(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- tenant::insert\nINSERT INTO tenants (id, name) VALUES ($1, $2)",
        tenant as TenantId,
        name
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "-- tenant::insert_wallet\nINSERT INTO wallets (tenant_id) VALUES ($1)",
        tenant as TenantId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether this tenant exists.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn exists(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- tenant::exists
        SELECT EXISTS (SELECT FROM tenants WHERE id = $1) AS "exists!""#,
        tenant as TenantId
    )
    .fetch_one(connection)
    .await
}

/// Sets a tenant's weight. The tenant may have this many times as many slots of a worker as a
/// tenant with weight 1.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn set_weight(
    connection: &mut PgConnection,
    tenant: TenantId,
    weight: u8,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- tenant::set_weight
        INSERT INTO tenant_weights (tenant_id, weight) VALUES ($1, $2) ON CONFLICT (tenant_id) DO UPDATE SET weight = $2",
        tenant as TenantId,
        i16::from(weight),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads the weights that were set. All other tenants have weight 1.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn weights(pool: &PgPool) -> sqlx::Result<Vec<(TenantId, usize)>> {
    let rows = sqlx::query!("-- tenant::weights\nSELECT tenant_id, weight FROM tenant_weights")
        .fetch_all(pool)
        .await?;
    let rows = rows.into_iter().map(|row| {
        let tenant = TenantId(row.tenant_id);
        let row_id = RowId::new("tenant_weights", tenant);
        Ok((tenant, row_id.convert("weight", row.weight)?))
    });
    rows.collect()
}

/// Inserts an API key: its id, name and hash.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn insert_key(
    connection: &mut PgConnection,
    tenant: TenantId,
    key: &ApiKey,
    name: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- tenant::insert_key
        INSERT INTO api_keys (id, tenant_id, name, sha256) VALUES ($1, $2, $3, $4)",
        key.id,
        tenant as TenantId,
        name,
        &key.sha256()[..],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Revokes the API key with this id. Returns `false` if this tenant has no such key, or if the key
/// was revoked before.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn revoke_key(
    connection: &mut PgConnection,
    tenant: TenantId,
    key_id: &str,
) -> sqlx::Result<bool> {
    let revoked = sqlx::query!(
        "-- tenant::revoke_key
        UPDATE api_keys SET revoked_at = clock_timestamp() WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL",
        tenant as TenantId,
        key_id,
    )
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected() == 1)
}

/// Finds the tenant of an API key. Returns `None` if the key is unknown, wrong or revoked. The
/// transaction must come from [`crate::database::begin_for_key`], which makes the key's row
/// visible.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn of_key(connection: &mut PgConnection, key: &ApiKey) -> sqlx::Result<Option<TenantId>> {
    let row = sqlx::query!(
        "-- tenant::of_key
        SELECT tenant_id, sha256 FROM api_keys WHERE id = $1 AND revoked_at IS NULL",
        key.id
    )
    .fetch_optional(connection)
    .await?;
    // The hashes are compared in constant time, so that the time of the answer reveals nothing
    // about the stored hash.
    Ok(row
        .filter(|row| bool::from(row.sha256.ct_eq(&key.sha256())))
        .map(|row| TenantId(row.tenant_id)))
}
