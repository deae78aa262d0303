//! SQL of jobs.
//!
//! Functions that take a `PgPool` see the jobs of every tenant; each is one statement and its own
//! transaction. Functions that take a connection run in the caller's transaction and see the jobs
//! of its tenant only.
//!
//! Times are compared on the database's clock, with `clock_timestamp()` and not `now()`: `now()` is
//! the start of the transaction, and the transaction may have waited for a lock since.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::row::RowId;
use crate::database::{NotOneRow, one_row};
use domain::credits::{Credits, Quote};
use domain::generation::{Generation, Kind};
use domain::id::{JobId, TenantId};
use domain::job::{Capacity, Claimed, Cost, DELIVERY_MARGIN, Job, State};
use domain::outcome::Class;
use domain::traceparent::TraceParent;

/// A job, as admission writes it. The fields are those of [`Job`].
#[derive(Debug)]
pub struct NewJob<'a> {
    /// The job.
    pub id: JobId,
    /// The tenant that owns and pays for it.
    pub tenant: TenantId,
    /// Catalogue id of the model.
    pub model: &'a str,
    /// The tenant's own name for it.
    pub name: Option<&'a str>,
    /// The tenant's own data.
    pub metadata: &'a serde_json::Value,
    /// The HTTP request that submits it.
    pub request_id: &'a str,
    /// The client's trace that it belongs to.
    pub traceparent: Option<&'a TraceParent>,
    /// What to generate.
    pub generation: &'a Generation,
    /// The price.
    pub quote: &'a Quote,
    /// Credits to hold: the price of all requested outputs.
    pub hold: Credits,
    /// Most paid calls that it may make.
    pub max_calls: i32,
    /// Priority among the tenant's own jobs.
    pub priority: i16,
    /// Earliest start. `None`: now.
    pub run_at: Option<OffsetDateTime>,
    /// Time from the earliest start to the deadline. It is a duration and not a time, because "now"
    /// is the database's.
    pub deadline_in: Duration,
    /// Whether it may run on a fallback lane.
    pub fallback: bool,
    /// The requested model, if its successor replaces it.
    pub switched_from: Option<&'a str>,
    /// The failed job that this one repeats.
    pub redrive_of: Option<JobId>,
}

/// Microseconds by which one output advances its tenant's virtual clock. A tenant that submits more
/// than one output in this time gets behind the tenants that do not.
const MICROS_PER_OUTPUT: i64 = 100_000;
/// Microseconds by which one step of priority moves a job within its tenant's own queue.
const MICROS_PER_PRIORITY_STEP: i64 = 10_000_000;

/// Writes the job and its request, and returns the job. The caller holds the wallet's lock.
///
/// The job's virtual time (the column `turn`) comes from the tenant's virtual clock on its wallet,
/// which never runs behind the real clock. So a job of a quiet tenant runs before the backlog of a
/// busy one. A high priority moves the job forward, but at most to the real time: it never gets
/// before a job that another tenant submitted earlier.
///
/// # Errors
/// A value does not fit its column, or Postgres fails.
///
/// # Panics
/// The generation cannot be written as JSON, which is a mistake in its type.
pub async fn insert(connection: &mut PgConnection, job: &NewJob<'_>) -> sqlx::Result<Job> {
    let generation = serde_json::to_value(job.generation).expect("a generation is JSON");
    let row_id = RowId::new("jobs", job.id);
    let outputs: i32 = row_id.fits("n_requested", job.quote.outputs)?;
    // One statement reads the tenant's clock, advances it by the outputs and uses the result. Both
    // clocks are the database's, so a wrong clock of an api does not change the order of jobs.
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
    // In a table of its own: the prompt is personal and is deleted earlier than the job's row.
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

/// One job of the tenant. `None` if there is none.
///
/// # Errors
/// The row has a value that this version does not know, or Postgres fails.
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

/// One job of the tenant, with its row locked until the transaction ends. Lock the wallet before,
/// unless no credits move.
///
/// # Errors
/// As [`get`].
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

/// Which of a tenant's jobs to list. `None` matches every job.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Jobs in this state.
    pub state: Option<State>,
    /// Jobs of this model.
    pub model: Option<String>,
    /// Jobs whose name contains this text, in upper or lower case.
    pub name: Option<String>,
    /// Jobs older than this one: where the previous page ended.
    pub after: Option<JobId>,
}

/// A tenant's jobs that match the filter, newest first, at most `limit`.
///
/// # Errors
/// As [`get`].
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &Filter,
    limit: i64,
) -> sqlx::Result<Vec<Job>> {
    let rows = whole_jobs!(
        "-- job::list
        SELECT ",
        " FROM jobs
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR model = $4)
          AND ($5::text IS NULL OR position(lower($5) IN lower(name)) > 0)
        ORDER BY id DESC LIMIT $6",
        tenant.0,
        filter.after.map(|id| id.0),
        filter.state.map(State::as_str),
        filter.model,
        filter.name,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::job).collect()
}

/// Which jobs of all tenants to find. A job must match every field; `None` matches every job.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Jobs with one of these ids.
    pub ids: Option<Vec<JobId>>,
    /// Jobs of this tenant.
    pub tenant: Option<TenantId>,
    /// Jobs of this model.
    pub model: Option<String>,
    /// Jobs in one of these states. An empty list matches every state.
    pub states: Vec<State>,
    /// Jobs with this class of outcome.
    pub outcome: Option<Class>,
    /// Jobs submitted at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Jobs submitted before this time.
    pub before: Option<OffsetDateTime>,
    /// Jobs older than this one: where the previous page ended.
    pub after: Option<JobId>,
}

/// Jobs of all tenants that match the search, newest first, at most `limit`. `pool` must be allowed
/// to read every tenant's rows.
///
/// # Errors
/// As [`get`].
pub async fn search(pool: &PgPool, search: &Search, limit: i64) -> sqlx::Result<Vec<Job>> {
    let ids: Option<Vec<Uuid>> = search
        .ids
        .as_ref()
        .map(|ids| ids.iter().map(|id| id.0).collect());
    let states: Vec<String> = search
        .states
        .iter()
        .map(|state| state.as_str().to_owned())
        .collect();
    let rows = whole_jobs!(
        "-- job::search
        SELECT ",
        " FROM jobs
        WHERE ($1::uuid[] IS NULL OR id = ANY($1)) AND ($2::uuid IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR model = $3)
          AND (cardinality($4::text[]) = 0 OR state = ANY($4)) AND ($5::text IS NULL OR outcome = $5)
          AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7) AND ($8::uuid IS NULL OR id < $8)
        ORDER BY id DESC LIMIT $9",
        ids.as_deref(),
        search.tenant.map(|tenant| tenant.0),
        search.model,
        &states,
        search.outcome.map(Class::as_str),
        search.since,
        search.before,
        search.after.map(|id| id.0),
        limit,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(Row::job).collect()
}

/// How many jobs each worker is running.
///
/// # Errors
/// Postgres fails.
pub async fn by_worker(pool: &PgPool) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"-- job::by_worker
        SELECT worker AS "worker!", count(*) AS "jobs!" FROM jobs WHERE state = 'running' AND worker IS NOT NULL GROUP BY worker"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.worker, row.jobs)).collect())
}

/// Which of these jobs have ended, of any tenant.
///
/// # Errors
/// Postgres fails.
pub async fn ended(pool: &PgPool, ids: &[JobId]) -> sqlx::Result<Vec<JobId>> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    sqlx::query_scalar!(
        r#"-- job::ended
        SELECT id AS "id: JobId" FROM jobs WHERE id = ANY($1) AND finished_at IS NOT NULL"#,
        &ids
    )
    .fetch_all(pool)
    .await
}

/// How many of the tenant's own queued jobs run before this one.
///
/// # Errors
/// Postgres fails.
pub async fn count_ahead(connection: &mut PgConnection, job: &Job) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- job::ahead
        SELECT count(*) AS "ahead!" FROM jobs WHERE state = 'queued' AND tenant_id = $1 AND (turn, id) < ($2, $3)"#,
        job.tenant.0,
        job.virtual_time,
        job.id.0
    )
    .fetch_one(connection)
    .await
}

/// The request of a job. `None` if there is no such job, or if its prompt was deleted because its
/// retention was over.
///
/// # Errors
/// This version does not know the stored request, or Postgres fails.
pub async fn request(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Generation>> {
    let stored = sqlx::query_scalar!(
        "-- job::request\nSELECT generation FROM job_requests WHERE job_id = $1 AND generation ? 'prompt'",
        id.0
    )
    .fetch_optional(connection)
    .await?;
    stored
        .map(|value| {
            // Only the kind goes into the error: the rest holds the prompt, which must not be
            // logged.
            let kind = value["kind"].to_string();
            serde_json::from_value(value).map_err(|_| {
                RowId::new("job_requests", id).unknown("generation", format!("of kind {kind}"))
            })
        })
        .transpose()
}

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
fn parse_traceparent(id: JobId, text: &str) -> Option<TraceParent> {
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

/// The next jobs for the ready queue and their virtual times, in order of virtual time, at most
/// `limit`.
///
/// Of each model it returns no more jobs than its lanes have capacity for, so the backlog of one
/// model cannot hide the jobs of another. As in [`claim`], a job that a provider is still working
/// on needs no capacity, nor does one that has an image to deliver and whose deadline is near. Jobs
/// of models that `capacity` does not name are left to other workers.
///
/// # Errors
/// Postgres fails.
pub async fn due(
    pool: &PgPool,
    limit: i64,
    capacity: &Capacity,
) -> sqlx::Result<Vec<(JobId, i64)>> {
    if capacity.has_exclusions() {
        return due_by_tenant(pool, limit, capacity).await;
    }
    // `roomy`: for each model, the first jobs by `turn`, through an index and a LIMIT of its own.
    // Its cost grows with the number of models and not with the backlog. `in_the_making`: jobs that
    // need no capacity; a partial index holds only those.
    let columns = capacity.columns();
    let rows = sqlx::query!(
        r#"-- job::due
        WITH open AS (
          SELECT model, anywhere, at_home FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS open(model, anywhere, at_home)),
        paused AS (SELECT model, tenant_id FROM pauses WHERE lifted_at IS NULL AND worker IS NULL),
        roomy AS (
          SELECT jobs.id, jobs.turn FROM open, LATERAL (
            SELECT id, turn FROM jobs
            WHERE state = 'queued' AND model = open.model AND run_after <= clock_timestamp() AND deadline > clock_timestamp()
              AND (fallback OR at_home > 0) AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = jobs.model) AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id))
            ORDER BY turn, id LIMIT least($1, anywhere)) jobs),
        in_the_making AS (
          SELECT id, turn FROM jobs
          WHERE state = 'queued' AND (operating OR stocked) AND (operating OR deadline < clock_timestamp() + $5::interval)
            AND run_after <= clock_timestamp() AND deadline > clock_timestamp() AND model IN (SELECT model FROM open)
            AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = jobs.model) AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id))
          ORDER BY turn, id LIMIT $1)
        SELECT id AS "id!", turn AS "turn!" FROM roomy UNION SELECT id, turn FROM in_the_making ORDER BY 2, 1 LIMIT $1"#,
        limit,
        &columns.models,
        &columns.with_fallback,
        &columns.primary_only,
        interval(DELIVERY_MARGIN),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), row.turn))
        .collect())
}

/// Does the same as [`due`] if there are exclusions. It reads the next jobs of each tenant
/// separately. Otherwise it would have to read the whole backlog of an excluded tenant to find the
/// jobs behind it.
///
/// How the statement works:
/// - `waiting` lists the tenants with queued jobs of each model. It is a loose index scan: the
///   recursion jumps from one tenant to the next, so it reads one row for each tenant and not one
///   for each job.
/// - `welcome` drops the excluded and the paused tenants. A tenant that is excluded only from the
///   model's first lane keeps the jobs that may use a fallback.
/// - `next` reads the first jobs of each of these tenants and numbers them within the model.
/// - `in_the_making` is as in [`due`].
async fn due_by_tenant(
    pool: &PgPool,
    limit: i64,
    capacity: &Capacity,
) -> sqlx::Result<Vec<(JobId, i64)>> {
    let columns = capacity.columns();
    let rows = sqlx::query!(
        r#"-- job::due_by_tenant
        WITH RECURSIVE open AS (
          SELECT model, anywhere, at_home FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS open(model, anywhere, at_home)),
        shut AS (
          SELECT model, tenant, everywhere FROM unnest($6::text[], $7::text[], $8::boolean[]) AS shut(model, tenant, everywhere)),
        paused AS (SELECT model, tenant_id FROM pauses WHERE lifted_at IS NULL AND worker IS NULL),
        waiting AS (
          SELECT model, anywhere, at_home, (
            SELECT tenant_id FROM jobs WHERE state = 'queued' AND jobs.model = open.model ORDER BY tenant_id LIMIT 1) AS tenant_id
          FROM open WHERE anywhere > 0
          UNION ALL
          SELECT model, anywhere, at_home, (
            SELECT tenant_id FROM jobs WHERE state = 'queued' AND jobs.model = waiting.model AND jobs.tenant_id > waiting.tenant_id
            ORDER BY tenant_id LIMIT 1)
          FROM waiting WHERE tenant_id IS NOT NULL),
        welcome AS (
          SELECT model, anywhere, tenant_id, at_home > 0 AND NOT home_shut AS at_home
          FROM waiting, LATERAL (
            SELECT coalesce(bool_or(everywhere), false) AS shut, count(*) > 0 AS home_shut FROM shut
            WHERE (shut.model IS NULL OR shut.model = waiting.model)
              AND (shut.tenant IS NULL OR shut.tenant = left(encode(sha256(uuid_send(waiting.tenant_id)), 'hex'), 16))) AS shuts
          WHERE tenant_id IS NOT NULL AND NOT shuts.shut
            AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = waiting.model) AND (p.tenant_id IS NULL OR p.tenant_id = waiting.tenant_id))),
        next AS (
          SELECT jobs.id, jobs.turn, anywhere, row_number() OVER (PARTITION BY model ORDER BY jobs.turn, jobs.id) AS number
          FROM welcome, LATERAL (
            SELECT id, turn FROM jobs
            WHERE state = 'queued' AND model = welcome.model AND tenant_id = welcome.tenant_id
              AND run_after <= clock_timestamp() AND deadline > clock_timestamp() AND (fallback OR at_home)
            ORDER BY turn, id LIMIT least($1, anywhere)) jobs),
        in_the_making AS (
          SELECT id, turn FROM jobs
          WHERE state = 'queued' AND (operating OR stocked) AND (operating OR deadline < clock_timestamp() + $5::interval)
            AND run_after <= clock_timestamp() AND deadline > clock_timestamp() AND model IN (SELECT model FROM open)
            AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = jobs.model) AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id))
          ORDER BY turn, id LIMIT $1)
        SELECT id AS "id!", turn AS "turn!" FROM next WHERE number <= anywhere UNION SELECT id, turn FROM in_the_making ORDER BY 2, 1 LIMIT $1"#,
        limit,
        &columns.models,
        &columns.with_fallback,
        &columns.primary_only,
        interval(DELIVERY_MARGIN),
        &columns.excluded_models as &[Option<String>],
        &columns.excluded_tenants as &[Option<String>],
        &columns.excluded_everywhere,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), row.turn))
        .collect())
}

/// Running jobs whose lease has expired, the earliest first, at most `limit`.
///
/// Returns none until Postgres has been up for the time of one `lease`: while it was down, no
/// worker could renew, and their leases say nothing about whether they live.
///
/// # Errors
/// Postgres fails.
pub async fn leases_run_out(
    pool: &PgPool,
    lease: Duration,
    limit: i64,
) -> sqlx::Result<Vec<(JobId, TenantId)>> {
    let rows = sqlx::query!(
        "-- job::leases_run_out
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
pub async fn deadlines_passed(pool: &PgPool, limit: i64) -> sqlx::Result<Vec<(JobId, TenantId)>> {
    let rows = sqlx::query!(
        "-- job::deadlines_passed
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
) -> sqlx::Result<Result<(), NotOneRow>> {
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
) -> sqlx::Result<Result<(), NotOneRow>> {
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

/// A duration as a Postgres interval. One that is too long becomes the longest.
fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

/// A query that returns whole jobs. The arguments are the SQL before the columns, the SQL after
/// them, and the query's parameters. The columns are those of [`Row`]. They are listed and not `*`,
/// because a prepared `*` fails as soon as a migration adds a column.
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
                unit_price: row.fits("unit_price", self.unit_price)?,
                price_version: self.price_version,
                held: row.fits("hold_amount", self.hold_amount)?,
                captured: row.fits("captured", self.captured)?,
                released: row.fits("released", self.released)?,
                refunded: row.fits("refunded", self.refunded)?,
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
