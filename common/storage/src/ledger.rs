//! SQL of the ledger.
//!
//! Every transaction that moves credits locks in the same order: wallet, job, grants. Inserts come
//! last. So two such transactions cannot deadlock. The wallet is locked by [`lock_wallet`], or when
//! the transaction begins ([`crate::database::begin_with_wallet`]).
//!
//! The locks are `FOR NO KEY UPDATE`. An insert with a foreign key to a locked row (a call that is
//! journaled while its job is locked) takes a key share lock on that row. A plain `FOR UPDATE`
//! would make the insert wait, and the two could deadlock.
//!
//! A tenant has one wallet. `ORDER BY status DESC LIMIT 1` finds the newest version of its row
//! fast; [`crate::settlements`] says why.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::row::RowId;
use domain::credits::{CreditLimitError, Credits};
use domain::id::{GrantId, JobId, TenantId};
use domain::ledger::{Account, Cause, Lot, Share, Transfer};

/// A tenant's balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// Credits that the tenant can spend.
    pub available: Credits,
    /// Credits held for open jobs.
    pub held: Credits,
    /// Whether the tenant may submit jobs: the wallet is active and has no debt.
    pub may_submit: bool,
}

impl Wallet {
    /// Checks that the wallet may be given `more` credits at once.
    ///
    /// # Errors
    /// Returns an error if `more`, or the balance afterwards, is above its limit.
    pub fn may_be_given(self, more: Credits) -> Result<(), CreditLimitError> {
        let total = self.available.plus(self.held);
        total
            .map_err(|_| CreditLimitError::InAWallet)?
            .may_be_given(more)
    }
}

/// Locks a tenant's wallet until the transaction ends, and returns its balance. Credits of the
/// tenant move only under this lock. Returns `None` if the tenant has no wallet.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn lock_wallet(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<Option<Wallet>> {
    sqlx::query_as!(
        Wallet,
        r#"-- ledger::lock_wallet
        SELECT available AS "available: Credits", held AS "held: Credits", (status = 'active' AND debt = 0) AS "may_submit!"
        FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1 FOR NO KEY UPDATE"#,
        tenant as TenantId
    )
    .fetch_optional(connection)
    .await
}

/// Reads a tenant's balance without a lock, so it may change at any time. Returns `None` if the
/// tenant has no wallet.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn wallet(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<Option<Wallet>> {
    sqlx::query_as!(
        Wallet,
        r#"-- ledger::wallet
        SELECT available AS "available: Credits", held AS "held: Credits", (status = 'active' AND debt = 0) AS "may_submit!"
        FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1"#,
        tenant as TenantId
    )
    .fetch_optional(connection)
    .await
}

/// Books a transfer: changes the wallet and writes the ledger line, in one statement. Only two
/// other statements change a balance: [`crate::admissions::write`] and
/// [`crate::settlements::write`]. They write their lines in the same way. So there is no change without a line.
///
/// Each line has the next number (`seq`) and a hash over its contents and the hash of the line
/// before. The wallet keeps the newest hash (`head`). So a line that is changed, removed or
/// inserted later breaks the chain, and `platen verify` reports that. The caller must hold the
/// wallet's lock.
///
/// # Errors
/// Returns an error if the transfer was booked before, if it would overdraw the wallet, or if
/// Postgres fails.
pub async fn post(
    connection: &mut PgConnection,
    tenant: TenantId,
    transfer: &Transfer,
) -> sqlx::Result<()> {
    // The number and the hash are computed in the UPDATE, from the row that it locks. Computing
    // them in Rust would need another round trip under the lock.
    sqlx::query!(
        "-- ledger::post
        WITH wallet AS (
          UPDATE wallets SET
            available = available + $2,
            held = held + $3,
            seq = seq + 1,
            head = transfer_hash(head, tenant_id, seq + 1, $4, $5, $6, $7, $8, now())
          WHERE ctid = (SELECT ctid FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1)
          RETURNING seq, head)
        INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
        SELECT $1, seq, $4, $5, $6, $7, $8, now(), head FROM wallet",
        tenant as TenantId,
        transfer.change(Account::Available),
        transfer.change(Account::Held),
        transfer.debit.as_str(),
        transfer.credit.as_str(),
        transfer.amount.get(),
        transfer.cause.as_str(),
        transfer.reference,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Locks the tenant's lots that have credits and have not expired, and returns them in burn-down
/// order.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn lock_lots(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<Vec<Lot>> {
    sqlx::query_as!(
        Lot,
        r#"-- ledger::lock_lots
        SELECT id AS "grant", remaining AS "remaining: Credits" FROM grants
        WHERE tenant_id = $1 AND NOT spent AND (expires_at IS NULL OR expires_at > clock_timestamp())
        ORDER BY priority, expires_at NULLS LAST, created_at, id
        FOR NO KEY UPDATE"#,
        tenant as TenantId
    )
    .fetch_all(connection)
    .await
}

/// Writes a grant of promotional credits. Returns `false` if this source has given credits to this
/// tenant before. A source gives only once to each tenant, so a repeated command gives nothing
/// twice.
///
/// # Errors
/// Returns an error if the amount is above its limit, or if Postgres fails.
pub async fn insert_promo(
    connection: &mut PgConnection,
    tenant: TenantId,
    grant: GrantId,
    source: &str,
    amount: Credits,
) -> sqlx::Result<bool> {
    // Two commands with the same source may run at once. The unique constraint lets only one of
    // them insert. With a SELECT before the INSERT instead, the second INSERT would be an error.
    // Priority 50: given credits burn before those with the default of 100.
    let inserted = sqlx::query!(
        "-- ledger::insert_promo
        INSERT INTO grants (id, tenant_id, source_type, source_id, priority, amount, remaining)
        VALUES ($1, $2, 'promo', $3, 50, $4, $4) ON CONFLICT ON CONSTRAINT one_grant_per_source DO NOTHING",
        grant as GrantId,
        tenant as TenantId,
        source,
        amount.get(),
    )
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Reads how much this source has given to this tenant, and when.
///
/// # Errors
/// Returns an error if the source has given nothing to the tenant, or if Postgres fails.
pub async fn promo_from(
    connection: &mut PgConnection,
    tenant: TenantId,
    source: &str,
) -> sqlx::Result<(Credits, OffsetDateTime)> {
    let row = sqlx::query!(
        r#"-- ledger::promo_from
        SELECT amount AS "amount: Credits", created_at FROM grants WHERE tenant_id = $1 AND source_type = 'promo' AND source_id = $2"#,
        tenant as TenantId,
        source,
    )
    .fetch_one(connection)
    .await?;
    Ok((row.amount, row.created_at))
}

/// Writes a grant of credits that an operator gave.
///
/// # Errors
/// Returns an error if the amount is above its limit, or if Postgres fails.
pub async fn insert_adjustment(
    connection: &mut PgConnection,
    tenant: TenantId,
    grant: GrantId,
    amount: Credits,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- ledger::insert_adjustment
        INSERT INTO grants (id, tenant_id, source_type, source_id, priority, amount, remaining)
        VALUES ($1, $2, 'adjust', $3, 50, $4, $4)",
        grant as GrantId,
        tenant as TenantId,
        grant.to_string(),
        amount.get(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes credits back from grants: moves each share from `remaining` to `forfeited` of its grant.
///
/// # Errors
/// Returns an error if a grant has less left than its share, or if Postgres fails.
pub async fn forfeit_lots(connection: &mut PgConnection, shares: &[Share]) -> sqlx::Result<()> {
    let grants: Vec<Uuid> = shares.iter().map(|share| share.grant).collect();
    let amounts: Vec<i64> = shares.iter().map(|share| share.amount.get()).collect();
    sqlx::query!(
        "-- ledger::forfeit_lots
        UPDATE grants g SET remaining = remaining - share.amount, forfeited = forfeited + share.amount
        FROM unnest($1::uuid[], $2::bigint[]) AS share(grant_id, amount) WHERE g.id = share.grant_id",
        &grants,
        &amounts,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// One line of a tenant's statement.
#[derive(Clone, Debug)]
pub struct StatementLine {
    /// Number of the line in the tenant's ledger, from 1.
    pub seq: i64,
    /// Why the credits moved: the name of a [`Cause`].
    pub kind: String,
    /// The account that the credits left: the name of an [`Account`].
    pub debit: String,
    /// The account that the credits reached: the name of an [`Account`].
    pub credit: String,
    /// How many credits moved.
    pub amount: Credits,
    /// UUID of the job or grant that caused the transfer, or a UUID of its own if an operator took
    /// credits.
    pub reference: String,
    /// When the credits moved.
    pub at: OffsetDateTime,
}

impl StatementLine {
    /// The job that caused the line; `None` if no job caused it.
    ///
    /// # Errors
    /// Returns an error if a job caused the transfer and `reference` is not a UUID.
    pub fn job(&self) -> sqlx::Result<Option<JobId>> {
        // Only for these causes `reference` is a job's id.
        let causes = [Cause::Hold, Cause::Capture, Cause::Release].map(Cause::as_str);
        if !causes.contains(&self.kind.as_str()) {
            return Ok(None);
        }
        let row_id = RowId::new("transfers", self.seq);
        let job = row_id.parse("ref", &self.reference)?;
        Ok(Some(JobId(job)))
    }
}

/// Lists a tenant's ledger lines, the highest number first, at most `limit`. With `before`, lists
/// only lines with a lower number than this, to continue a list.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn statement(
    connection: &mut PgConnection,
    tenant: TenantId,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<StatementLine>> {
    sqlx::query_as!(
        StatementLine,
        r#"-- ledger::statement
        SELECT seq, kind, debit, credit, amount AS "amount: Credits", ref AS "reference", at FROM transfers
        WHERE tenant_id = $1 AND ($2::bigint IS NULL OR seq < $2) ORDER BY seq DESC LIMIT $3"#,
        tenant as TenantId,
        before,
        limit,
    )
    .fetch_all(connection)
    .await
}
