//! SQL of idempotency keys.
//!
//! That a key was not found is certain only while the caller holds the wallet's lock. The lock
//! makes a repeated request wait until the first request has committed its answer.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use crate::database::row::RowId;
use domain::id::TenantId;
use domain::idempotency::{Answer, KeyUse, Request};

/// Looks up a tenant's idempotency key. Returns `None` if the key was not used, or was used so long
/// ago that its answer was deleted ([`prune`]).
///
/// # Errors
/// Returns an error if the stored status is out of range, or if Postgres fails.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    request: &Request,
) -> sqlx::Result<Option<KeyUse>> {
    let row = sqlx::query!(
        "-- idempotency::find
        SELECT request_hash, status, location, body FROM idempotency_keys WHERE tenant_id = $1 AND key = $2",
        tenant as TenantId,
        request.key,
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    if row.request_hash != request.hash {
        return Ok(Some(KeyUse::AnotherRequest));
    }
    Ok(Some(KeyUse::Answered(Answer {
        status: RowId::new("idempotency_keys", tenant).convert("status", row.status)?,
        location: row.location,
        body: row.body,
    })))
}

/// Stores the answer to a request, in the transaction of its effect.
///
/// # Errors
/// Returns an error if the key was used before, or if Postgres fails. The caller must then roll
/// back the effect of the request, too.
pub async fn keep(
    connection: &mut PgConnection,
    tenant: TenantId,
    request: &Request,
    answer: &Answer,
) -> sqlx::Result<()> {
    let status: i16 = RowId::new("idempotency_keys", tenant).convert("status", answer.status)?;
    sqlx::query!(
        "-- idempotency::keep
        INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, location, body) VALUES ($1, $2, $3, $4, $5, $6)",
        tenant as TenantId,
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

/// Deletes about `limit` of the answers that are older than `age`, the oldest first. Returns the
/// number of deleted answers.
///
/// Answers with the same time are deleted together, and every older answer is deleted with them. So
/// the answers that are left are always the newest ones, even if several processes prune at once.
/// `platen verify` relies on this: only a job that is older than every stored answer may lack one
/// (invariant I11, a request makes one job).
///
/// The SQL compares with `now()`, because then Postgres can use an index. The statement is its own
/// transaction, so `now()` is the time at which it starts.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn prune(pool: &PgPool, age: Duration, limit: i64) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "-- idempotency::prune
        DELETE FROM idempotency_keys WHERE created_at <= (
          SELECT max(created_at) FROM (
            SELECT created_at FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1)
            ORDER BY created_at LIMIT $2) oldest)",
        age.as_secs_f64(),
        limit,
    )
    .execute(pool)
    .await?;
    Ok(pruned.rows_affected())
}
