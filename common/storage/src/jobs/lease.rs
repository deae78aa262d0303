//! SQL of jobs under a lease: claim, renew, requeue and end. Each write of a worker names the
//! fence.

use std::time::Duration;

use domain::credits::Credits;
use domain::id::{JobId, TenantId};
use domain::job::{Capacity, Claimed, DELIVERY_MARGIN, State};
use domain::outcome::Class;
use domain::traceparent::TraceParent;
use sqlx::{PgConnection, PgPool};

use super::capacity::{CapacityColumns, with_capacity};
use super::interval;
use crate::database::row::RowId;
use crate::database::{GuardedWrite, one_row};

/// Claims a job for a worker: starts an attempt, and raises the fence by one. From then on, every
/// write of an older attempt fails.
///
/// Returns `None` if the job may not be started now: it is no longer queued, not due, past its
/// deadline or paused, its lanes are unavailable, or `capacity` does not name its model. Another
/// worker may run a model that this worker does not offer. The ready queue is only a hint, so this
/// statement checks everything again, atomically.
///
/// Two kinds of jobs need no capacity, because they begin no new call: a job that a provider is
/// still working on (column `operating`), and a job that has an image to deliver (column `stocked`)
/// and whose deadline is near ([`DELIVERY_MARGIN`]).
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn claim(
    pool: &PgPool,
    id: JobId,
    worker: &str,
    lease: Duration,
    capacity: &Capacity,
) -> sqlx::Result<Option<Claimed>> {
    let columns = CapacityColumns::of(capacity);
    let row = with_capacity!(
        "-- job::claim
        WITH ",
        [r#"
        UPDATE jobs SET state = 'running', fence = fence + 1, worker = $8,
               lease_until = clock_timestamp() + $9::interval, started_at = coalesce(started_at, clock_timestamp())
        WHERE id = $7 AND state = 'queued' AND run_after <= clock_timestamp() AND deadline > clock_timestamp()
          AND EXISTS (
            SELECT FROM open
            WHERE open.model = jobs.model
              AND (operating OR (stocked AND deadline < clock_timestamp() + $10::interval)
                   OR CASE WHEN fallback THEN anywhere ELSE at_home END > 0
                      AND NOT EXISTS (
                        SELECT FROM shut
                        WHERE (shut.model IS NULL OR shut.model = jobs.model) AND (everywhere OR NOT fallback)
                          AND (shut.tenant IS NULL OR shut.tenant = left(encode(sha256(uuid_send(jobs.tenant_id)), 'hex'), 16)))))
          AND NOT EXISTS (
            SELECT FROM pauses p WHERE p.lifted_at IS NULL AND (p.model IS NULL OR p.model = jobs.model)
              AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id) AND (p.worker IS NULL OR p.worker = $8))
        RETURNING tenant_id, fence, model, request_id, traceparent, n_requested, fallback, calls_started, max_calls,
                  extract(epoch FROM clock_timestamp() - greatest(run_after, created_at))::float8 AS "waited_seconds!",
                  extract(epoch FROM deadline - clock_timestamp())::float8 AS "seconds_left!""#],
        columns,
        id as JobId,
        worker,
        interval(lease),
        interval(DELIVERY_MARGIN),
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Claimed {
        id,
        tenant: TenantId(row.tenant_id),
        fence: row.fence,
        model: row.model,
        request_id: row.request_id,
        traceparent: row
            .traceparent
            .and_then(|text| parse_traceparent(id, &text)),
        n_requested: row.n_requested,
        fallback: row.fallback,
        calls_made: row.calls_started,
        calls_left: row.max_calls.saturating_sub(row.calls_started),
        waited_seconds: row.waited_seconds,
        seconds_left: row.seconds_left,
    }))
}

/// Parses a stored `traceparent`. An invalid value is logged and ignored, because the job is
/// already claimed, and a lost trace is no reason to fail it.
pub(super) fn parse_traceparent(id: JobId, text: &str) -> Option<TraceParent> {
    RowId::new("jobs", id)
        .parse("traceparent", text)
        .inspect_err(
            |error| tracing::error!(%error, "The stored traceparent is invalid: the job is not linked to its client's trace"),
        )
        .ok()
}

/// Renews all leases of a worker, in one statement. `held` are its jobs and their fences. Returns
/// the jobs whose lease was renewed. The worker has lost the other jobs and must stop working on
/// them.
///
/// A lease that has expired but was not reaped yet is renewed, too, because no other worker has the
/// job.
///
/// # Errors
/// Returns an error if Postgres fails. The leases then stay until they expire.
pub async fn renew(
    pool: &PgPool,
    held: &[(JobId, i32)],
    lease: Duration,
) -> sqlx::Result<Vec<JobId>> {
    let (ids, fences): (Vec<JobId>, Vec<i32>) = held.iter().copied().unzip();
    // The pairs of id and fence are two arrays, so one prepared statement serves any number of
    // jobs.
    let renewed = sqlx::query_scalar!(
        "-- job::renew
        UPDATE jobs SET lease_until = clock_timestamp() + $3::interval
        FROM unnest($1::uuid[], $2::integer[]) AS mine(id, fence)
        WHERE jobs.id = mine.id AND jobs.fence = mine.fence AND jobs.state = 'running'
        RETURNING jobs.id",
        &ids as &[JobId],
        &fences,
        interval(lease),
    )
    .fetch_all(pool)
    .await?;
    Ok(renewed.into_iter().map(JobId).collect())
}

/// Finds running jobs whose lease has expired, the earliest first, at most `limit`.
///
/// Returns no job until Postgres has been running for the time of one `lease`. While Postgres was
/// down, no worker could renew its leases, so an expired lease does not show that its worker has
/// died.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn expired_leases(
    pool: &PgPool,
    lease: Duration,
    limit: i64,
) -> sqlx::Result<Vec<(JobId, TenantId)>> {
    let rows = sqlx::query!(
        "-- job::expired_leases
        SELECT id, tenant_id FROM jobs
        WHERE state = 'running' AND lease_until < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - $1::interval
        ORDER BY lease_until LIMIT $2",
        interval(lease),
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), TenantId(row.tenant_id)))
        .collect())
}

/// Finds open jobs whose deadline has passed, the earliest first, at most `limit`.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn jobs_past_deadline(pool: &PgPool, limit: i64) -> sqlx::Result<Vec<(JobId, TenantId)>> {
    let rows = sqlx::query!(
        "-- job::jobs_past_deadline
        SELECT id, tenant_id FROM jobs WHERE state IN ('queued', 'running') AND deadline < clock_timestamp() ORDER BY deadline LIMIT $1",
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), TenantId(row.tenant_id)))
        .collect())
}

/// Moves the deadline of a locked, open job to `more` from now. This happens only once for each
/// job. Returns `false` if it has happened before.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn extend(
    connection: &mut PgConnection,
    id: JobId,
    more: Duration,
) -> sqlx::Result<bool> {
    // The time counts from now and not from the old deadline, because the task that finds the job
    // may run late.
    let extended = sqlx::query!(
        "-- job::extend
        UPDATE jobs SET deadline = clock_timestamp() + $2::interval, extended = true WHERE id = $1 AND NOT extended",
        id as JobId,
        interval(more),
    )
    .execute(connection)
    .await?;
    Ok(extended.rows_affected() == 1)
}

/// Whether the lease of a locked job has expired, on the database's clock.
///
/// # Errors
/// Returns an error if there is no such job, or if Postgres fails.
pub async fn lease_has_expired(connection: &mut PgConnection, id: JobId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- job::lease_has_expired
        SELECT coalesce(lease_until < clock_timestamp(), false) AS "out!" FROM jobs WHERE id = $1"#,
        id as JobId
    )
    .fetch_one(connection)
    .await
}

/// How a running job goes back to the queue.
#[derive(Debug)]
pub struct Requeue<'a> {
    /// The job.
    pub id: JobId,
    /// Number of the attempt that gives the job back, or whose lease expired.
    pub fence: i32,
    /// Time until the next attempt.
    pub delay: Duration,
    /// Whether the job's lease expired. An expired lease counts towards the limit on crashes.
    pub crashed: bool,
    /// The attempt's outcome: its class, and the message for the customer. `None` keeps the
    /// previous outcome.
    pub outcome: Option<(Class, &'a str)>,
}

/// Puts a running job back into the queue. It changes nothing if the attempt does not hold the job
/// any more.
///
/// The fence stays as it is, and the next claim raises it. The columns `operating` and `stocked`
/// are computed from the calls here, because dispatcher and [`claim`] read only the job's row.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn requeue(
    connection: &mut PgConnection,
    job: &Requeue<'_>,
) -> sqlx::Result<GuardedWrite> {
    // `coalesce` keeps the outcome of an earlier attempt if this one has none: the tenant then
    // still sees why its job is late.
    let result = sqlx::query!(
        "-- job::requeue
        UPDATE jobs SET state = 'queued', lease_until = NULL, run_after = clock_timestamp() + $3::interval,
               crash_count = crash_count + $4, outcome = coalesce($5, outcome), reason = coalesce($6, reason),
               operating = EXISTS (SELECT FROM calls WHERE job_id = $1 AND ended_at IS NULL AND operation IS NOT NULL),
               stocked = EXISTS (SELECT FROM calls WHERE job_id = $1 AND object_key IS NOT NULL)
        WHERE id = $1 AND fence = $2 AND state = 'running'",
        job.id as JobId,
        job.fence,
        interval(job.delay),
        i32::from(job.crashed),
        job.outcome.map(|(class, _)| class.as_str()),
        job.outcome.map(|(_, reason)| reason),
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}

/// How a job ends.
#[derive(Debug)]
pub struct End<'a> {
    /// The job.
    pub id: JobId,
    /// The final state of the job.
    pub state: State,
    /// Class of the outcome.
    pub outcome: Class,
    /// The message for the customer: why the job ended, and what was charged.
    pub reason: &'a str,
    /// Delivered outputs.
    pub delivered: i32,
    /// Credits charged.
    pub captured: Credits,
    /// Credits given back.
    pub released: Credits,
}

/// Ends an open, locked job. It changes nothing if the job is not open. `one_full_settlement` in
/// the database rejects an end whose captured and released credits are not the hold.
///
/// # Errors
/// Postgres fails.
pub async fn end(connection: &mut PgConnection, job: &End<'_>) -> sqlx::Result<GuardedWrite> {
    let result = sqlx::query!(
        "-- job::end
        UPDATE jobs SET state = $2, outcome = $3, reason = $4, n_delivered = $5, captured = $6, released = $7,
               crash_count = crash_count + $8, lease_until = NULL, finished_at = clock_timestamp()
        WHERE id = $1 AND state IN ('queued', 'running')",
        job.id as JobId,
        job.state.as_str(),
        job.outcome.as_str(),
        job.reason,
        job.delivered,
        job.captured.get(),
        job.released.get(),
        // A poison job ends with an expired lease, which no requeue has counted.
        i32::from(job.outcome == Class::Poison),
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}
