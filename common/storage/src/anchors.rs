//! SQL about anchors. All of it only reads, over all tenants, as `platen_reader`.

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use domain::id::TenantId;

/// Most differences reported for one page: a hundred are proof enough.
const MAX_DIFFERENCES: i64 = 100;

/// The time on the database's clock.
///
/// # Errors
/// Those of Postgres.
pub async fn now(pool: &PgPool) -> sqlx::Result<OffsetDateTime> {
    sqlx::query_scalar!(
        r#"-- anchor::now
        SELECT clock_timestamp() AS "now!""#
    )
    .fetch_one(pool)
    .await
}

/// The ends of the ledgers of up to `limit` tenants with ids after `after`, by id, and when they
/// were read. Tenants without a transfer are left out.
///
/// # Errors
/// Those of Postgres.
pub async fn heads(
    pool: &PgPool,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<(OffsetDateTime, Vec<Head>)> {
    let at = now(pool).await?;
    let rows = sqlx::query!(
        "-- anchor::heads
        SELECT tenant_id, seq, head FROM wallets WHERE seq > 0 AND tenant_id > $1 ORDER BY tenant_id LIMIT $2",
        after,
        limit,
    )
    .fetch_all(pool)
    .await?;
    let heads = rows.into_iter().map(|row| Head {
        tenant: TenantId(row.tenant_id),
        seq: row.seq,
        hash: row.head,
    });
    Ok((at, heads.collect()))
}

/// A transfer that does not match an anchor.
pub struct Mismatch {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its number.
    pub seq: i64,
    /// Whether there is a transfer of this number at all.
    pub exists: bool,
}

/// Those of these heads that the ledger does not contain; at most 100.
///
/// # Errors
/// Those of Postgres.
pub async fn differing(pool: &PgPool, heads: &[Head]) -> sqlx::Result<Vec<Mismatch>> {
    let tenants: Vec<Uuid> = heads.iter().map(|head| head.tenant.0).collect();
    let seqs: Vec<i64> = heads.iter().map(|head| head.seq).collect();
    let hashes: Vec<Vec<u8>> = heads.iter().map(|head| head.hash.clone()).collect();
    let rows = sqlx::query!(
        r#"-- anchor::differing
        SELECT a.tenant_id AS "tenant_id!", a.seq AS "seq!", t.hash IS NOT NULL AS "exists!"
        FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS a(tenant_id, seq, hash)
          LEFT JOIN transfers t ON t.tenant_id = a.tenant_id AND t.seq = a.seq
        WHERE t.hash IS DISTINCT FROM a.hash ORDER BY a.tenant_id LIMIT $4"#,
        &tenants,
        &seqs,
        &hashes,
        MAX_DIFFERENCES,
    )
    .fetch_all(pool)
    .await?;
    let differs = rows.into_iter().map(|row| Mismatch {
        tenant: TenantId(row.tenant_id),
        seq: row.seq,
        exists: row.exists,
    });
    Ok(differs.collect())
}

/// Whether there is a transfer that is younger than `since` and older than `settled`.
///
/// # Errors
/// Those of Postgres.
pub async fn has_unanchored_transfers(
    pool: &PgPool,
    since: OffsetDateTime,
    settled: Duration,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- anchor::has_unanchored_transfers
        SELECT EXISTS (SELECT FROM transfers WHERE at > $1 AND at < clock_timestamp() - make_interval(secs => $2)) AS "grew!""#,
        since,
        settled.as_secs_f64(),
    )
    .fetch_one(pool)
    .await
}

/// The end of one tenant's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The tenant.
    pub tenant: TenantId,
    /// The number of its last transfer.
    pub seq: i64,
    /// The hash of that transfer: SHA-256, 32 bytes.
    pub hash: Vec<u8>,
}
