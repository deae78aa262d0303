//! SQL of idempotency keys. Look-ups that decide run under the wallet's lock, so a request whose key is in
//! flight waits for the first.

use sqlx::PgConnection;

use super::{Answer, Known, Request};
use crate::id::TenantId;

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
    Ok(row.map(|row| {
        if row.request_hash == request.hash {
            Known::Answered(Answer {
                status: row.status.unsigned_abs(),
                location: row.location,
                body: row.body,
            })
        } else {
            Known::AnotherRequest
        }
    }))
}

pub async fn keep(
    connection: &mut PgConnection,
    tenant: TenantId,
    request: &Request,
    answer: &Answer,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- idempotency::keep
        INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, location, body) VALUES ($1, $2, $3, $4, $5, $6)",
        tenant.0,
        request.key,
        &request.hash[..],
        i16::try_from(answer.status).unwrap_or(i16::MAX),
        answer.location,
        answer.body,
    )
    .execute(connection)
    .await?;
    Ok(())
}
