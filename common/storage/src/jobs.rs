//! SQL of jobs.
//!
//! Functions that take a `PgPool` see the jobs of every tenant. Each of them is one statement in
//! its own transaction. Functions that take a connection run in the caller's transaction and see
//! only the jobs of its tenant. New jobs are written by [`crate::admissions`].
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

use crate::database::row::RowId;
use domain::generation::Generation;
use domain::id::{JobId, TenantId};
use domain::job::{Cost, Job, JobAttributes};

/// Longest time that is expected from the moment at which a statement reads the database's clock to
/// the commit that makes its rows visible. Postgres ends a statement after 5 seconds, and an idle
/// transaction after 10 ([`crate::database::connect`]).
pub const COMMIT_MARGIN: Duration = Duration::from_secs(15);

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

/// Locks jobs in the order of their ids until the transaction ends, and reads them. Jobs that do
/// not exist, or belong to other tenants, are left out.
///
/// # Errors
/// Returns an error if a lock is not free within 2 seconds, if a row has a value that this version
/// does not know, or if Postgres fails.
pub async fn lock(connection: &mut PgConnection, jobs: &[JobId]) -> sqlx::Result<Vec<Job>> {
    whole_jobs!(
        "-- job::lock
        SELECT ",
        " FROM jobs WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE",
        jobs as &[JobId]
    )
    .fetch_all(connection)
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
    // The error contains only the kind, because the rest of the request holds the prompt, which
    // must not be logged.
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
    Claim, Requeue, claim, deadline_has_passed, expired_leases, extend, jobs_past_deadline,
    lease_has_expired, renew, requeue, running_since,
};
pub use list::{Filter, Search, by_worker, count_ahead, ended, list, search};
use whole_jobs;
