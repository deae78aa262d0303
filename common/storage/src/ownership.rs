//! SQL of the bucket that a database has adopted.

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// The id that must stand in the bucket; `None`: no bucket was adopted yet.
pub async fn recorded(executor: impl PgExecutor<'_>) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "-- ownership::recorded
        SELECT marker FROM adopted_bucket"
    )
    .fetch_optional(executor)
    .await
}

/// Whether this database has no tenant and no bucket: nothing can be lost of it. Asked by a role that sees every tenant.
pub async fn is_new(executor: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- ownership::is_new
        SELECT NOT EXISTS (SELECT FROM tenants) AND NOT EXISTS (SELECT FROM adopted_bucket) AS "new!""#
    )
    .fetch_one(executor)
    .await
}

/// Waits until nobody else adopts, until the transaction ends.
pub async fn lock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "-- ownership::lock
        SELECT pg_advisory_xact_lock(hashtextextended('platen bucket adopt', 0))"
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// From now on this id must stand in the bucket.
pub async fn record(
    connection: &mut PgConnection,
    marker: Uuid,
    address: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- ownership::record
        INSERT INTO adopted_bucket (marker, address) VALUES ($1, $2)
        ON CONFLICT (one) DO UPDATE SET marker = $1, address = $2, adopted_at = clock_timestamp()",
        marker,
        address,
    )
    .execute(connection)
    .await?;
    Ok(())
}
