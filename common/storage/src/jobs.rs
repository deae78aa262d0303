//! SQL of jobs.
//!
//! Functions that take a `PgPool` see the jobs of every tenant. Each of them is one statement in
//! its own transaction. Functions that take a connection run in the caller's transaction and see
//! only the jobs of its tenant.
//!
//! Times are compared on the database's clock, with `clock_timestamp()` and not `now()`. `now()` is
//! the start of the transaction, and the transaction may have waited for a lock since.

mod due;
mod lease;
mod list;

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::row::RowId;
use domain::credits::{Credits, Quote};
use domain::generation::{Generation, Kind};
use domain::id::{JobId, TenantId};
use domain::job::{Cost, Job, State};
use domain::outcome::Class;
use domain::traceparent::TraceParent;

/// A job, as admission writes it. The fields are those of [`Job`].
#[derive(Debug)]
pub struct NewJob<'a> {
    /// The job.
    pub id: JobId,
    /// The tenant that owns the job and pays for it.
    pub tenant: TenantId,
    /// Catalogue id of the model.
    pub model: &'a str,
    /// The tenant's own name for the job.
    pub name: Option<&'a str>,
    /// The tenant's own data.
    pub metadata: &'a serde_json::Value,
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
    /// Priority among the tenant's own jobs.
    pub priority: i16,
    /// Earliest start. `None`: now.
    pub run_at: Option<OffsetDateTime>,
    /// Time from the earliest start to the deadline. It is a duration and not a time, because the
    /// database's clock decides what the present time is.
    pub deadline_in: Duration,
    /// Whether the job may run on a fallback lane.
    pub fallback: bool,
    /// The requested model, if its successor replaces it.
    pub switched_from: Option<&'a str>,
    /// The failed job that this one repeats.
    pub redrive_of: Option<JobId>,
}

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
    // One statement reads the tenant's clock, advances it by the outputs and uses the result. The
    // real clock is the database's, so a wrong clock of an api process does not change the order of
    // jobs.
    let row = whole_jobs!(
        r#"-- job::insert
        WITH clock AS (
          UPDATE wallets SET turn = greatest(turn, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) + $15::bigint * $14::integer
          WHERE tenant_id = $2 RETURNING turn)
        INSERT INTO jobs (id, tenant_id, kind, model, name, metadata, request_id, max_calls, priority, turn, run_after, deadline,
                          price_version, unit_price, n_requested, hold_amount, fallback, switched_from, redrive_of, traceparent, created_at)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9::smallint, greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, clock.turn - $9::smallint * $16::bigint),
               greatest($10, now()), greatest($10, clock_timestamp()) + $11::interval, $12, $13, $14, $17, $18, $19, $20, $21, now() FROM clock
        RETURNING "#,
        "",
        job.id.0,
        job.tenant.0,
        job.generation.kind().as_str(),
        job.model,
        job.name,
        job.metadata,
        job.request_id,
        job.max_calls,
        job.priority,
        job.run_at,
        interval(job.deadline_in),
        job.quote.price_version,
        job.quote.unit_price.get(),
        outputs,
        MICROS_PER_OUTPUT,
        MICROS_PER_PRIORITY_STEP,
        job.hold.get(),
        job.fallback,
        job.switched_from,
        job.redrive_of.map(|old| old.0),
        job.traceparent.map(TraceParent::as_str),
    )
    .fetch_one(&mut *connection)
    .await?;
    // The request has its own table, because the prompt is personal data and is deleted earlier
    // than the job's row.
    sqlx::query!(
        "-- job::insert_request
        INSERT INTO job_requests (job_id, tenant_id, generation) VALUES ($1, $2, $3)",
        job.id.0,
        job.tenant.0,
        generation,
    )
    .execute(connection)
    .await?;
    row.job()
}

/// Reads one job of the tenant. Returns `None` if the tenant has no such job.
///
/// # Errors
/// Returns an error if the row has a value that this version does not know, or if Postgres fails.
pub async fn get(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Job>> {
    let row = whole_jobs!(
        "-- job::get
        SELECT ",
        " FROM jobs WHERE id = $1",
        id.0
    )
    .fetch_optional(connection)
    .await?;
    row.map(Row::job).transpose()
}

/// Reads one job of the tenant, and locks its row until the transaction ends. The caller must have
/// locked the wallet before, unless no credits move.
///
/// # Errors
/// Returns an error if the row has a value that this version does not know, or if Postgres fails.
pub async fn lock(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Job>> {
    let row = whole_jobs!(
        "-- job::lock
        SELECT ",
        " FROM jobs WHERE id = $1 FOR NO KEY UPDATE",
        id.0
    )
    .fetch_optional(connection)
    .await?;
    row.map(Row::job).transpose()
}

/// Reads the request of a job. Returns `None` if there is no such job, or if its prompt was deleted
/// at the end of its retention.
///
/// # Errors
/// Returns an error if this version does not know the stored request, or if Postgres fails.
pub async fn request(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Generation>> {
    let stored = sqlx::query_scalar!(
        "-- job::request\nSELECT generation FROM job_requests WHERE job_id = $1 AND generation ? 'prompt'",
        id.0
    )
    .fetch_optional(connection)
    .await?;
    stored
        .map(|value| {
            // The error contains only the kind, because the rest of the request holds the prompt,
            // which must not be logged.
            let kind = value["kind"].to_string();
            serde_json::from_value(value).map_err(|_| {
                RowId::new("job_requests", id).unknown("generation", format!("of kind {kind}"))
            })
        })
        .transpose()
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
/// them, and the query's parameters. The columns are those of [`Row`]. The query lists them instead
/// of `*`, because a prepared statement with `*` fails as soon as a migration adds a column.
macro_rules! whole_jobs {
    ($before:tt, $after:tt, $($arguments:tt)*) => {
        sqlx::query_as!(
            Row,
            $before
                + "id, tenant_id, kind, model, name, metadata, request_id, state, outcome, reason, fence, crash_count,
                   calls_started, max_calls, priority, turn, run_after, deadline, price_version, unit_price, hold_amount,
                   captured, released, refunded, n_requested, n_delivered, fallback, switched_from, redrive_of,
                   created_at, started_at, finished_at"
                + $after,
            $($arguments)*
        )
    };
}
pub use due::due;
pub use lease::{
    End, Requeue, claim, end, expired_leases, extend, jobs_past_deadline, lease_has_expired, renew,
    requeue,
};
pub use list::{Filter, Search, by_worker, count_ahead, ended, list, search};
use whole_jobs;

/// The columns of a [`Job`], with the types of the database.
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    kind: String,
    model: String,
    name: Option<String>,
    metadata: serde_json::Value,
    request_id: String,
    state: String,
    outcome: Option<String>,
    reason: Option<String>,
    fence: i32,
    crash_count: i32,
    calls_started: i32,
    max_calls: i32,
    priority: i16,
    turn: i64,
    run_after: OffsetDateTime,
    deadline: OffsetDateTime,
    price_version: String,
    unit_price: i64,
    hold_amount: i64,
    captured: i64,
    released: i64,
    refunded: i64,
    n_requested: i32,
    n_delivered: i32,
    fallback: bool,
    switched_from: Option<String>,
    redrive_of: Option<Uuid>,
    created_at: OffsetDateTime,
    started_at: Option<OffsetDateTime>,
    finished_at: Option<OffsetDateTime>,
}

impl Row {
    fn job(self) -> sqlx::Result<Job> {
        let id = JobId(self.id);
        let row = RowId::new("jobs", id);
        Ok(Job {
            id,
            tenant: TenantId(self.tenant_id),
            kind: row.known("kind", &self.kind, Kind::parse)?,
            model: self.model,
            name: self.name,
            metadata: self.metadata,
            request_id: self.request_id,
            state: row.known("state", &self.state, State::parse)?,
            outcome: self
                .outcome
                .map(|outcome| row.known("outcome", &outcome, Class::parse))
                .transpose()?,
            reason: self.reason,
            fence: self.fence,
            crash_count: self.crash_count,
            calls_started: self.calls_started,
            max_calls: self.max_calls,
            priority: self.priority,
            virtual_time: self.turn,
            run_after: self.run_after,
            deadline: self.deadline,
            cost: Cost {
                unit_price: row.convert("unit_price", self.unit_price)?,
                price_version: self.price_version,
                held: row.convert("hold_amount", self.hold_amount)?,
                captured: row.convert("captured", self.captured)?,
                released: row.convert("released", self.released)?,
                refunded: row.convert("refunded", self.refunded)?,
            },
            n_requested: self.n_requested,
            n_delivered: self.n_delivered,
            fallback: self.fallback,
            switched_from: self.switched_from,
            redrive_of: self.redrive_of.map(JobId),
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
        })
    }
}
