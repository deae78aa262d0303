//! SQL of the ledger. The order of locks is wallet, job, grants, inserts: [`lock_wallet`] comes first.
//!
//! Locks are `NO KEY`: a foreign key to a locked row, such as that of a call being journaled, neither waits for
//! them nor can deadlock with them.

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
    pub available: Credits,
    pub held: Credits,
    /// Whether it may admit jobs.
    pub active: bool,
}

impl Wallet {
    /// Whether it may be given so many credits more, at once.
    pub fn may_be_given(self, more: Credits) -> Result<(), CreditLimitError> {
        let total = self.available.plus(self.held);
        total
            .map_err(|_| CreditLimitError::InAWallet)?
            .may_be_given(more)
    }
}

/// Takes the lock under which all of this tenant's money moves. `None` when the tenant has no wallet.
pub async fn lock_wallet(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<Option<Wallet>> {
    sqlx::query_as!(
        Wallet,
        r#"-- ledger::lock_wallet
        SELECT available AS "available: Credits", held AS "held: Credits", (status = 'active' AND debt = 0) AS "active!"
        FROM wallets WHERE tenant_id = $1 FOR NO KEY UPDATE"#,
        tenant.0
    )
    .fetch_optional(connection)
    .await
}

/// The balance, without a lock.
pub async fn wallet(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<Option<Wallet>> {
    sqlx::query_as!(
        Wallet,
        r#"-- ledger::wallet
        SELECT available AS "available: Credits", held AS "held: Credits", (status = 'active' AND debt = 0) AS "active!"
        FROM wallets WHERE tenant_id = $1"#,
        tenant.0
    )
    .fetch_optional(connection)
    .await
}

/// Moves credits: the one statement that changes a wallet's balance writes the ledger line and extends the chain.
pub async fn post(
    connection: &mut PgConnection,
    tenant: TenantId,
    transfer: &Transfer,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- ledger::post
        WITH wallet AS (
          UPDATE wallets SET
            available = available + $2,
            held = held + $3,
            seq = seq + 1,
            head = transfer_hash(head, tenant_id, seq + 1, $4, $5, $6, $7, $8, now())
          WHERE tenant_id = $1
          RETURNING seq, head)
        INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
        SELECT $1, seq, $4, $5, $6, $7, $8, now(), head FROM wallet",
        tenant.0,
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

/// The lots that may be held from, in burn-down order, locked.
pub async fn lock_lots(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<Vec<Lot>> {
    sqlx::query_as!(
        Lot,
        r#"-- ledger::lock_lots
        SELECT id AS "grant", remaining AS "remaining: Credits" FROM grants
        WHERE tenant_id = $1 AND remaining > 0 AND (expires_at IS NULL OR expires_at > clock_timestamp())
        ORDER BY priority, expires_at NULLS LAST, created_at, id
        FOR NO KEY UPDATE"#,
        tenant.0
    )
    .fetch_all(connection)
    .await
}

/// Moves a hold's shares from remaining to held, and remembers them on the job.
pub async fn hold_lots(
    connection: &mut PgConnection,
    tenant: TenantId,
    job: JobId,
    shares: &[Share],
) -> sqlx::Result<()> {
    let grants: Vec<Uuid> = shares.iter().map(|share| share.grant).collect();
    let amounts: Vec<i64> = shares.iter().map(|share| share.amount.get()).collect();
    sqlx::query!(
        "-- ledger::hold_lots
        WITH share AS (SELECT grant_id, amount, ord FROM unnest($3::uuid[], $4::bigint[]) WITH ORDINALITY AS t(grant_id, amount, ord)),
             held AS (UPDATE grants g SET remaining = remaining - share.amount, held = held + share.amount
                      FROM share WHERE g.id = share.grant_id RETURNING g.id)
        INSERT INTO job_lots (job_id, grant_id, tenant_id, ord, amount)
        SELECT $1, share.grant_id, $2, share.ord, share.amount FROM share JOIN held ON held.id = share.grant_id",
        job.0,
        tenant.0,
        &grants,
        &amounts,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The shares a job holds, in burn-down order, with their lots locked.
pub async fn lock_shares(connection: &mut PgConnection, job: JobId) -> sqlx::Result<Vec<Share>> {
    sqlx::query_as!(
        Share,
        r#"-- ledger::lock_shares
        SELECT job_lots.grant_id AS "grant", job_lots.amount AS "amount: Credits"
        FROM job_lots JOIN grants ON grants.id = job_lots.grant_id
        WHERE job_lots.job_id = $1 ORDER BY job_lots.ord
        FOR NO KEY UPDATE OF grants"#,
        job.0
    )
    .fetch_all(connection)
    .await
}

/// Resolves shares: of each, `consumed` is spent and the rest goes back to its lot. A lot that expired
/// while it was held lives 72 hours more, so that a failed job never destroys credit.
pub async fn resolve_shares(
    connection: &mut PgConnection,
    shares: &[Share],
    consumed: &[Credits],
) -> sqlx::Result<()> {
    let grants: Vec<Uuid> = shares.iter().map(|share| share.grant).collect();
    let amounts: Vec<i64> = shares.iter().map(|share| share.amount.get()).collect();
    let consumed: Vec<i64> = consumed.iter().map(|credits| credits.get()).collect();
    sqlx::query!(
        "-- ledger::resolve_shares
        UPDATE grants g SET
          held = held - share.amount,
          consumed = g.consumed + share.consumed,
          remaining = remaining + share.amount - share.consumed,
          expires_at = CASE WHEN share.amount > share.consumed AND g.expires_at < clock_timestamp()
                            THEN clock_timestamp() + interval '72 hours' ELSE g.expires_at END
        FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS share(grant_id, amount, consumed)
        WHERE g.id = share.grant_id",
        &grants,
        &amounts,
        &consumed,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A lot of promotional credits. `false` when this source has granted to this tenant before: a source grants once to each.
pub async fn insert_promo(
    connection: &mut PgConnection,
    tenant: TenantId,
    grant: GrantId,
    source: &str,
    amount: Credits,
) -> sqlx::Result<bool> {
    let inserted = sqlx::query!(
        "-- ledger::insert_promo
        INSERT INTO grants (id, tenant_id, source_type, source_id, priority, amount, remaining)
        VALUES ($1, $2, 'promo', $3, 50, $4, $4) ON CONFLICT ON CONSTRAINT one_grant_per_source DO NOTHING",
        grant.0,
        tenant.0,
        source,
        amount.get(),
    )
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// How much this source has given to this tenant, and when.
pub async fn given_by(
    connection: &mut PgConnection,
    tenant: TenantId,
    source: &str,
) -> sqlx::Result<(Credits, OffsetDateTime)> {
    let row = sqlx::query!(
        r#"-- ledger::given_by
        SELECT amount AS "amount: Credits", created_at FROM grants WHERE tenant_id = $1 AND source_type = 'promo' AND source_id = $2"#,
        tenant.0,
        source,
    )
    .fetch_one(connection)
    .await?;
    Ok((row.amount, row.created_at))
}

/// A lot of credits that an operator gave.
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
        grant.0,
        tenant.0,
        grant.to_string(),
        amount.get(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes shares of what remains of lots.
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
    pub seq: i64,
    pub kind: String,
    pub debit: String,
    pub credit: String,
    pub amount: Credits,
    pub reference: String,
    pub at: OffsetDateTime,
}

impl StatementLine {
    /// The job that caused it, where one did.
    ///
    /// # Errors
    /// Where its cause is a job's, and what it refers to is none.
    pub fn job(&self) -> sqlx::Result<Option<JobId>> {
        let causes = [Cause::Hold, Cause::Capture, Cause::Release].map(Cause::as_str);
        if !causes.contains(&self.kind.as_str()) {
            return Ok(None);
        }
        let row = RowId::new("transfers", self.seq);
        let job = row.known("ref", &self.reference, |text| text.parse().ok())?;
        Ok(Some(JobId(job)))
    }
}

/// A tenant's ledger, newest first, below `before` when given.
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
        tenant.0,
        before,
        limit,
    )
    .fetch_all(connection)
    .await
}
