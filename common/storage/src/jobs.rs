//! SQL of jobs.
//!
//! Functions that take a `PgPool` see the jobs of every tenant. Each of them is one statement in
//! its own transaction. Functions that take a connection run in the caller's transaction and see
//! only the jobs of its tenant.
//!
//! Times are compared on the database's clock, with `clock_timestamp()` and not `now()`. `now()` is
//! the start of the transaction, and the transaction may have waited for a lock since.

mod capacity;
mod due;
mod lease;
mod list;

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use time::OffsetDateTime;

use crate::database::row::RowId;
use domain::credits::{Credits, Quote};
use domain::generation::Generation;
use domain::id::{JobId, TenantId};
use domain::job::{Cost, Job, JobAttributes};
use domain::traceparent::TraceParent;

/// A job, as admission writes it.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// The job.
    pub id: JobId,
    /// The tenant that owns the job and pays for it.
    pub tenant: TenantId,
    /// What its submitter chose.
    pub attributes: &'a JobAttributes,
    /// The HTTP request that submits the job.
    pub request_id: &'a str,
    /// The client's trace that the job belongs to.
    pub traceparent: Option<&'a TraceParent>,
    /// What to generate.
    pub generation: &'a Generation,
    /// The price.
    pub quote: &'a Quote,
    /// Credits to hold: the price of all requested outputs.
    pub hold: Credits,
    /// Most paid calls that the job may make.
    pub max_calls: i32,
    /// Earliest start. `None`: now.
    pub run_at: Option<OffsetDateTime>,
    /// Time from the earliest start to the deadline. It is a duration and not a time, because the
    /// database's clock decides what the present time is.
    pub deadline_in: Duration,
    /// The failed job that this one repeats.
    pub redrive_of: Option<JobId>,
}

/// Longest time between the moment at which a statement took a time of the database's clock and the
/// commit that made it visible. Sessions end transactions that last longer.
pub const COMMIT_MARGIN: Duration = Duration::from_secs(15);
/// Microseconds by which one output advances its tenant's virtual clock. A tenant that submits more
/// than one output in this time runs after the tenants that do not.
const MICROS_PER_OUTPUT: i64 = 100_000;
/// Microseconds by which one step of priority moves a job within its tenant's own queue.
const MICROS_PER_PRIORITY_STEP: i64 = 10_000_000;

/// Writes the job and its request, and returns the job. The caller holds the wallet's lock.
///
/// The job's virtual time (the column `turn`) comes from the tenant's virtual clock on its wallet,
/// which is never earlier than the real clock. So a job of a tenant with few jobs runs before the
/// backlog of a busy tenant. A high priority moves the job forward, but at most to the real time.
/// So the job never runs before a job that another tenant submitted earlier.
///
/// # Errors
/// Returns an error if a value does not fit its column, or if Postgres fails.
///
/// # Panics
/// The generation cannot be written as JSON, which is a mistake in its type.
pub async fn insert(connection: &mut PgConnection, job: &NewJob<'_>) -> sqlx::Result<Job> {
    let generation = serde_json::to_value(job.generation).expect("a generation is JSON");
    let row_id = RowId::new("jobs", job.id);
    let outputs: i32 = row_id.convert("n_requested", job.quote.outputs)?;
    // One statement reads the tenant's clock, advances it by the outputs and uses the result. Both
    // clocks are the database's, so a wrong clock of an api does not change the order of jobs.
    let attributes = job.attributes;
    let inserted = whole_jobs!(
        r#"-- job::insert
        WITH clock AS (
          UPDATE wallets SET turn = greatest(turn, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) + $13::bigint * $12::integer
          WHERE tenant_id = $2 RETURNING turn)
        INSERT INTO jobs (id, tenant_id, kind, request_id, traceparent, redrive_of, max_calls, run_after, deadline,
                          price_version, unit_price, n_requested, hold_amount, turn, created_at,
                          model, switched_from, name, metadata, priority, fallback)
        SELECT $1, $2, $3, $4, $5, $6, $7, greatest($8, now()), greatest($8, clock_timestamp()) + $9::interval,
               $10, $11, $12, $14, greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, clock.turn - $20::smallint * $15::bigint), now(),
               $16, $17, $18, $19, $20::smallint, $21 FROM clock
        RETURNING "#,
        "",
        job.id as JobId,
        job.tenant as TenantId,
        job.generation.kind().as_str(),
        job.request_id,
        job.traceparent.map(TraceParent::as_str),
        job.redrive_of as Option<JobId>,
        job.max_calls,
        job.run_at,
        interval(job.deadline_in),
        job.quote.price_version,
        job.quote.unit_price.get(),
        outputs,
        MICROS_PER_OUTPUT,
        job.hold.get(),
        MICROS_PER_PRIORITY_STEP,
        attributes.model,
        attributes.switched_from,
        attributes.name,
        attributes.metadata,
        attributes.priority,
        attributes.fallback,
    )
    .fetch_one(&mut *connection)
    .await?;
    // The request has its own table, because the prompt is personal data and is deleted earlier
    // than the job's row.
    sqlx::query!(
        "-- job::insert_request
        INSERT INTO job_requests (job_id, tenant_id, generation) VALUES ($1, $2, $3)",
        job.id as JobId,
        job.tenant as TenantId,
        generation,
    )
    .execute(connection)
    .await?;
    Ok(inserted)
}

/// Reads one job of the tenant. Returns `None` if the tenant has no such job.
///
/// # Errors
/// Returns an error if the row has a value that this version does not know, or if Postgres fails.
pub async fn get(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Job>> {
    whole_jobs!(
        "-- job::get
        SELECT ",
        " FROM jobs WHERE id = $1",
        id as JobId
    )
    .fetch_optional(connection)
    .await
}

/// Reads one job of the tenant, and locks its row until the transaction ends. The caller must have
/// locked the wallet before, unless no credits move.
///
/// # Errors
/// Returns an error if the row has a value that this version does not know, or if Postgres fails.
pub async fn lock(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Job>> {
    whole_jobs!(
        "-- job::lock
        SELECT ",
        " FROM jobs WHERE id = $1 FOR NO KEY UPDATE",
        id as JobId
    )
    .fetch_optional(connection)
    .await
}

/// Reads the request of a job. Returns `None` if there is no such job, or if its prompt was deleted
/// at the end of its retention.
///
/// # Errors
/// Returns an error if this version does not know the stored request, or if Postgres fails.
pub async fn request(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Generation>> {
    let stored = sqlx::query_scalar!(
        "-- job::request\nSELECT generation FROM job_requests WHERE job_id = $1 AND generation ? 'prompt'",
        id as JobId
    )
    .fetch_optional(connection)
    .await?;
    stored.map(|value| parse_request(id, value)).transpose()
}

/// Parses a stored request.
fn parse_request(id: JobId, stored: serde_json::Value) -> sqlx::Result<Generation> {
    // The error contains only the kind, because the rest of the request holds the prompt, which must
    // not be logged.
    let kind = stored["kind"].to_string();
    serde_json::from_value(stored).map_err(|_| {
        RowId::new("job_requests", id).unknown("generation", format!("of kind {kind}"))
    })
}

/// Converts a duration to a Postgres interval. A duration that is too long becomes the longest
/// possible interval.
fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

/// A query that returns whole jobs. The arguments are the SQL before the columns, the SQL after
/// them, and the query's parameters. The columns are listed and not `*`, because a prepared `*`
/// fails as soon as a migration adds a column.
macro_rules! whole_jobs {
    ($before:tt, $after:tt, $($arguments:tt)*) => {
        sqlx::query!(
            $before
                + "id, tenant_id, kind, request_id, state, outcome, reason, fence, crash_count, calls_started, max_calls, turn,
                   run_after, deadline, price_version, unit_price, hold_amount, captured, released, refunded, n_requested,
                   n_delivered, redrive_of, created_at, started_at, finished_at,
                   model, switched_from, name, metadata, priority, fallback"
                + $after,
            $($arguments)*
        )
        .try_map(|row| {
            let id = JobId(row.id);
            let row_id = RowId::new("jobs", id);
            Ok(Job {
                id,
                tenant: TenantId(row.tenant_id),
                kind: row_id.parse("kind", &row.kind)?,
                attributes: JobAttributes {
                    model: row.model,
                    switched_from: row.switched_from,
                    name: row.name,
                    metadata: row.metadata,
                    priority: row.priority,
                    fallback: row.fallback,
                },
                request_id: row.request_id,
                state: row_id.parse("state", &row.state)?,
                outcome: row
                    .outcome
                    .map(|outcome| row_id.parse("outcome", &outcome))
                    .transpose()?,
                reason: row.reason,
                fence: row.fence,
                crash_count: row.crash_count,
                calls_started: row.calls_started,
                max_calls: row.max_calls,
                virtual_time: row.turn,
                run_after: row.run_after,
                deadline: row.deadline,
                cost: Cost {
                    unit_price: row_id.convert("unit_price", row.unit_price)?,
                    price_version: row.price_version,
                    held: row_id.convert("hold_amount", row.hold_amount)?,
                    captured: row_id.convert("captured", row.captured)?,
                    released: row_id.convert("released", row.released)?,
                    refunded: row_id.convert("refunded", row.refunded)?,
                },
                n_requested: row.n_requested,
                n_delivered: row.n_delivered,
                redrive_of: row.redrive_of.map(JobId),
                created_at: row.created_at,
                started_at: row.started_at,
                finished_at: row.finished_at,
            })
        })
    };
}
pub use due::{Mark, due, next_marks};
pub use lease::{
    Claim, End, Ended, Requeue, claim, end, expired_leases, extend, jobs_past_deadline,
    lease_has_expired, renew, requeue, running_since,
};
pub use list::{Filter, Search, by_worker, count_ahead, ended, list, search};
use whole_jobs;
