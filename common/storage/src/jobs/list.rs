//! SQL of the lists of jobs, for tenants and operators. The order is by id, which contains the time
//! of the job's creation.

use domain::id::{JobId, TenantId};
use domain::job::{Cost, Job, JobAttributes, State};
use domain::outcome::Class;
use sqlx::{PgConnection, PgPool};
use time::{Duration, OffsetDateTime};

use super::whole_jobs;
use crate::database::row::RowId;

/// By how much the time in a job's id may differ from `created_at`, at most. The api makes the id by its
/// own clock, and the job is written when the wallet is free.
const ID_TIME_MARGIN: Duration = Duration::HOUR;

/// Which of a tenant's jobs to list. `None` matches every job.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Jobs in this state.
    pub state: Option<State>,
    /// Jobs of this model.
    pub model: Option<String>,
    /// Jobs whose name contains this text, in upper or lower case.
    pub name: Option<String>,
    /// Jobs older than this one, with which the previous page ended.
    pub after: Option<JobId>,
}

/// Lists a tenant's jobs that match the filter, newest first, at most `limit`.
///
/// # Errors
/// Returns an error if the row has a value that this version does not know, or if Postgres fails.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &Filter,
    limit: i64,
) -> sqlx::Result<Vec<Job>> {
    whole_jobs!(
        "-- job::list
        SELECT ",
        " FROM jobs
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR model = $4)
          AND ($5::text IS NULL OR position(lower($5) IN lower(name)) > 0)
        ORDER BY id DESC LIMIT $6",
        tenant as TenantId,
        filter.after as Option<JobId>,
        filter.state.map(State::as_str),
        filter.model,
        filter.name,
        limit,
    )
    .fetch_all(connection)
    .await
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
    /// Jobs older than this one, with which the previous page ended.
    pub after: Option<JobId>,
}

/// Lists the jobs of all tenants that match the search, newest first, at most `limit`. `pool` must
/// be allowed to read every tenant's rows.
///
/// # Errors
/// Returns an error if the row has a value that this version does not know, or if Postgres fails.
pub async fn search(pool: &PgPool, search: &Search, limit: i64) -> sqlx::Result<Vec<Job>> {
    let states: Vec<String> = search
        .states
        .iter()
        .map(|state| state.as_str().to_owned())
        .collect();
    // No index has `created_at`, but an id contains nearly the same time. So a search by time reads
    // a part of the primary key, and not the whole table.
    let before = search.before;
    let before = before.map(|at| JobId::first_at(at.saturating_add(ID_TIME_MARGIN)));
    let until = before.into_iter().chain(search.after).min();
    let since = search.since;
    let from = since.map(|at| JobId::first_at(at.saturating_sub(ID_TIME_MARGIN)));
    whole_jobs!(
        "-- job::search
        SELECT ",
        " FROM jobs
        WHERE ($1::uuid[] IS NULL OR id = ANY($1)) AND ($2::uuid IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR model = $3)
          AND (cardinality($4::text[]) = 0 OR state = ANY($4)) AND ($5::text IS NULL OR outcome = $5)
          AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7) AND ($8::uuid IS NULL OR id < $8)
          AND ($9::uuid IS NULL OR id >= $9)
        ORDER BY id DESC LIMIT $10",
        search.ids.as_deref() as Option<&[JobId]>,
        search.tenant as Option<TenantId>,
        search.model,
        &states,
        search.outcome.map(Class::as_str),
        search.since,
        search.before,
        until as Option<JobId>,
        from as Option<JobId>,
        limit,
    )
    .fetch_all(pool)
    .await
}

/// Counts the jobs that each worker is running.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn by_worker(pool: &PgPool) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"-- job::by_worker
        SELECT worker AS "worker!", count(*) AS "jobs!" FROM jobs WHERE state = 'running' AND worker IS NOT NULL GROUP BY worker"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.worker, row.jobs)).collect())
}

/// Finds which of these jobs have ended. The jobs may belong to any tenants.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn ended(pool: &PgPool, ids: &[JobId]) -> sqlx::Result<Vec<JobId>> {
    sqlx::query_scalar!(
        r#"-- job::ended
        SELECT id AS "id: JobId" FROM jobs WHERE id = ANY($1) AND finished_at IS NOT NULL"#,
        ids as &[JobId]
    )
    .fetch_all(pool)
    .await
}

/// Counts the tenant's own queued jobs that run before this one.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn count_ahead(connection: &mut PgConnection, job: &Job) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- job::count_ahead
        SELECT count(*) AS "ahead!" FROM jobs WHERE state = 'queued' AND tenant_id = $1 AND (turn, id) < ($2, $3)"#,
        job.tenant as TenantId,
        job.virtual_time,
        job.id as JobId
    )
    .fetch_one(connection)
    .await
}
