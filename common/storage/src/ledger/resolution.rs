//! SQL that resolves a hold.
//!
//! The rows of a wallet, and of a lot that is being spent, change with every job. While somebody
//! keeps a snapshot open, Postgres keeps all versions of these rows. A search by key alone would
//! read them one after the other, oldest first. So the newest version is found from the end of an
//! index, and then changed at its place (`ctid`). The place cannot change meanwhile, because the
//! caller holds the wallet's lock. `id BETWEEN $2 AND $2` means `id = $2`, for which the planner
//! would ignore `ORDER BY`.

use sqlx::PgConnection;

use domain::credits::Credits;
use domain::id::{JobId, TenantId};
use domain::ledger::{Account, Share, Transfer};

/// Returns the shares of a job's hold in burn-down order. They never change.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn shares(connection: &mut PgConnection, job: JobId) -> sqlx::Result<Vec<Share>> {
    sqlx::query_as!(
        Share,
        r#"-- ledger::shares
        SELECT grant_id AS "grant", amount AS "amount: Credits" FROM job_lots WHERE job_id = $1 ORDER BY ord"#,
        job as JobId
    )
    .fetch_all(connection)
    .await
}

/// Resolves the hold of one job: settles its shares and books the transfers. Of each share,
/// `consumed` is spent, and the rest goes back to its grant. `shares` and `consumed` have the same
/// order. The caller must hold the wallet's lock.
///
/// A grant that expired while its credits were held gets 72 more hours if credits go back to it.
/// Without that, a failed job would destroy credits that were valid when it was submitted.
///
/// # Errors
/// Returns [`sqlx::Error::RowNotFound`] if a grant or the wallet is missing, and an error if a
/// transfer was booked before or if Postgres fails.
pub async fn resolve(
    connection: &mut PgConnection,
    tenant: TenantId,
    shares: &[Share],
    consumed: &[Credits],
    transfers: &[Transfer],
) -> sqlx::Result<()> {
    // Most jobs have one share and one transfer, so each statement takes one share and one
    // transfer.
    for step in 0..shares.len().max(transfers.len()) {
        let share = shares.get(step).zip(consumed.get(step));
        let transfer = transfers.get(step);
        let changed = resolve_step(connection, tenant, share, transfer).await?;
        if changed != i64::from(share.is_some()) + i64::from(transfer.is_some()) {
            return Err(sqlx::Error::RowNotFound);
        }
    }
    Ok(())
}

/// Settles a share, if there is one, and books a transfer, if there is one, as [`super::post`]
/// does. Returns how many shares and transfers were written in total.
async fn resolve_step(
    connection: &mut PgConnection,
    tenant: TenantId,
    share: Option<(&Share, &Credits)>,
    transfer: Option<&Transfer>,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- ledger::resolve
        WITH lot AS (
          UPDATE grants g SET
            held = held - $3,
            consumed = g.consumed + $4,
            remaining = remaining + $3 - $4,
            expires_at = CASE WHEN $3 > $4 AND g.expires_at < clock_timestamp() THEN clock_timestamp() + interval '72 hours' ELSE g.expires_at END
          WHERE ctid = (SELECT ctid FROM grants WHERE id BETWEEN $2 AND $2 ORDER BY id DESC LIMIT 1)
          RETURNING id),
        wallet AS (
          UPDATE wallets SET
            available = available + $5,
            held = held + $6,
            seq = seq + 1,
            head = transfer_hash(head, tenant_id, seq + 1, $7, $8, $9, $10, $11, now())
          WHERE $7::text IS NOT NULL AND ctid = (SELECT ctid FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1)
          RETURNING seq, head),
        line AS (
          INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
          SELECT $1, seq, $7, $8, $9, $10, $11, now(), head FROM wallet
          RETURNING seq)
        SELECT (SELECT count(*) FROM lot) + (SELECT count(*) FROM line) AS "changed!""#,
        tenant as TenantId,
        share.map(|(share, _)| share.grant),
        share.map(|(share, _)| share.amount.get()),
        share.map(|(_, consumed)| consumed.get()),
        transfer.map(|transfer| transfer.change(Account::Available)),
        transfer.map(|transfer| transfer.change(Account::Held)),
        transfer.map(|transfer| transfer.debit.as_str()),
        transfer.map(|transfer| transfer.credit.as_str()),
        transfer.map(|transfer| transfer.amount.get()),
        transfer.map(|transfer| transfer.cause.as_str()),
        transfer.map(|transfer| transfer.reference.as_str()),
    )
    .fetch_one(connection)
    .await
}
