//! SQL of idempotency keys. Look-ups that decide run under the wallet's lock, so a request whose key is in
//! flight waits for the first.

use sqlx::PgConnection;

use super::{Answer, Known, Request};
use crate::database::row::RowId;
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
