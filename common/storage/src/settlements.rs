//! SQL of settlement: one statement that ends jobs of a tenant, with everything that follows from it.
//!
//! It runs in a transaction that has locked the wallet and then the jobs
//! ([`crate::database::begin_with_wallet`], [`crate::jobs::lock`]). It takes arrays, so a hundred jobs need as
//! many round trips as one.
//!
//! The rows of a wallet, and of a lot that is being spent, change with every job. While somebody
//! keeps a snapshot open, Postgres keeps all versions of these rows. A search by key alone would
//! read them one after the other, oldest first. So the newest version is found from the end of an
//! index, and then changed at its place (`ctid`). The place cannot change meanwhile, because the
//! caller holds the wallet's lock. `id BETWEEN x AND x` means `id = x`, for which the planner would
//! ignore `ORDER BY`.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::database::UnexpectedRowCount;
use domain::credits::Credits;
use domain::id::{JobId, TenantId};
use domain::job::State;
use domain::ledger::{Account, Resolution, Share};
use domain::outcome::Class;

/// Returns the shares of these jobs' holds. The shares of a job are in burn-down order. They never
/// change.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn shares(
    connection: &mut PgConnection,
    jobs: &[JobId],
) -> sqlx::Result<Vec<(JobId, Share)>> {
    let rows = sqlx::query!(
        r#"-- settlement::shares
        SELECT job_id AS "job: JobId", grant_id, amount AS "amount: Credits" FROM job_lots WHERE job_id = ANY($1) ORDER BY job_id, ord"#,
        jobs as &[JobId]
    )
    .fetch_all(connection)
    .await?;
    let share = |grant, amount| Share { grant, amount };
    Ok(rows
        .into_iter()
        .map(|row| (row.job, share(row.grant_id, row.amount)))
        .collect())
}

/// How a job ends.
#[derive(Debug)]
pub struct End {
    /// The job.
    pub id: JobId,
    /// The final state of the job.
    pub state: State,
    /// Class of the outcome.
    pub outcome: Class,
    /// The message for the customer: why the job ended, and, unless all was delivered, what was
    /// charged.
    pub reason: String,
    /// Delivered outputs.
    pub delivered: i32,
    /// How the hold is resolved.
    pub resolution: Resolution,
    /// The shares of the hold, each with what is spent of it. The rest goes back to its lot.
    pub shares: Vec<(Share, Credits)>,
}

/// Facts about a job that has ended, which decide what else its transaction must write.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The job.
    pub id: JobId,
    /// Whether its request has input images. Some may be uploads, which count as used now.
    pub has_inputs: bool,
    /// Whether its tenant has set how long files are kept, so that their deletion must be planned.
    pub has_retention: bool,
}

/// Ends open, locked jobs of a tenant: writes the end into their rows, settles the shares of their
/// holds, books the transfers, and ends their open calls. The caller must hold the wallet's lock.
///
/// The class of the open calls becomes [`Class::Unknown`]. Nobody will read their answers any more,
/// but the provider may still bill us for them, so they keep their expected cost. The rule
/// `one_full_settlement` in the database rejects an end whose captured and released credits are not
/// the hold.
///
/// A grant that expired while its credits were held gets 72 more hours if credits go back to it.
/// Without that, a failed job would destroy credits that were valid when it was submitted.
///
/// Lines of the ledger are computed one after the other, as by [`crate::admissions::write`].
///
/// # Errors
/// Returns [`UnexpectedRowCount`] if a job is not open, [`sqlx::Error::RowNotFound`] if a grant or
/// the wallet is missing, and an error if a transfer was booked before or if Postgres fails. The
/// caller must then roll back.
pub async fn write<E>(
    connection: &mut PgConnection,
    tenant: TenantId,
    ends: &[End],
) -> Result<Vec<Ended>, E>
where
    E: From<sqlx::Error> + From<UnexpectedRowCount>,
{
    let lots = Lots::of(ends);
    let transfers: Vec<_> = ends
        .iter()
        .flat_map(|end| end.resolution.transfers())
        .collect();
    let change = |account: Account| {
        let changes = transfers.iter().map(|transfer| transfer.change(account));
        changes.fold(0, i64::saturating_add)
    };
    let written = sqlx::query!(
        r#"-- settlement::write
        WITH RECURSIVE line AS (
          (SELECT 0 AS n, seq, head FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1)
          UNION ALL
          SELECT n + 1, seq + 1, transfer_hash(head, $1, seq + 1, $2, ($3::text[])[n + 1], ($4::bigint[])[n + 1], ($5::text[])[n + 1], ($6::text[])[n + 1], now())
          FROM line WHERE n < cardinality($4::bigint[])),
        transfer AS (
          INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
          SELECT $1, seq, $2, ($3::text[])[n], ($4::bigint[])[n], ($5::text[])[n], ($6::text[])[n], now(), head FROM line WHERE n > 0),
        wallet AS (
          UPDATE wallets w SET available = available + $7::bigint, held = held + $8::bigint, seq = last.seq, head = last.head
          FROM line last
          WHERE w.ctid = (SELECT ctid FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1)
            AND last.n = cardinality($4::bigint[]) AND last.n > 0
          RETURNING w.tenant_id),
        lot AS (
          UPDATE grants g SET
            held = held - share.amount,
            consumed = g.consumed + share.consumed,
            remaining = remaining + share.amount - share.consumed,
            expires_at = CASE WHEN share.amount > share.consumed AND g.expires_at < clock_timestamp() THEN clock_timestamp() + interval '72 hours' ELSE g.expires_at END
          FROM unnest($9::uuid[], $10::bigint[], $11::bigint[]) AS share(grant_id, amount, consumed)
          CROSS JOIN LATERAL (SELECT ctid FROM grants WHERE id BETWEEN share.grant_id AND share.grant_id ORDER BY id DESC LIMIT 1) AS newest
          WHERE g.ctid = newest.ctid RETURNING g.id),
        job AS (
          UPDATE jobs j SET state = ended.state, outcome = ended.outcome, reason = ended.reason, n_delivered = ended.delivered,
                 captured = ended.captured, released = ended.released,
                 crash_count = crash_count + (ended.outcome = $19)::integer, lease_until = NULL, finished_at = clock_timestamp()
          FROM unnest($12::uuid[], $13::text[], $14::text[], $15::text[], $16::integer[], $17::bigint[], $18::bigint[])
            AS ended(id, state, outcome, reason, delivered, captured, released)
          CROSS JOIN LATERAL (SELECT ctid FROM jobs WHERE id BETWEEN ended.id AND ended.id ORDER BY id DESC LIMIT 1) AS newest
          WHERE j.ctid = newest.ctid AND finished_at IS NULL
          RETURNING j.id),
        abandoned AS (
          UPDATE calls SET ended_at = clock_timestamp(), outcome = $20, detail = 'its job ended before it was answered'
          WHERE job_id = ANY(ARRAY(SELECT id FROM job)) AND ended_at IS NULL)
        SELECT id AS "id: JobId",
               EXISTS (SELECT FROM job_requests WHERE job_id = job.id AND generation -> 'inputs' <> '[]') AS "has_inputs!",
               EXISTS (SELECT FROM retention WHERE tenant_id = $1) AS "has_retention!",
               (SELECT count(*) FROM lot) AS "lots!", EXISTS (SELECT FROM wallet) AS "has_booked!"
        FROM job"#,
        tenant as TenantId,
        Account::Held.as_str(),
        &transfers.iter().map(|transfer| transfer.credit.as_str()).collect::<Vec<_>>() as &[&str],
        &transfers.iter().map(|transfer| transfer.amount.get()).collect::<Vec<_>>(),
        &transfers.iter().map(|transfer| transfer.cause.as_str()).collect::<Vec<_>>() as &[&str],
        &transfers.iter().map(|transfer| transfer.reference.as_str()).collect::<Vec<_>>() as &[&str],
        change(Account::Available),
        change(Account::Held),
        &lots.grants,
        &lots.amounts,
        &lots.consumed,
        &ends.iter().map(|end| end.id).collect::<Vec<_>>() as &[JobId],
        &ends.iter().map(|end| end.state.as_str()).collect::<Vec<_>>() as &[&str],
        &ends.iter().map(|end| end.outcome.as_str()).collect::<Vec<_>>() as &[&str],
        &ends.iter().map(|end| end.reason.as_str()).collect::<Vec<_>>() as &[&str],
        &ends.iter().map(|end| end.delivered).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.resolution.captured.get()).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.resolution.released.get()).collect::<Vec<_>>(),
        // A poison job ends with an expired lease, which no requeue has counted.
        Class::Poison.as_str(),
        Class::Unknown.as_str(),
    )
    .fetch_all(connection)
    .await?;
    if written.len() != ends.len() {
        let count = u64::try_from(written.len()).unwrap_or(u64::MAX);
        return Err(UnexpectedRowCount(count).into());
    }
    // Everything else comes from the arrays alone: it is written, or the statement fails.
    let is_complete = written.first().is_none_or(|row| {
        usize::try_from(row.lots) == Ok(lots.grants.len()) && row.has_booked != transfers.is_empty()
    });
    if !is_complete {
        return Err(sqlx::Error::RowNotFound.into());
    }
    Ok(written
        .into_iter()
        .map(|row| Ended {
            id: row.id,
            has_inputs: row.has_inputs,
            has_retention: row.has_retention,
        })
        .collect())
}

/// What the ends of jobs change in lots, with one entry for each lot.
#[derive(Default)]
struct Lots {
    grants: Vec<Uuid>,
    /// What was held of each lot for these jobs.
    amounts: Vec<i64>,
    /// What is spent of it. The rest goes back to the lot.
    consumed: Vec<i64>,
}

impl Lots {
    fn of(ends: &[End]) -> Self {
        let mut lots = Self::default();
        for (share, consumed) in ends.iter().flat_map(|end| &end.shares) {
            let (amount, consumed) = (share.amount.get(), consumed.get());
            // Jobs burn lots down one after the other, so the lot is usually the last one.
            if let Some(index) = lots.grants.iter().rposition(|lot| *lot == share.grant) {
                lots.amounts[index] = lots.amounts[index].saturating_add(amount);
                lots.consumed[index] = lots.consumed[index].saturating_add(consumed);
            } else {
                lots.grants.push(share.grant);
                lots.amounts.push(amount);
                lots.consumed.push(consumed);
            }
        }
        lots
    }
}
