//! SQL of admission: one statement that reads everything that decides about new jobs of a tenant,
//! and one that writes them.
//!
//! Both run in a transaction from [`crate::database::begin_with_wallet`]. The wallet is locked, so
//! nothing that they read or write changes in between. Both take arrays, so a hundred jobs need as
//! many round trips as one.

use std::time::Duration;

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::row::RowId;
use domain::allowance::AllowanceUsage;
use domain::credits::Credits;
use domain::id::{JobId, TenantId, UploadId};
use domain::idempotency::{Answer, Request};
use domain::job::Job;
use domain::ledger::{Account, Cause, Lot, Share};
use domain::storage_limit::StorageUsage;
use domain::traceparent::TraceParent;

/// What [`read`] is to read besides the wallet.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// Whether the tenant's lots are locked and read, because credits are to be held.
    pub lots: bool,
    /// Uploads to lock against deletion.
    pub uploads: Vec<UploadId>,
    /// Idempotency keys whose answers are read.
    pub keys: Vec<&'a str>,
    /// Whether the use of the cancel allowance is read.
    pub allowance: bool,
    /// Whether the size of the stored files is read.
    pub storage: bool,
}

/// What decides about new jobs of a tenant.
#[derive(Debug)]
pub struct Basis {
    /// When the transaction began, on the database's clock.
    pub now: OffsetDateTime,
    /// The present time, on the database's clock.
    pub clock: OffsetDateTime,
    /// Credits that the tenant can spend.
    pub available: Credits,
    /// Whether the wallet is active and has no debt.
    pub may_submit: bool,
    /// The tenant's virtual clock in the fair queue, in microseconds.
    pub virtual_clock: i64,
    /// Lots that have credits and have not expired, in burn-down order.
    pub lots: Vec<Lot>,
    /// Those of the wanted uploads that exist and are not deleted. They are locked.
    pub uploads: Vec<UploadId>,
    /// What is stored under those of the wanted keys that were used.
    pub answers: Vec<StoredAnswer>,
    /// What the tenant has used of its cancel allowance; no call if it was not wanted.
    pub allowance: AllowanceUsage,
    /// The size of the stored files; `None` if it was not wanted.
    pub stored: StorageUsage,
}

/// An answer under an idempotency key.
#[derive(Clone, Debug)]
pub struct StoredAnswer {
    /// The key.
    pub key: String,
    /// Hash of the request that was answered.
    pub hash: Vec<u8>,
    /// The answer.
    pub answer: Answer,
}

/// The row of [`read`]. Several rows of another table are arrays of the same length, one for each
/// column: `lots` and `remaining` of lots, `keys` to `bodies` of answers.
struct BasisRow {
    now: OffsetDateTime,
    clock: OffsetDateTime,
    available: Credits,
    may_submit: bool,
    turn: i64,
    lots: Vec<Uuid>,
    remaining: Vec<i64>,
    keys: Vec<String>,
    hashes: Vec<Vec<u8>>,
    statuses: Vec<i16>,
    locations: Vec<Option<String>>,
    bodies: Vec<Vec<u8>>,
    uploads: Vec<UploadId>,
    /// Calls that the tenant abandoned in the last hour.
    calls: i64,
    /// Seconds until the oldest of these calls no longer counts.
    seconds: f64,
    /// Bytes of the stored files.
    stored: Option<i64>,
}

/// The statement of [`read`]. The arguments are its name, the SQL of more parts and of their
/// columns, and the query's parameters.
macro_rules! basis {
    ($name:tt, $parts:tt, $columns:tt, $($arguments:tt)*) => {
        sqlx::query_as!(
            BasisRow,
            "-- " + $name + r#"
            WITH lot AS MATERIALIZED (
              SELECT id, remaining FROM grants
              WHERE $2 AND tenant_id = $1 AND NOT spent AND (expires_at IS NULL OR expires_at > clock_timestamp())
              ORDER BY priority, expires_at NULLS LAST, created_at, id
              FOR NO KEY UPDATE),
            answer AS MATERIALIZED (
              SELECT key, request_hash, status, location, body FROM idempotency_keys WHERE tenant_id = $1 AND key = ANY($3))"#
                + $parts
                + r#"
            SELECT now() AS "now!", clock_timestamp() AS "clock!", w.available AS "available: Credits",
              (w.status = 'active' AND w.debt = 0) AS "may_submit!", w.turn,
              ARRAY(SELECT id FROM lot) AS "lots!", ARRAY(SELECT remaining FROM lot) AS "remaining!",
              ARRAY(SELECT key FROM answer) AS "keys!", ARRAY(SELECT request_hash FROM answer) AS "hashes!",
              ARRAY(SELECT status FROM answer) AS "statuses!",
              ARRAY(SELECT location FROM answer) AS "locations!: Vec<Option<String>>", ARRAY(SELECT body FROM answer) AS "bodies!", "#
                + $columns
                + " FROM wallets w WHERE w.tenant_id = $1 ORDER BY w.status DESC LIMIT 1",
            $($arguments)*
        )
    };
}

/// Reads and locks what decides about new jobs. Returns `None` if the tenant has no wallet.
///
/// Uploads are locked in the order of their ids and lots in burn-down order, so that two
/// transactions cannot deadlock.
///
/// # Errors
/// Returns an error if a row has a value that this version does not know, or if Postgres fails.
pub async fn read(
    connection: &mut PgConnection,
    tenant: TenantId,
    wanted: &Wanted<'_>,
) -> sqlx::Result<Option<Basis>> {
    // A part of a statement costs time even if it is not wanted. Most submits need only the first
    // statement, which lacks the parts for uploads, the allowance and the storage.
    let row = if wanted.uploads.is_empty() && !wanted.allowance && !wanted.storage {
        basis!(
            "admission::read",
            "",
            r#"'{}'::uuid[] AS "uploads!: Vec<UploadId>", 0::bigint AS "calls!", 0::float8 AS "seconds!", NULL::bigint AS stored"#,
            tenant as TenantId,
            wanted.lots,
            &wanted.keys as &[&str],
        )
        .fetch_optional(connection)
        .await?
    } else {
        basis!(
            "admission::read_with_limits",
            ", upload AS MATERIALIZED (
              SELECT id FROM uploads WHERE id = ANY($4) AND deleted_at IS NULL ORDER BY id FOR SHARE),
            abandoned AS MATERIALIZED (
              SELECT count(*) AS calls, coalesce(extract(epoch FROM min(at) + interval '1 hour' - clock_timestamp()), 60)::float8 AS seconds
              FROM abandoned_calls WHERE $5 AND tenant_id = $1 AND at > now() - interval '1 hour')",
            r#"ARRAY(SELECT id FROM upload) AS "uploads!: Vec<UploadId>",
              (SELECT calls FROM abandoned) AS "calls!", (SELECT seconds FROM abandoned) AS "seconds!",
              (SELECT t.bytes + coalesce((SELECT sum(l.bytes) FROM storage_lines l WHERE l.tenant_id = t.tenant_id), 0)::bigint
               FROM storage_totals t WHERE $6 AND t.tenant_id = $1) AS stored"#,
            tenant as TenantId,
            wanted.lots,
            &wanted.keys as &[&str],
            &wanted.uploads as &[UploadId],
            wanted.allowance,
            wanted.storage,
        )
        .fetch_optional(connection)
        .await?
    };
    let Some(row) = row else {
        return Ok(None);
    };
    let row_id = RowId::new("grants", tenant);
    let lots = row.lots.into_iter().zip(row.remaining);
    let lots = lots.map(|(grant, remaining)| {
        let remaining = row_id.convert("remaining", remaining)?;
        Ok(Lot { grant, remaining })
    });
    let row_id = RowId::new("idempotency_keys", tenant);
    let columns = row.keys.into_iter().zip(row.hashes);
    let columns = columns.zip(
        row.statuses
            .into_iter()
            .zip(row.locations.into_iter().zip(row.bodies)),
    );
    let answers = columns.map(|((key, hash), (status, (location, body)))| {
        let status = row_id.convert("status", status)?;
        Ok(StoredAnswer {
            key,
            hash,
            answer: Answer {
                status,
                location,
                body,
            },
        })
    });
    // Whole seconds, rounded up, because the value becomes a `Retry-After`. They are at most an
    // hour, so they are always a duration.
    let seconds = row.seconds.ceil().max(1.0);
    Ok(Some(Basis {
        now: row.now,
        clock: row.clock,
        available: row.available,
        may_submit: row.may_submit,
        virtual_clock: row.turn,
        lots: lots.collect::<sqlx::Result<_>>()?,
        uploads: row.uploads,
        answers: answers.collect::<sqlx::Result<_>>()?,
        allowance: AllowanceUsage {
            calls: row.calls,
            retry_after: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        },
        stored: StorageUsage { bytes: row.stored },
    }))
}

/// A new job, with everything that is written together with it.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// The job, as its row will have it.
    pub job: Job,
    /// The client's trace that the job belongs to.
    pub traceparent: Option<&'a TraceParent>,
    /// What to generate, as JSON.
    pub generation: Value,
    /// What the hold takes from each lot, in burn-down order.
    pub shares: Vec<Share>,
    /// The request that made the job.
    pub request: &'a Request,
    /// The answer to it.
    pub answer: Answer,
}

/// Writes new jobs: their rows and requests, their holds with the lots that they take from, a line
/// of the ledger for each hold, and the answers to their requests. One statement writes everything.
/// `virtual_clock` is the tenant's virtual clock afterwards.
///
/// The statement finds the newest version of the wallet's row and of each lot's row from the end of
/// an index, and changes it at its place, as [`crate::settlements`] says.
///
/// Each line of the ledger has the next number and a hash over its contents and the line before
/// (see [`crate::ledger::post`]). The part `line` of the statement computes them one after the
/// other.
///
/// # Errors
/// Returns an error if a value does not fit its column, if the jobs would overdraw the wallet or a
/// lot, if a key was used before, or if Postgres fails. The caller must then roll back.
pub async fn write(
    connection: &mut PgConnection,
    tenant: TenantId,
    virtual_clock: i64,
    new_jobs: &[NewJob<'_>],
) -> sqlx::Result<()> {
    let row_id = RowId::new("idempotency_keys", tenant);
    let statuses = new_jobs
        .iter()
        .map(|new| row_id.convert("status", new.answer.status));
    let statuses = statuses.collect::<sqlx::Result<Vec<i16>>>()?;
    // A job without a price holds nothing and has no line in the ledger.
    let holds = new_jobs.iter().filter(|new| !new.job.cost.held.is_zero());
    let (held, held_for): (Vec<i64>, Vec<JobId>) = holds
        .map(|new| (new.job.cost.held.get(), new.job.id))
        .unzip();
    let total = held.iter().copied().fold(0, i64::saturating_add);
    let taken = Taken::by(new_jobs);
    let jobs = || new_jobs.iter().map(|new| &new.job);
    let attributes = || jobs().map(|job| &job.attributes);
    let written = sqlx::query!(
        r#"-- admission::write
        WITH RECURSIVE line AS (
          (SELECT 0 AS n, seq, head FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1)
          UNION ALL
          SELECT n + 1, seq + 1, transfer_hash(head, $1, seq + 1, $2, $3, ($6::bigint[])[n + 1], $4, ($5::uuid[])[n + 1]::text, now())
          FROM line WHERE n < cardinality($5::uuid[])),
        transfer AS (
          INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
          SELECT $1, seq, $2, $3, ($6::bigint[])[n], $4, ($5::uuid[])[n]::text, now(), head FROM line WHERE n > 0),
        lot AS (
          UPDATE grants g SET remaining = remaining - taken.amount, held = held + taken.amount
          FROM unnest($9::uuid[], $10::bigint[]) AS taken(grant_id, amount)
          CROSS JOIN LATERAL (SELECT ctid FROM grants WHERE id BETWEEN taken.grant_id AND taken.grant_id ORDER BY id DESC LIMIT 1) AS newest
          WHERE g.ctid = newest.ctid RETURNING g.id),
        share AS (
          INSERT INTO job_lots (job_id, grant_id, tenant_id, ord, amount)
          SELECT job_id, grant_id, $1, ord, amount
          FROM unnest($11::uuid[], $12::uuid[], $13::integer[], $14::bigint[]) AS share(job_id, grant_id, ord, amount)),
        job AS (
          INSERT INTO jobs (id, tenant_id, kind, request_id, traceparent, redrive_of, max_calls, run_after, deadline,
                            price_version, unit_price, n_requested, hold_amount, turn, created_at,
                            model, switched_from, name, metadata, priority, fallback)
          SELECT id, $1, kind, request_id, traceparent, redrive_of, max_calls, run_after, deadline,
                 price_version, unit_price, n_requested, hold_amount, turn, now(),
                 model, switched_from, name, metadata, priority, fallback
          FROM unnest($15::uuid[], $16::text[], $17::text[], $18::text[], $19::uuid[], $20::integer[], $21::timestamptz[], $22::timestamptz[],
                      $23::text[], $24::bigint[], $25::integer[], $26::bigint[], $27::bigint[],
                      $28::text[], $29::text[], $30::text[], $31::jsonb[], $32::smallint[], $33::boolean[])
            AS new(id, kind, request_id, traceparent, redrive_of, max_calls, run_after, deadline,
                   price_version, unit_price, n_requested, hold_amount, turn,
                   model, switched_from, name, metadata, priority, fallback)),
        request AS (
          INSERT INTO job_requests (job_id, tenant_id, generation)
          SELECT job_id, $1, generation FROM unnest($15::uuid[], $34::jsonb[]) AS new(job_id, generation)),
        answer AS (
          INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, location, body)
          SELECT $1, key, request_hash, status, location, body
          FROM unnest($35::text[], $36::bytea[], $37::smallint[], $38::text[], $39::bytea[]) AS new(key, request_hash, status, location, body))
        UPDATE wallets w SET available = available - $7::bigint, held = held + $7::bigint, turn = $8, seq = last.seq, head = last.head
        FROM line last WHERE w.ctid = (SELECT ctid FROM wallets WHERE tenant_id = $1 ORDER BY status DESC LIMIT 1) AND last.n = cardinality($5::uuid[])
        RETURNING (SELECT count(*) FROM lot) AS "lots!""#,
        tenant as TenantId,
        Account::Available.as_str(),
        Account::Held.as_str(),
        Cause::Hold.as_str(),
        &held_for as &[JobId],
        &held,
        total,
        virtual_clock,
        &taken.lots,
        &taken.lot_amounts,
        &taken.jobs as &[JobId],
        &taken.grants,
        &taken.places,
        &taken.amounts,
        &jobs().map(|job| job.id).collect::<Vec<_>>() as &[JobId],
        &jobs().map(|job| job.kind.as_str()).collect::<Vec<_>>() as &[&str],
        &jobs().map(|job| job.request_id.as_str()).collect::<Vec<_>>() as &[&str],
        &new_jobs.iter().map(|new| new.traceparent.map(TraceParent::as_str)).collect::<Vec<_>>() as &[Option<&str>],
        &jobs().map(|job| job.redrive_of).collect::<Vec<_>>() as &[Option<JobId>],
        &jobs().map(|job| job.max_calls).collect::<Vec<_>>(),
        &jobs().map(|job| job.run_after).collect::<Vec<_>>(),
        &jobs().map(|job| job.deadline).collect::<Vec<_>>(),
        &jobs().map(|job| job.cost.price_version.as_str()).collect::<Vec<_>>() as &[&str],
        &jobs().map(|job| job.cost.unit_price.get()).collect::<Vec<_>>(),
        &jobs().map(|job| job.n_requested).collect::<Vec<_>>(),
        &jobs().map(|job| job.cost.held.get()).collect::<Vec<_>>(),
        &jobs().map(|job| job.virtual_time).collect::<Vec<_>>(),
        &attributes().map(|chosen| chosen.model.as_str()).collect::<Vec<_>>() as &[&str],
        &attributes().map(|chosen| chosen.switched_from.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &attributes().map(|chosen| chosen.name.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &attributes().map(|chosen| chosen.metadata.clone()).collect::<Vec<_>>() as &[Value],
        &attributes().map(|chosen| chosen.priority).collect::<Vec<_>>(),
        &attributes().map(|chosen| chosen.fallback).collect::<Vec<_>>(),
        &new_jobs.iter().map(|new| new.generation.clone()).collect::<Vec<_>>() as &[Value],
        &new_jobs.iter().map(|new| new.request.key.as_str()).collect::<Vec<_>>() as &[&str],
        &new_jobs.iter().map(|new| &new.request.hash[..]).collect::<Vec<_>>() as &[&[u8]],
        &statuses,
        &new_jobs.iter().map(|new| new.answer.location.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &new_jobs.iter().map(|new| &new.answer.body[..]).collect::<Vec<_>>() as &[&[u8]],
    )
    .fetch_optional(connection)
    .await?;
    // All other rows come from the arrays alone: each is written, or the statement fails.
    let lots = written.map(|written| usize::try_from(written.lots));
    if lots == Some(Ok(taken.lots.len())) {
        Ok(())
    } else {
        let changed = format!("{lots:?} of {} lots changed", taken.lots.len());
        Err(RowId::new("wallets", tenant).unknown("held", changed))
    }
}

/// What the holds of new jobs take from lots, as columns of two tables.
#[derive(Default)]
struct Taken {
    /// The lots from which something is taken, each once.
    lots: Vec<Uuid>,
    /// What is taken from each of `lots` in total.
    lot_amounts: Vec<i64>,
    /// For each share, its job.
    jobs: Vec<JobId>,
    /// For each share, its grant.
    grants: Vec<Uuid>,
    /// For each share, its place in burn-down order within its job, from 1.
    places: Vec<i32>,
    /// For each share, its credits.
    amounts: Vec<i64>,
}

impl Taken {
    /// What these jobs take.
    fn by(new_jobs: &[NewJob<'_>]) -> Self {
        let mut taken = Self::default();
        for new in new_jobs {
            for (place, share) in (1..).zip(&new.shares) {
                let amount = share.amount.get();
                taken.jobs.push(new.job.id);
                taken.grants.push(share.grant);
                taken.places.push(place);
                taken.amounts.push(amount);
                // Jobs burn lots down one after the other, so the lot is usually the last one.
                match taken.lots.iter().rposition(|lot| *lot == share.grant) {
                    Some(index) => {
                        taken.lot_amounts[index] = taken.lot_amounts[index].saturating_add(amount);
                    }
                    None => {
                        taken.lots.push(share.grant);
                        taken.lot_amounts.push(amount);
                    }
                }
            }
        }
        taken
    }
}
