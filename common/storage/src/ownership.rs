//! SQL about the bucket that a database has adopted.

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// Reads the id that the bucket's marker must have. Returns `None` if no bucket was adopted yet.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn recorded(executor: impl PgExecutor<'_>) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "-- ownership::recorded
        SELECT marker FROM adopted_bucket"
    )
    .fetch_optional(executor)
    .await
}

/// Whether this database has no tenant and no adopted bucket, so that adopting a bucket can lose no
/// file. The connection's role must see all tenants.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn is_new(executor: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- ownership::is_new
        SELECT NOT EXISTS (SELECT FROM tenants) AND NOT EXISTS (SELECT FROM adopted_bucket) AS "new!""#
    )
    .fetch_one(executor)
    .await
}

/// Takes the lock of adoptions until the transaction ends, so that this database adopts only one
/// bucket at a time. Without this lock, two adoptions at the same time could leave the id of one in
/// the database and the marker of the other in the bucket.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn lock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "-- ownership::lock
        SELECT pg_advisory_xact_lock(hashtextextended('platen bucket adopt', 0))"
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// Records the id that the bucket's marker must have from now on. The bucket's address is recorded
/// for operators only: no code reads it.
///
/// # Errors
/// Returns an error if Postgres fails.
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
