//! Jobs that are due, in the order in which they start.

use domain::id::JobId;
use domain::job::{Capacity, DELIVERY_MARGIN};
use sqlx::PgPool;

use super::capacity::{CapacityColumns, with_capacity};
use super::interval;

/// Reads due jobs and their virtual times, with a statement of [`with_capacity`] that has two more
/// tables:
///
/// - `paused`: the pauses that operators have set.
/// - `in_the_making`: due jobs that need no capacity. A partial index holds only those.
///
/// The SQL is given in three parts: up to the tables, the tables that choose among the other jobs,
/// and the query that unites both.
macro_rules! due_jobs {
    ($pool:expr, $limit:expr, $capacity:expr, $with:tt, $tables:tt, $select:tt) => {{
        let columns = CapacityColumns::of($capacity);
        let rows = with_capacity!(
            $with,
            [
                ",
        paused AS (SELECT model, tenant_id FROM pauses WHERE lifted_at IS NULL AND worker IS NULL),
",
                $tables,
                "        in_the_making AS (
          SELECT id, turn FROM jobs
          WHERE state = 'queued' AND (operating OR stocked) AND (operating OR deadline < clock_timestamp() + $8::interval)
            AND run_after <= clock_timestamp() AND deadline > clock_timestamp() AND model IN (SELECT model FROM open)
            AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = jobs.model) AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id))
          ORDER BY turn, id LIMIT $7)
",
                $select
            ],
            columns,
            $limit,
            interval(DELIVERY_MARGIN),
        )
        .fetch_all($pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| (JobId(row.id), row.turn))
            .collect())
    }};
}

/// Reads the next jobs for the ready queue and their virtual times, in order of virtual time, at
/// most `limit`.
///
/// For each model it returns no more jobs than its lanes have capacity for, so the backlog of one
/// model cannot hide the jobs of another. As in [`super::claim`], two kinds of jobs need no capacity: a
/// job that a provider is still working on, and a job that has an image to deliver and whose
/// deadline is near. Jobs of models that `capacity` does not name are left to other workers.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn due(
    pool: &PgPool,
    limit: i64,
    capacity: &Capacity,
) -> sqlx::Result<Vec<(JobId, i64)>> {
    if !capacity.exclusions().is_empty() {
        return due_by_tenant(pool, limit, capacity).await;
    }
    // `roomy`: for each model, the first jobs by `turn`, through an index and a LIMIT of its own.
    // Its cost grows with the number of models and not with the backlog.
    due_jobs!(
        pool,
        limit,
        capacity,
        "-- job::due
        WITH ",
        "        roomy AS (
          SELECT jobs.id, jobs.turn FROM open, LATERAL (
            SELECT id, turn FROM jobs
            WHERE state = 'queued' AND model = open.model AND run_after <= clock_timestamp() AND deadline > clock_timestamp()
              AND (fallback OR at_home > 0) AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = jobs.model) AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id))
            ORDER BY turn, id LIMIT least($7, anywhere)) jobs),
",
        r#"        SELECT id AS "id!", turn AS "turn!" FROM roomy UNION SELECT id, turn FROM in_the_making ORDER BY 2, 1 LIMIT $7"#
    )
}

/// Does the same as [`due`] if there are exclusions. It reads the next jobs of each tenant
/// separately. Otherwise it would have to read the whole backlog of an excluded tenant to find the
/// jobs after that backlog.
///
/// How the statement works:
/// - `waiting` lists the tenants with queued jobs of each model. This is a loose index scan: the
///   recursion goes from one tenant directly to the next, so it reads one row for each tenant and
///   not one row for each job.
/// - `welcome` drops the excluded and the paused tenants. A tenant that is excluded only from the
///   model's first lane keeps the jobs that may use a fallback.
/// - `next` reads the first jobs of each of these tenants and numbers them within each model.
pub(super) async fn due_by_tenant(
    pool: &PgPool,
    limit: i64,
    capacity: &Capacity,
) -> sqlx::Result<Vec<(JobId, i64)>> {
    due_jobs!(
        pool,
        limit,
        capacity,
        "-- job::due_by_tenant
        WITH RECURSIVE ",
        "        waiting AS (
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
            ORDER BY turn, id LIMIT least($7, anywhere)) jobs),
",
        r#"        SELECT id AS "id!", turn AS "turn!" FROM next WHERE number <= anywhere UNION SELECT id, turn FROM in_the_making ORDER BY 2, 1 LIMIT $7"#
    )
}
