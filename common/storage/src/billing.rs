//! SQL of the billing totals.
//!
//! The view `billing` adds `billing_totals` and the lines of `billing_lines` that are not folded
//! yet. Triggers write a line with the state `admitted` when a job is created, another line when the
//! job ends or credits are refunded, and a line when a call ends.

use sqlx::{PgConnection, PgExecutor};

/// Most lines that one run folds. This is more than are written between two runs, and few enough
/// for one statement.
const MAX_LINES_PER_FOLD: i64 = 50_000;

/// Reads the totals of the jobs that have ended.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn jobs(connection: &mut PgConnection) -> sqlx::Result<Vec<Jobs>> {
    sqlx::query_as!(
        Jobs,
        r#"-- billing::jobs
        SELECT model AS "model!", state AS "state!", outcome AS "outcome!", sum(n)::bigint AS "count!",
               sum(captured)::bigint AS "captured!", sum(released)::bigint AS "released!", sum(refunded)::bigint AS "refunded!"
        FROM billing WHERE subject = 'job' AND state <> 'admitted' GROUP BY model, state, outcome"#
    )
    .fetch_all(connection)
    .await
}

/// Reads the totals of the jobs that have not ended, by model. A model whose jobs have all ended has
/// zeros.
///
/// Only running jobs are counted row by row, and there are no more running jobs than worker slots.
/// The number of queued jobs is the number of open jobs minus the running ones, so a long queue
/// does not make the query slower. The job that has waited longest is the first of an index, also if
/// many jobs are to run later.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn open(connection: &mut PgConnection) -> sqlx::Result<Vec<OpenJobs>> {
    sqlx::query_as!(
        OpenJobs,
        r#"-- billing::open
        SELECT known.model AS "model!", known.open - coalesce(running.n, 0) AS "queued!", coalesce(running.n, 0) AS "running!", known.held AS "held!",
               coalesce(greatest(0, extract(epoch FROM clock_timestamp() - oldest.since)), 0)::float8 AS "oldest_seconds!",
               coalesce(greatest(0, extract(epoch FROM clock_timestamp() - waiting.since)), 0)::float8 AS "queued_seconds!"
        FROM (SELECT model, sum(CASE state WHEN 'admitted' THEN n ELSE -n END)::bigint AS open, sum(held)::bigint AS held
              FROM billing WHERE subject = 'job' GROUP BY model) known
        LEFT JOIN (SELECT model, count(*) AS n FROM jobs WHERE state = 'running' GROUP BY model) running USING (model)
        LEFT JOIN LATERAL (SELECT coalesce(started_at, run_after) AS since FROM jobs j
              WHERE j.model = known.model AND state IN ('queued', 'running') ORDER BY coalesce(started_at, run_after) LIMIT 1) oldest ON true
        LEFT JOIN LATERAL (SELECT run_after AS since FROM jobs j
              WHERE j.model = known.model AND state = 'queued' AND run_after <= now() ORDER BY run_after LIMIT 1) waiting ON true"#
    )
    .fetch_all(connection)
    .await
}

/// Reads the totals of the calls that have ended.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn calls(connection: &mut PgConnection) -> sqlx::Result<Vec<Calls>> {
    sqlx::query_as!(
        Calls,
        r#"-- billing::calls
        SELECT provider AS "provider!", model AS "model!", outcome AS "outcome!", sum(n)::bigint AS "count!", sum(cost_micros)::bigint AS "cost_micros!"
        FROM billing WHERE subject = 'call' GROUP BY provider, model, outcome"#
    )
    .fetch_all(connection)
    .await
}

/// Lines that were folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// How many lines were folded.
    pub lines: i64,
    /// The highest number among them. `None` if no line was folded.
    pub last: Option<i64>,
}

/// Moves lines with the number `from` or a higher one into the totals, the lowest numbers first, at
/// most 50,000. This is one statement, so no reader sees a line twice or not at all. A line may be
/// committed after lines with higher numbers were folded, so a caller begins at the lowest number
/// from time to time.
///
/// An advisory lock lets only one process fold at a time. The others fold nothing and return at
/// once. Without the lock they would wait for each other's row locks.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn fold(executor: impl PgExecutor<'_>, from: i64) -> sqlx::Result<Folded> {
    sqlx::query_as!(
        Folded,
        r#"-- billing::fold
        WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('platen billing')) AS lock),
        oldest AS MATERIALIZED (SELECT id FROM billing_lines, mine WHERE mine.lock AND id >= $2 ORDER BY id LIMIT $1),
        folded AS (DELETE FROM billing_lines USING oldest WHERE billing_lines.id = oldest.id RETURNING billing_lines.id, subject, provider, model, state, outcome, n, held, captured, released, refunded, cost_micros),
        added AS (
          INSERT INTO billing_totals AS t (subject, provider, model, state, outcome, n, held, captured, released, refunded, cost_micros)
          SELECT subject, provider, model, state, outcome, sum(n), sum(held), sum(captured), sum(released), sum(refunded), sum(cost_micros)
          FROM folded GROUP BY subject, provider, model, state, outcome
          ON CONFLICT (subject, provider, model, state, outcome) DO UPDATE SET
            n = t.n + excluded.n, held = t.held + excluded.held, captured = t.captured + excluded.captured, released = t.released + excluded.released,
            refunded = t.refunded + excluded.refunded, cost_micros = t.cost_micros + excluded.cost_micros)
        SELECT count(*) AS "lines!", max(id) AS last FROM folded"#,
        MAX_LINES_PER_FOLD,
        from,
    )
    .fetch_one(executor)
    .await
}

/// Ended jobs with the same model, state and outcome, and their credits.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Catalogue id of the model.
    pub model: String,
    /// Final state.
    pub state: String,
    /// Class of the outcome.
    pub outcome: String,
    /// Number of jobs.
    pub count: i64,
    /// Credits charged.
    pub captured: i64,
    /// Credits of the holds that were given back.
    pub released: i64,
    /// Credits returned after a capture.
    pub refunded: i64,
}

/// Jobs of one model that have not ended.
#[derive(Clone, Debug)]
pub struct OpenJobs {
    /// Catalogue id of the model.
    pub model: String,
    /// Jobs that wait for a worker.
    pub queued: i64,
    /// Jobs that a worker holds.
    pub running: i64,
    /// Credits held for all of them.
    pub held: i64,
    /// Age of the oldest of these jobs: seconds since it was first started, or since it was due if
    /// it was never started. 0 if there is none.
    pub oldest_seconds: f64,
    /// Seconds for which the oldest queued job that is due has been due. 0 if there is none.
    pub queued_seconds: f64,
}

/// Ended calls with the same provider, model and outcome.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Name of the provider.
    pub provider: String,
    /// Catalogue id of the model.
    pub model: String,
    /// Class of the outcome.
    pub outcome: String,
    /// Number of calls.
    pub count: i64,
    /// What the calls cost us, in millionths of a US dollar. For the class `unknown`, what they may
    /// have cost.
    pub cost_micros: i64,
}
