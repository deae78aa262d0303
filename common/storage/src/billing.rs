//! SQL of the roll-up.

use sqlx::{PgConnection, PgExecutor};

/// Lines folded in one turn: more than are written between two turns, and few enough for one statement.
const MAX_LINES_PER_FOLD: i64 = 50_000;

/// Jobs that have ended.
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

/// Jobs that have not ended. Those that run are counted, as many as there are slots; of the others the difference is told.
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
              WHERE j.model = known.model AND state IN ('queued', 'running') AND state = 'queued' AND run_after <= clock_timestamp()
              ORDER BY coalesce(started_at, run_after) LIMIT 1) waiting ON true"#
    )
    .fetch_all(connection)
    .await
}

/// Calls that have ended.
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

/// Adds lines to the totals and deletes them, in one statement; returns how many. One folds at a time: who finds another
/// at it does nothing.
pub async fn fold(executor: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- billing::fold
        WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('platen billing')) AS lock),
        oldest AS MATERIALIZED (SELECT id FROM billing_lines, mine WHERE mine.lock ORDER BY id LIMIT $1),
        folded AS (DELETE FROM billing_lines USING oldest WHERE billing_lines.id = oldest.id RETURNING subject, provider, model, state, outcome, n, held, captured, released, refunded, cost_micros),
        added AS (
          INSERT INTO billing_totals AS t (subject, provider, model, state, outcome, n, held, captured, released, refunded, cost_micros)
          SELECT subject, provider, model, state, outcome, sum(n), sum(held), sum(captured), sum(released), sum(refunded), sum(cost_micros)
          FROM folded GROUP BY subject, provider, model, state, outcome
          ON CONFLICT (subject, provider, model, state, outcome) DO UPDATE SET
            n = t.n + excluded.n, held = t.held + excluded.held, captured = t.captured + excluded.captured, released = t.released + excluded.released,
            refunded = t.refunded + excluded.refunded, cost_micros = t.cost_micros + excluded.cost_micros)
        SELECT count(*) AS "folded!" FROM folded"#,
        MAX_LINES_PER_FOLD
    )
    .fetch_one(executor)
    .await
}

/// Jobs of one model that ended alike, and their credits.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub model: String,
    pub state: String,
    pub outcome: String,
    pub count: i64,
    pub captured: i64,
    pub released: i64,
    pub refunded: i64,
}

/// Jobs of one model that have not ended.
#[derive(Clone, Debug)]
pub struct OpenJobs {
    pub model: String,
    pub queued: i64,
    pub running: i64,
    /// Credits held for them.
    pub held: i64,
    /// Since when the oldest has been due or worked on.
    pub oldest_seconds: f64,
    /// Since when the oldest that is due waits for a worker.
    pub queued_seconds: f64,
}

/// Calls that ended alike, and what they cost us, in millionths of a US dollar; of `unknown`, what they may have cost.
#[derive(Clone, Debug)]
pub struct Calls {
    pub provider: String,
    pub model: String,
    pub outcome: String,
    pub count: i64,
    pub cost_micros: i64,
}
