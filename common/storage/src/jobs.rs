//! SQL of jobs. Claim, renew and reap see every tenant's jobs and run as one statement each; all else runs
//! in the caller's transaction, under the job's tenant.

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

/// A job as admission writes it.
#[derive(Debug)]
pub struct NewJob<'a> {
    pub id: JobId,
    pub tenant: TenantId,
    pub model: &'a str,
    pub name: Option<&'a str>,
    pub metadata: &'a serde_json::Value,
    pub request_id: &'a str,
    pub traceparent: Option<&'a TraceParent>,
    pub generation: &'a Generation,
    pub quote: &'a Quote,
    pub hold: Credits,
    pub max_calls: i32,
    pub priority: i16,
    pub run_at: Option<OffsetDateTime>,
    /// After it may run, which is now at the earliest. Only the database knows when that is.
    pub deadline_in: Duration,
    pub fallback: bool,
    pub switched_from: Option<&'a str>,
    pub redrive_of: Option<JobId>,
}

/// How far one output moves its tenant's virtual clock: a tenant that submits faster than one output per
/// this much time queues behind those that do not.
const SPACING_MICROS: i64 = 100_000;
/// How far one step of priority moves a job within its tenant's own queue.
const PRIORITY_MICROS: i64 = 10_000_000;

/// Writes the job and its request. Its turn is the tenant's virtual clock, never behind the real one: a quiet
/// tenant's job goes before the backlog of a busy one, and no priority goes before what others asked for earlier.
pub async fn insert(connection: &mut PgConnection, job: &NewJob<'_>) -> sqlx::Result<Job> {
    let generation = serde_json::to_value(job.generation).expect("a generation is JSON");
    let row_id = RowId::new("jobs", job.id);
    let outputs: i32 = row_id.fits("n_requested", job.quote.outputs)?;
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
        SPACING_MICROS,
        PRIORITY_MICROS,
        job.hold.get(),
        job.fallback,
        job.switched_from,
        job.redrive_of.map(|old| old.0),
        job.traceparent.map(TraceParent::as_str),
    )
    .fetch_one(&mut *connection)
    .await?;
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

/// One job of the tenant.
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

/// One job, locked. The tenant's wallet is locked before.
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

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    pub model: Option<String>,
    /// Only jobs whose name contains this, in any case.
    pub name: Option<String>,
    /// Only jobs older than this one.
    pub after: Option<JobId>,
}

/// A tenant's jobs, newest first.
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

/// Which jobs, of whichever tenant: those that fit everything that is said.
#[derive(Clone, Debug, Default)]
pub struct Search {
    pub ids: Option<Vec<JobId>>,
    pub tenant: Option<TenantId>,
    pub model: Option<String>,
    /// In one of these; none: in any.
    pub states: Vec<State>,
    pub outcome: Option<Class>,
    /// Submitted from then on.
    pub since: Option<OffsetDateTime>,
    /// Submitted before then.
    pub before: Option<OffsetDateTime>,
    /// Only jobs older than this one.
    pub after: Option<JobId>,
}

/// All tenants' jobs, newest first, for who may read everything.
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

/// How many jobs each worker has under way.
pub async fn by_worker(pool: &PgPool) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"-- job::by_worker
        SELECT worker AS "worker!", count(*) AS "jobs!" FROM jobs WHERE state = 'running' AND worker IS NOT NULL GROUP BY worker"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.worker, row.jobs)).collect())
}

/// Which of these jobs have ended, whoever they belong to.
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

/// How many of the tenant's own queued jobs go before this one.
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

/// What was asked for. `None` when there is no such job, or when the time of its prompt was over and it was deleted.
pub async fn request(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Generation>> {
    let stored = sqlx::query_scalar!(
        "-- job::request\nSELECT generation FROM job_requests WHERE job_id = $1 AND generation ? 'prompt'",
        id.0
    )
    .fetch_optional(connection)
    .await?;
    stored
        .map(|value| {
            // Nothing of it is told but its kind: it holds the prompt.
            let kind = value["kind"].to_string();
            serde_json::from_value(value).map_err(|_| {
                RowId::new("job_requests", id).unknown("generation", format!("of kind {kind}"))
            })
        })
        .transpose()
}

/// Takes the right to work on a job: raises its fence by one. `None` when it is not to be had: a stale ring is
/// harmless, a job whose lanes are closed or that is paused stays queued, and one for a model that is not named is another worker's.
pub async fn claim(
    pool: &PgPool,
    id: JobId,
    worker: &str,
    lease: Duration,
    open: &Capacity,
) -> sqlx::Result<Option<Claimed>> {
    let rooms = open.columns();
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
        &rooms.models,
        &rooms.with_fallback,
        &rooms.primary_only,
        interval(DELIVERY_MARGIN),
        &rooms.excluded_models as &[Option<String>],
        &rooms.excluded_tenants as &[Option<String>],
        &rooms.excluded_everywhere,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Claimed {
        id,
        tenant: TenantId(row.tenant_id),
        fence: row.fence,
        model: row.model,
        request_id: row.request_id,
        traceparent: row.traceparent.and_then(|text| trace_of(id, &text)),
        n_requested: row.n_requested,
        fallback: row.fallback,
        calls_made: row.calls_started,
        calls_left: row.max_calls.saturating_sub(row.calls_started),
        waited_seconds: row.waited_seconds,
        seconds_left: row.seconds_left,
    }))
}

/// A job is worked on all the same where only its trace is unknown: the claim has been made.
fn trace_of(id: JobId, text: &str) -> Option<TraceParent> {
    RowId::new("jobs", id)
        .known("traceparent", text, |text| text.parse().ok())
        .inspect_err(
            |error| tracing::error!(%error, "A job is worked on outside its client's trace"),
        )
        .ok()
}

/// Renews every lease a worker holds in one statement. Jobs that are missing from the answer were lost.
pub async fn renew(
    pool: &PgPool,
    held: &[(JobId, i32)],
    lease: Duration,
) -> sqlx::Result<Vec<JobId>> {
    let (ids, fences): (Vec<Uuid>, Vec<i32>) =
        held.iter().map(|&(id, fence)| (id.0, fence)).unzip();
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

/// The next jobs to ring, in turn order: of each model no more than its lanes have room for, so that no model's
/// backlog hides another's. A job a provider works on needs no room; neither does one that has something to deliver
/// when its deadline is near. Models that are not named are another worker's.
pub async fn due(pool: &PgPool, limit: i64, open: &Capacity) -> sqlx::Result<Vec<(JobId, i64)>> {
    if open.has_exclusions() {
        return due_by_tenant(pool, limit, open).await;
    }
    let rooms = open.columns();
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
        &rooms.models,
        &rooms.with_fallback,
        &rooms.primary_only,
        interval(DELIVERY_MARGIN),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), row.turn))
        .collect())
}

/// The same where jobs of some tenants, or of some models, may not be started: each tenant's next jobs are looked up
/// by themselves, so that nobody's backlog is read to find what is behind it.
async fn due_by_tenant(
    pool: &PgPool,
    limit: i64,
    open: &Capacity,
) -> sqlx::Result<Vec<(JobId, i64)>> {
    let rooms = open.columns();
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
        &rooms.models,
        &rooms.with_fallback,
        &rooms.primary_only,
        interval(DELIVERY_MARGIN),
        &rooms.excluded_models as &[Option<String>],
        &rooms.excluded_tenants as &[Option<String>],
        &rooms.excluded_everywhere,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), row.turn))
        .collect())
}

/// Running jobs whose lease has run out, oldest first. None in the first `lease` after the server has started: their
/// holders could not renew.
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

/// Open jobs whose deadline has passed.
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

/// Moves the deadline of a locked, open job, once. `false`: it was moved before.
pub async fn extend(
    connection: &mut PgConnection,
    id: JobId,
    more: Duration,
) -> sqlx::Result<bool> {
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

/// Whether a locked job's lease has run out, on the database's clock.
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
    pub id: JobId,
    pub fence: i32,
    pub delay: Duration,
    pub crashed: bool,
    pub outcome: Option<(Class, &'a str)>,
}

/// Gives a running job back to the queue; its fence stays.
pub async fn requeue(
    connection: &mut PgConnection,
    job: &Requeue<'_>,
) -> sqlx::Result<Result<(), NotOneRow>> {
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
    pub id: JobId,
    pub state: State,
    pub outcome: Class,
    pub reason: &'a str,
    pub delivered: i32,
    pub captured: Credits,
    pub released: Credits,
}

/// Ends an open, locked job.
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
        // The lease that made it poison ran out, too.
        i32::from(job.outcome == Class::Poison),
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}

/// A duration for the database's clock.
fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

/// A query that gives whole jobs: what stands before their columns, what stands behind, and its arguments. The columns
/// are those of [`Row`]: a prepared `*` fails once a migration has added one.
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

/// What [`Job`] is made of, as the database gives it.
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
