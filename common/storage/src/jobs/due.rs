//! Jobs that are due, in the order in which they start.
//!
//! Jobs start in the order of their virtual time (column `turn`). A search begins at a [`Mark`] in
//! this order, not at the front. While somebody keeps a snapshot open, Postgres keeps the index
//! entries of all jobs that were claimed since, and a search from the front would read them again
//! each time.

use domain::id::JobId;
use domain::job::{Capacity, DELIVERY_MARGIN};
use sqlx::PgPool;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::capacity::{CapacityColumns, with_capacity};
use super::{COMMIT_MARGIN, interval};

/// Where the search for the due jobs of a model begins.
///
/// It promises: a job of the model that is queued and due, and whose virtual time is before `turn`,
/// became due at `since` or later. So a search looks at two places: at the jobs from `turn` on, and
/// at the few jobs that became due at `since` or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Catalogue id of the model.
    pub model: String,
    /// The virtual time at which the search begins, in microseconds.
    pub turn: i64,
    /// The earliest time at which a job before `turn` became due.
    pub since: OffsetDateTime,
}

impl Mark {
    /// The front of the model's queue. A search from here reads all entries.
    pub fn front(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            turn: i64::MIN,
            // No job is before the front.
            since: PrimitiveDateTime::MAX.assume_utc(),
        }
    }

    /// The mark of each model of `capacity`: the one in `marks`, or else the front.
    pub fn of_models(capacity: &Capacity, marks: &[Self]) -> Vec<Self> {
        let models = capacity.models().iter();
        let marks = models.map(|open| {
            let mark = marks.iter().find(|mark| mark.model == open.model);
            mark.cloned().unwrap_or_else(|| Self::front(&open.model))
        });
        marks.collect()
    }
}

/// Marks as arrays, of which a statement makes a table with `unnest`.
#[derive(Default)]
struct MarkColumns {
    models: Vec<String>,
    turns: Vec<i64>,
    since: Vec<OffsetDateTime>,
}

impl MarkColumns {
    /// The columns of these marks.
    fn of(marks: &[Mark]) -> Self {
        let mut columns = Self::default();
        for mark in marks {
            columns.models.push(mark.model.clone());
            columns.turns.push(mark.turn);
            columns.since.push(mark.since);
        }
        columns
    }
}

/// Reads due jobs and their virtual times, with a statement of [`with_capacity`] that has four more
/// tables:
///
/// - `paused`: the pauses that operators have set.
/// - `marked`: the models of `open` with their marks.
/// - `late`: due jobs before their model's mark. An index has the jobs by the time at which they
///   become due.
/// - `in_the_making`: due jobs that need no capacity. A partial index holds only those.
///
/// `$with` is the SQL before all tables, `$tables` the tables that choose among the jobs from the
/// mark on, and `$select` the query that unites all.
macro_rules! due_jobs {
    ($pool:expr, $limit:expr, $capacity:expr, $marks:expr, $with:tt, $tables:tt, $select:tt) => {{
        let columns = CapacityColumns::of($capacity);
        let marks = MarkColumns::of(&Mark::of_models($capacity, $marks));
        let rows = with_capacity!(
            $with,
            [
                ",
        paused AS (SELECT model, tenant_id FROM pauses WHERE lifted_at IS NULL AND worker IS NULL),
        marked AS (
          SELECT open.model, anywhere, at_home, mark.turn AS mark, mark.since
          FROM open JOIN unnest($9::text[], $10::bigint[], $11::timestamptz[]) AS mark(model, turn, since) ON mark.model = open.model),
        late AS (
          SELECT jobs.id, jobs.turn, marked.model, anywhere FROM marked, LATERAL (
            SELECT id, turn FROM jobs
            WHERE state = 'queued' AND model = marked.model AND run_after >= marked.since AND run_after <= now() AND turn < marked.mark
              AND deadline > clock_timestamp() AND CASE WHEN fallback THEN anywhere ELSE at_home END > 0
              AND NOT EXISTS (
                SELECT FROM shut WHERE (shut.model IS NULL OR shut.model = marked.model) AND (everywhere OR NOT fallback)
                  AND (shut.tenant IS NULL OR shut.tenant = left(encode(sha256(uuid_send(jobs.tenant_id)), 'hex'), 16)))
              AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = jobs.model) AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id))
            ORDER BY turn, id LIMIT least($7, anywhere)) jobs),
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
            &marks.models,
            &marks.turns,
            &marks.since,
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
/// most `limit`. The search begins at `marks`; a model without a mark is searched from the front.
///
/// For each model it returns no more jobs than its lanes have capacity for, so the backlog of one
/// model cannot hide the jobs of another. As in [`super::claim`], two kinds of jobs need no
/// capacity: a job that a provider is still working on, and a job that has an image to deliver and
/// whose deadline is near. Jobs of models that `capacity` does not name are left to other workers.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn due(
    pool: &PgPool,
    limit: i64,
    capacity: &Capacity,
    marks: &[Mark],
) -> sqlx::Result<Vec<(JobId, i64)>> {
    if !capacity.exclusions().is_empty() {
        return due_by_tenant(pool, limit, capacity, marks).await;
    }
    // `roomy`: for each model, the first jobs by `turn`, through an index and a LIMIT of its own.
    // Its cost grows with the number of models and not with the backlog.
    due_jobs!(
        pool,
        limit,
        capacity,
        marks,
        "-- job::due
        WITH ",
        "        roomy AS (
          SELECT id, turn, anywhere, row_number() OVER (PARTITION BY model ORDER BY turn, id) AS number FROM (
            SELECT id, turn, model, anywhere FROM late UNION ALL
            SELECT jobs.id, jobs.turn, marked.model, anywhere FROM marked, LATERAL (
              SELECT id, turn FROM jobs
              WHERE state = 'queued' AND model = marked.model AND turn >= marked.mark AND run_after <= clock_timestamp() AND deadline > clock_timestamp()
                AND (fallback OR at_home > 0) AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = jobs.model) AND (p.tenant_id IS NULL OR p.tenant_id = jobs.tenant_id))
              ORDER BY turn, id LIMIT least($7, anywhere)) jobs) either),
",
        r#"        SELECT id AS "id!", turn AS "turn!" FROM roomy WHERE number <= anywhere UNION SELECT id, turn FROM in_the_making ORDER BY 2, 1 LIMIT $7"#
    )
}

/// Does the same as [`due`] if there are exclusions. It reads the next jobs of each tenant
/// separately. One search over all tenants would have to read the whole backlog of an excluded
/// tenant to find the jobs after that backlog.
///
/// How the statement works:
/// - `waiting` lists the tenants with queued jobs of each model. This is a loose index scan: the
///   recursion goes from one tenant directly to the next, so it reads one row for each tenant and
///   not one row for each job.
/// - `welcome` drops the excluded and the paused tenants. A tenant that is excluded only from the
///   model's first lane keeps the jobs that may use a fallback.
/// - `next` reads the first jobs of each of these tenants, adds those before the mark, and numbers
///   them within each model.
pub(super) async fn due_by_tenant(
    pool: &PgPool,
    limit: i64,
    capacity: &Capacity,
    marks: &[Mark],
) -> sqlx::Result<Vec<(JobId, i64)>> {
    due_jobs!(
        pool,
        limit,
        capacity,
        marks,
        "-- job::due_by_tenant
        WITH RECURSIVE ",
        "        waiting AS (
          SELECT model, anywhere, at_home, mark, (
            SELECT tenant_id FROM jobs WHERE state = 'queued' AND jobs.model = marked.model AND jobs.turn >= mark ORDER BY tenant_id LIMIT 1) AS tenant_id
          FROM marked WHERE anywhere > 0
          UNION ALL
          SELECT model, anywhere, at_home, mark, (
            SELECT tenant_id FROM jobs WHERE state = 'queued' AND jobs.model = waiting.model AND jobs.tenant_id > waiting.tenant_id AND jobs.turn >= mark
            ORDER BY tenant_id LIMIT 1)
          FROM waiting WHERE tenant_id IS NOT NULL),
        welcome AS (
          SELECT model, anywhere, mark, tenant_id, at_home > 0 AND NOT home_shut AS at_home
          FROM waiting, LATERAL (
            SELECT coalesce(bool_or(everywhere), false) AS shut, count(*) > 0 AS home_shut FROM shut
            WHERE (shut.model IS NULL OR shut.model = waiting.model)
              AND (shut.tenant IS NULL OR shut.tenant = left(encode(sha256(uuid_send(waiting.tenant_id)), 'hex'), 16))) AS shuts
          WHERE tenant_id IS NOT NULL AND NOT shuts.shut
            AND NOT EXISTS (SELECT FROM paused p WHERE (p.model IS NULL OR p.model = waiting.model) AND (p.tenant_id IS NULL OR p.tenant_id = waiting.tenant_id))),
        next AS (
          SELECT id, turn, anywhere, row_number() OVER (PARTITION BY model ORDER BY turn, id) AS number FROM (
            SELECT id, turn, model, anywhere FROM late UNION ALL
            SELECT jobs.id, jobs.turn, welcome.model, anywhere FROM welcome, LATERAL (
              SELECT id, turn FROM jobs
              WHERE state = 'queued' AND model = welcome.model AND tenant_id = welcome.tenant_id AND turn >= welcome.mark
                AND run_after <= clock_timestamp() AND deadline > clock_timestamp() AND (fallback OR at_home)
              ORDER BY turn, id LIMIT least($7, anywhere)) jobs) either),
",
        r#"        SELECT id AS "id!", turn AS "turn!" FROM next WHERE number <= anywhere UNION SELECT id, turn FROM in_the_making ORDER BY 2, 1 LIMIT $7"#
    )
}

/// Moves each mark on, to the first job of its model that is queued and due. A mark stays as long
/// as a job before it is queued and due. With `from_front` the first job is looked for in the whole
/// queue, so a mark may also move back. If no job is left, the mark moves to the lowest virtual time
/// of later jobs, unless it is there already. A mark moves back to the front if the database's clock
/// was set back.
///
/// `since` becomes [`COMMIT_MARGIN`] before now and not now: a job that is due already may be
/// committed after this statement has looked, and a later search must find it.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn next_marks(
    pool: &PgPool,
    marks: &[Mark],
    from_front: bool,
) -> sqlx::Result<Vec<Mark>> {
    let columns = MarkColumns::of(marks);
    let rows = sqlx::query!(
        r#"-- job::next_marks
        SELECT model AS "model!", turn AS "turn!", since AS "since!", now() - $4::interval AS "next_since!",
          (SELECT jobs.turn FROM jobs
           WHERE state = 'queued' AND jobs.model = mark.model AND jobs.turn >= CASE WHEN $5 THEN $6 ELSE mark.turn END
             AND run_after <= now() AND deadline > now()
           ORDER BY jobs.turn, id LIMIT 1) AS first,
          NOT $5 AND EXISTS (SELECT FROM jobs
           WHERE state = 'queued' AND jobs.model = mark.model AND run_after >= mark.since AND run_after <= now() AND jobs.turn < mark.turn
             AND deadline > now()) AS "has_late!"
        FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS mark(model, turn, since)"#,
        &columns.models,
        &columns.turns,
        &columns.since,
        interval(COMMIT_MARGIN),
        from_front,
        i64::MIN,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let mark = Mark {
                model: row.model,
                turn: row.turn,
                since: row.since,
            };
            if mark.turn != i64::MIN && row.next_since < mark.since {
                // The database's clock was set back.
                return Mark::front(&mark.model);
            }
            if row.has_late {
                return mark;
            }
            Mark {
                turn: row
                    .first
                    .unwrap_or_else(|| mark.turn.max(virtual_time(row.next_since))),
                since: row.next_since,
                ..mark
            }
        })
        .collect())
}

/// The lowest virtual time that a job gets that is submitted at this time, in microseconds
/// (`common::admission`).
fn virtual_time(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}
