//! SQL of the anchors of the ledger (`common::money::anchor`). The queries only read, and read all
//! tenants, as `platen_reader`.

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use domain::id::TenantId;

/// Most mismatches that are reported for one page. More would tell an operator nothing new.
const MAX_MISMATCHES: i64 = 100;

/// The time on the database's clock.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn now(pool: &PgPool) -> sqlx::Result<OffsetDateTime> {
    sqlx::query_scalar!(
        r#"-- anchor::now
        SELECT clock_timestamp() AS "now!""#
    )
    .fetch_one(pool)
    .await
}

/// Reads the last transfers of up to `limit` tenants with ids after `after`, sorted by the tenant's
/// id, and the time just before the read. Tenants without a transfer are left out.
///
/// # Errors
/// Returns an error if Postgres fails.
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

/// A transfer of the ledger that does not match an anchor.
pub struct Mismatch {
    /// The tenant.
    pub tenant: TenantId,
    /// The number of the transfer.
    pub seq: i64,
    /// Whether the ledger has a transfer with this number at all.
    pub exists: bool,
}

/// Returns those of `heads` that do not match the ledger, at most 100.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn differing(pool: &PgPool, heads: &[Head]) -> sqlx::Result<Vec<Mismatch>> {
    let tenants: Vec<TenantId> = heads.iter().map(|head| head.tenant).collect();
    let seqs: Vec<i64> = heads.iter().map(|head| head.seq).collect();
    let hashes: Vec<Vec<u8>> = heads.iter().map(|head| head.hash.clone()).collect();
    let rows = sqlx::query!(
        r#"-- anchor::differing
        SELECT a.tenant_id AS "tenant_id!", a.seq AS "seq!", t.hash IS NOT NULL AS "exists!"
        FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS a(tenant_id, seq, hash)
          LEFT JOIN transfers t ON t.tenant_id = a.tenant_id AND t.seq = a.seq
        WHERE t.hash IS DISTINCT FROM a.hash ORDER BY a.tenant_id LIMIT $4"#,
        &tenants as &[TenantId],
        &seqs,
        &hashes,
        MAX_MISMATCHES,
    )
    .fetch_all(pool)
    .await?;
    let mismatches = rows.into_iter().map(|row| Mismatch {
        tenant: TenantId(row.tenant_id),
        seq: row.seq,
        exists: row.exists,
    });
    Ok(mismatches.collect())
}

/// Whether any tenant has a transfer that is later than `since` and older than `settled`.
///
/// # Errors
/// Returns an error if Postgres fails.
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

/// The last transfer of one tenant's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The tenant.
    pub tenant: TenantId,
    /// The number of the tenant's last transfer.
    pub seq: i64,
    /// The hash of that transfer: SHA-256, 32 bytes.
    pub hash: Vec<u8>,
}
