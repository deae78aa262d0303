//! SQL of jobs under a lease: claim, renew, requeue and end. Each write of a worker names the
//! fence.
//!
//! Statements that find a job by its id ask for its state by other columns: a running job has
//! `lease_until`, an ended one `finished_at`, and a queued one neither (rules
//! `leased_while_running` and `finished_when_terminal`). If they named `state`, the planner could
//! choose a partial index, such as the one of all running jobs, because few jobs were running when
//! it made the plan. While somebody keeps a snapshot open, such an index grows with every job.

use std::time::Duration;

use domain::generation::Generation;
use domain::id::{JobId, TenantId};
use domain::job::{Capacity, Claimed, DELIVERY_MARGIN};
use domain::outcome::Class;
use domain::traceparent::TraceParent;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::capacity::{CapacityColumns, with_capacity};
use super::{interval, parse_request};
use crate::database::row::RowId;
use crate::database::{GuardedWrite, one_row};

/// Claims a job for a worker: starts an attempt, and raises the fence by one. From then on, every
/// write of an older attempt fails.
///
/// The claim returns what a first attempt needs, so that it needs no second transaction.
///
/// Returns `None` if the job may not be started now: it is no longer queued, not due, past its
/// deadline or paused, its lanes are unavailable, or `capacity` does not name its model. A job of a
/// model that this worker does not offer is left to other workers. The ready queue is only a hint,
/// so this statement checks everything again, atomically.
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
) -> sqlx::Result<Option<Claim>> {
    let columns = CapacityColumns::of(capacity);
    // The request belongs to the job's tenant, which is not known before the job is claimed. So the
    // claim sets the tenant, and the request is read for the row that the claim returns.
    let row = with_capacity!(
        "-- job::claim
        WITH ",
        [r#",
        claimed AS (
        UPDATE jobs SET state = 'running', fence = fence + 1, worker = $8, claimed_at = clock_timestamp(),
               lease_until = clock_timestamp() + $9::interval, started_at = coalesce(started_at, clock_timestamp())
        WHERE id = $7 AND lease_until IS NULL AND finished_at IS NULL AND run_after <= clock_timestamp() AND deadline > clock_timestamp()
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
        RETURNING id, set_config('platen.tenant', tenant_id::text, true)::uuid AS tenant_id, fence, model, request_id, traceparent, n_requested,
                  fallback, calls_started, max_calls,
                  extract(epoch FROM clock_timestamp() - greatest(run_after, created_at))::float8 AS waited_seconds,
                  extract(epoch FROM deadline - clock_timestamp())::float8 AS seconds_left)
        SELECT tenant_id AS "tenant_id!", fence AS "fence!", model AS "model!", request_id AS "request_id!", traceparent, n_requested AS "n_requested!",
               fallback AS "fallback!", calls_started AS "calls_started!", max_calls AS "max_calls!", waited_seconds AS "waited_seconds!", seconds_left AS "seconds_left!",
               (SELECT generation FROM job_requests r WHERE r.job_id = claimed.id AND r.tenant_id = claimed.tenant_id AND generation ? 'prompt') AS "generation?"
        FROM claimed"#],
        columns,
        id as JobId,
        worker,
        interval(lease),
        interval(DELIVERY_MARGIN),
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Claim {
        // If the request cannot be parsed, this is `None`: `super::request` then returns the error.
        first_request: row
            .generation
            .filter(|_| row.fence == 1 && row.calls_started == 0)
            .and_then(|stored| parse_request(id, stored).ok()),
        claimed: Claimed {
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
        },
    }))
}

/// What a claim returns.
#[derive(Debug)]
pub struct Claim {
    /// The claimed job.
    pub claimed: Claimed,
    /// What to generate, if this is the first attempt. A first attempt has no earlier calls, so it
    /// needs to read nothing more. `None`: read it with [`super::request`].
    pub first_request: Option<Generation>,
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

/// Renews all leases of a worker, in one statement. `held` are its jobs and their fences. Each
/// lease then lasts for `lease` from now. Returns the jobs whose lease was renewed. The worker has
/// lost the other jobs and must stop working on them.
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
        WHERE jobs.id = mine.id AND jobs.fence = mine.fence AND jobs.lease_until IS NOT NULL
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
/// Looks only at jobs that were claimed at `claimed_since` or later; `None` looks at all. No index
/// contains the end of a lease, because it changes with each renewal. So all running jobs are read,
/// and there are no more of them than the workers have slots.
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
    claimed_since: Option<OffsetDateTime>,
) -> sqlx::Result<Vec<(JobId, TenantId)>> {
    let rows = sqlx::query!(
        "-- job::expired_leases
        SELECT id, tenant_id FROM jobs
        WHERE state = 'running' AND coalesce(claimed_at, '-infinity') >= coalesce($3, '-infinity'::timestamptz)
          AND lease_until < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - $1::interval
        ORDER BY lease_until LIMIT $2",
        interval(lease),
        limit,
        claimed_since,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), TenantId(row.tenant_id)))
        .collect())
}

/// A time for the next `claimed_since`: no running job was claimed before it. It is when the
/// running job that was claimed first was claimed, but at least [`super::COMMIT_MARGIN`] before
/// now, because a claim may be committed after this statement has looked. Looks only at jobs that
/// were claimed at `claimed_since` or later.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn running_since(
    pool: &PgPool,
    claimed_since: Option<OffsetDateTime>,
) -> sqlx::Result<OffsetDateTime> {
    sqlx::query_scalar!(
        r#"-- job::running_since
        SELECT least(now() - $2::interval, (
          SELECT min(claimed_at) FROM jobs
          WHERE state = 'running' AND coalesce(claimed_at, '-infinity') >= coalesce($1, '-infinity'::timestamptz))) AS "since!""#,
        claimed_since,
        interval(super::COMMIT_MARGIN),
    )
    .fetch_one(pool)
    .await
}

/// Finds open jobs whose deadline has passed, the earliest first, at most `limit`. The SQL compares
/// with `now()` and not `clock_timestamp()`, because only then Postgres uses the index.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn jobs_past_deadline(pool: &PgPool, limit: i64) -> sqlx::Result<Vec<(JobId, TenantId)>> {
    let rows = sqlx::query!(
        "-- job::jobs_past_deadline
        SELECT id, tenant_id FROM jobs WHERE state IN ('queued', 'running') AND deadline < now() ORDER BY deadline LIMIT $1",
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), TenantId(row.tenant_id)))
        .collect())
}

/// Moves the deadline of a locked, open job to now plus `more`. The deadline of a job is moved only
/// once. Returns `false` and changes nothing if it was moved before.
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

/// Whether the deadline of a locked job has passed, on the database's clock.
///
/// # Errors
/// Returns an error if there is no such job, or if Postgres fails.
pub async fn deadline_has_passed(connection: &mut PgConnection, id: JobId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- job::deadline_has_passed
        SELECT deadline < clock_timestamp() AS "passed!" FROM jobs WHERE id = $1"#,
        id as JobId
    )
    .fetch_one(connection)
    .await
}

/// Whether the lease of a locked job has expired, on the database's clock. `false` if the job has
/// no lease.
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
               stocked = EXISTS (SELECT FROM calls WHERE job_id = $1 AND bytes IS NOT NULL)
        WHERE id = $1 AND fence = $2 AND lease_until IS NOT NULL",
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
