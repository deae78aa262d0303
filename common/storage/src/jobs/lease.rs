//! A job under a lease: claimed, renewed, put back, ended. Each write names the fence.

use std::time::Duration;

use domain::credits::Credits;
use domain::id::{JobId, TenantId};
use domain::job::{Capacity, Claimed, DELIVERY_MARGIN, State};
use domain::outcome::Class;
use domain::traceparent::TraceParent;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::interval;
use crate::database::row::RowId;
use crate::database::{UnexpectedRowCount, one_row};

/// Claims a job for a worker: starts an attempt, and raises the fence by one. Every later write of
/// an older attempt then fails.
///
/// `None` if the job may not be started now: it is not queued any more, not due, expired or paused,
/// its lanes are unavailable, or `capacity` does not name its model, which another worker then
/// runs. The ready queue is only a hint, so this statement checks everything again, atomically.
///
/// Two kinds of jobs need no capacity, because they begin no new call: one that a provider is still
/// working on (`operating`), and one that has an image to deliver (`stocked`) and whose deadline is
/// near ([`DELIVERY_MARGIN`]).
///
/// # Errors
/// Postgres fails.
pub async fn claim(
    pool: &PgPool,
    id: JobId,
    worker: &str,
    lease: Duration,
    capacity: &Capacity,
) -> sqlx::Result<Option<Claimed>> {
    let columns = capacity.columns();
    let row = sqlx::query!(
        r#"-- job::claim
        UPDATE jobs SET state = 'running', fence = fence + 1, worker = $2,
               lease_until = clock_timestamp() + $3::interval, started_at = coalesce(started_at, clock_timestamp())
        WHERE id = $1 AND state = 'queued' AND run_after <= clock_timestamp() AND deadline > clock_timestamp()
          AND EXISTS (
            SELECT FROM unnest($4::text[], $5::bigint[], $6::bigint[]) AS open(model, anywhere, at_home)
            WHERE open.model = jobs.model
              AND (operating OR (stocked AND deadline < clock_timestamp() + $7::interval)
                   OR CASE WHEN fallback THEN anywhere ELSE at_home END > 0
                      AND NOT EXISTS (
                        SELECT FROM unnest($8::text[], $9::text[], $10::boolean[]) AS shut(model, tenant, everywhere)
                        WHERE (shut.model IS NULL OR shut.model = jobs.model) AND (everywhere OR NOT fallback)
                          AND (shut.tenant IS NULL OR shut.tenant = left(encode(sha256(uuid_send(jobs.tenant_id)), 'hex'), 16)))))
          AND NOT EXISTS (
            SELECT FROM pauses p WHERE p.lifted_at IS NULL AND (p.model IS NULL OR p.model = jobs.model)
              AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id) AND (p.worker IS NULL OR p.worker = $2))
        RETURNING tenant_id, fence, model, request_id, traceparent, n_requested, fallback, calls_started, max_calls,
                  extract(epoch FROM clock_timestamp() - greatest(run_after, created_at))::float8 AS "waited_seconds!",
                  extract(epoch FROM deadline - clock_timestamp())::float8 AS "seconds_left!""#,
        id.0,
        worker,
        interval(lease),
        &columns.models,
        &columns.with_fallback,
        &columns.primary_only,
        interval(DELIVERY_MARGIN),
        &columns.excluded_models as &[Option<String>],
        &columns.excluded_tenants as &[Option<String>],
        &columns.excluded_everywhere,
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

/// Parses a stored `traceparent`. An invalid one is logged and ignored: the job is already claimed,
/// and a lost trace is no reason to fail it.
pub(super) fn parse_traceparent(id: JobId, text: &str) -> Option<TraceParent> {
    RowId::new("jobs", id)
        .known("traceparent", text, |text| text.parse().ok())
        .inspect_err(
            |error| tracing::error!(%error, "The stored traceparent is invalid: the job is not linked to its client's trace"),
        )
        .ok()
}

/// Renews all leases of a worker, in one statement. `held` are its jobs and their fences. Returns
/// the jobs whose lease was renewed; the worker has lost the others and must stop working on them.
///
/// A lease that has expired but was not reaped yet is renewed too: nobody else has the job.
///
/// # Errors
/// Postgres fails. The leases then stay until they expire.
pub async fn renew(
    pool: &PgPool,
    held: &[(JobId, i32)],
    lease: Duration,
) -> sqlx::Result<Vec<JobId>> {
    let (ids, fences): (Vec<Uuid>, Vec<i32>) =
        held.iter().map(|&(id, fence)| (id.0, fence)).unzip();
    // The pairs of id and fence are two arrays, so one prepared statement serves any number of
    // jobs.
    let renewed = sqlx::query_scalar!(
        "-- job::renew
        UPDATE jobs SET lease_until = clock_timestamp() + $3::interval
        FROM unnest($1::uuid[], $2::integer[]) AS mine(id, fence)
        WHERE jobs.id = mine.id AND jobs.fence = mine.fence AND jobs.state = 'running'
        RETURNING jobs.id",
        &ids,
        &fences,
        interval(lease),
    )
    .fetch_all(pool)
    .await?;
    Ok(renewed.into_iter().map(JobId).collect())
}

/// Running jobs whose lease has expired, the earliest first, at most `limit`.
///
/// Returns none until Postgres has been up for the time of one `lease`: while it was down, no
/// worker could renew, and their leases say nothing about whether they live.
///
/// # Errors
/// Postgres fails.
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

/// Open jobs whose deadline has passed, the earliest first, at most `limit`.
///
/// # Errors
/// Postgres fails.
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

/// Moves the deadline of a locked, open job to `more` from now. This happens once in a job's life;
/// returns `false` if it has happened before.
///
/// # Errors
/// Postgres fails.
pub async fn extend(
    connection: &mut PgConnection,
    id: JobId,
    more: Duration,
) -> sqlx::Result<bool> {
    // From now on and not from the old deadline: the task that finds it may run late.
    let extended = sqlx::query!(
        "-- job::extend
        UPDATE jobs SET deadline = clock_timestamp() + $2::interval, extended = true WHERE id = $1 AND NOT extended",
        id.0,
        interval(more),
    )
    .execute(connection)
    .await?;
    Ok(extended.rows_affected() == 1)
}

/// Whether the lease of a locked job has expired, on the database's clock.
///
/// # Errors
/// There is no such job, or Postgres fails.
pub async fn lease_has_run_out(connection: &mut PgConnection, id: JobId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- job::lease_has_run_out
        SELECT coalesce(lease_until < clock_timestamp(), false) AS "out!" FROM jobs WHERE id = $1"#,
        id.0
    )
    .fetch_one(connection)
    .await
}

/// How a running job goes back to the queue.
#[derive(Debug)]
pub struct Requeue<'a> {
    /// The job.
    pub id: JobId,
    /// Number of the attempt that gives it back, or whose lease expired.
    pub fence: i32,
    /// Time until the next attempt.
    pub delay: Duration,
    /// Whether its lease expired. That counts towards the limit on crashes.
    pub crashed: bool,
    /// Class and plain words of the attempt's outcome. `None` keeps the previous one.
    pub outcome: Option<(Class, &'a str)>,
}

/// Puts a running job back into the queue. The inner error says that the attempt does not hold the
/// job any more.
///
/// The fence stays: the next claim raises it. `operating` and `stocked` are computed from the calls
/// here, because the dispatcher must decide on the job's row alone ([`claim`]).
///
/// # Errors
/// Postgres fails.
pub async fn requeue(
    connection: &mut PgConnection,
    job: &Requeue<'_>,
) -> sqlx::Result<Result<(), UnexpectedRowCount>> {
    // `coalesce` keeps the outcome of an earlier attempt if this one has none: the tenant then
    // still sees why its job is late.
    let result = sqlx::query!(
        "-- job::requeue
        UPDATE jobs SET state = 'queued', lease_until = NULL, run_after = clock_timestamp() + $3::interval,
               crash_count = crash_count + $4, outcome = coalesce($5, outcome), reason = coalesce($6, reason),
               operating = EXISTS (SELECT FROM calls WHERE job_id = $1 AND ended_at IS NULL AND operation IS NOT NULL),
               stocked = EXISTS (SELECT FROM calls WHERE job_id = $1 AND object_key IS NOT NULL)
        WHERE id = $1 AND fence = $2 AND state = 'running'",
        job.id.0,
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
    /// Its final state.
    pub state: State,
    /// Class of its outcome.
    pub outcome: Class,
    /// The outcome in plain words, with what was charged.
    pub reason: &'a str,
    /// Delivered outputs.
    pub delivered: i32,
    /// Credits charged.
    pub captured: Credits,
    /// Credits given back.
    pub released: Credits,
}

/// Ends an open, locked job. The inner error says that it was not open. `one_full_settlement` in
/// the database rejects an end whose captured and released credits are not the hold.
///
/// # Errors
/// Postgres fails.
pub async fn end(
    connection: &mut PgConnection,
    job: &End<'_>,
) -> sqlx::Result<Result<(), UnexpectedRowCount>> {
    let result = sqlx::query!(
        "-- job::end
        UPDATE jobs SET state = $2, outcome = $3, reason = $4, n_delivered = $5, captured = $6, released = $7,
               crash_count = crash_count + $8, lease_until = NULL, finished_at = clock_timestamp()
        WHERE id = $1 AND state IN ('queued', 'running')",
        job.id.0,
        job.state.as_str(),
        job.outcome.as_str(),
        job.reason,
        job.delivered,
        job.captured.get(),
        job.released.get(),
        // The lease that expired last was not counted by a requeue.
        i32::from(job.outcome == Class::Poison),
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}
