//! SQL of idempotency keys. Look-ups that decide run under the wallet's lock, so a request whose key is in
//! flight waits for the first.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use crate::database::row::RowId;
use domain::id::TenantId;
use domain::idempotency::{Answer, Known, Request};

pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    request: &Request,
) -> sqlx::Result<Option<Known>> {
    let row = sqlx::query!(
        "-- idempotency::find
        SELECT request_hash, status, location, body FROM idempotency_keys WHERE tenant_id = $1 AND key = $2",
        tenant.0,
        request.key,
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    if row.request_hash != request.hash {
        return Ok(Some(Known::AnotherRequest));
    }
    Ok(Some(Known::Answered(Answer {
        status: RowId::new("idempotency_keys", tenant).fits("status", row.status)?,
        location: row.location,
        body: row.body,
    })))
}

pub async fn keep(
    connection: &mut PgConnection,
    tenant: TenantId,
    request: &Request,
    answer: &Answer,
) -> sqlx::Result<()> {
    let status: i16 = RowId::new("idempotency_keys", tenant).fits("status", answer.status)?;
    sqlx::query!(
        "-- idempotency::keep
        INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, location, body) VALUES ($1, $2, $3, $4, $5, $6)",
        tenant.0,
        request.key,
        &request.hash[..],
        status,
        answer.location,
        answer.body,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the oldest answers, about `most` of them, that have been kept for longer than `kept`; returns how many. Answers of one
/// moment go together, and no older one stays: so a job may lack its answer only if it is older than all that are kept
/// (`platen verify`, I11), whoever else prunes at the same time. By `now()`, which an index can be searched by: this statement stands
/// alone, so it is the time at which it begins.
pub async fn prune(pool: &PgPool, kept: Duration, most: i64) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "-- idempotency::prune
        DELETE FROM idempotency_keys WHERE created_at <= (
          SELECT max(created_at) FROM (
            SELECT created_at FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1)
            ORDER BY created_at LIMIT $2) oldest)",
        kept.as_secs_f64(),
        most,
    )
    .execute(pool)
    .await?;
    Ok(pruned.rows_affected())
}
