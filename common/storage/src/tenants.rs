//! SQL of tenants.

use sqlx::{PgConnection, PgPool};

use crate::database::row::RowId;
use domain::id::TenantId;

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
