//! SQL of the actions of operators. Lists cover all tenants and are read as `platen_reader`.

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::database::row::RowId;
use domain::id::{JobId, TenantId};
use domain::idempotency::{Answer, Request};
use domain::operator::{Actor, AuditEntry, Pause, Scope, TimelineEntry};

/// Writes an audit entry. Must run in the transaction of the action.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn record(
    connection: &mut PgConnection,
    actor: Actor<'_>,
    action: &str,
    subject: &Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- operation::record
        INSERT INTO operator_actions (by, action, reason, subject) VALUES ($1, $2, $3, $4)",
        actor.by,
        action,
        actor.reason,
        subject,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Inserts the key of a request. If another open transaction has inserted the key, waits until that
/// transaction ends. Returns `false` if the key exists, because a transaction that inserted it was
/// committed.
pub async fn claim_key(connection: &mut PgConnection, request: &Request) -> sqlx::Result<bool> {
    let claimed = sqlx::query!(
        "-- operation::claim_key
        INSERT INTO operator_requests (key, request_hash) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING",
        request.key,
        &request.hash[..],
    )
    .execute(connection)
    .await?;
    Ok(claimed.rows_affected() == 1)
}

/// Reads what is stored under the key of a request. The key must exist.
pub async fn key_use(
    connection: &mut PgConnection,
    request: &Request,
) -> sqlx::Result<OperatorKeyUse> {
    let row = sqlx::query!(
        "-- operation::key_use
        SELECT request_hash, jobs, has_more, status, body FROM operator_requests WHERE key = $1",
        request.key
    )
    .fetch_one(connection)
    .await?;
    if row.request_hash != request.hash {
        return Ok(OperatorKeyUse::AnotherRequest);
    }
    Ok(match (row.status, row.body) {
        (Some(status), Some(body)) => OperatorKeyUse::Answered(Answer {
            status: RowId::new("operator_requests", &request.key).convert("status", status)?,
            location: None,
            body,
        }),
        // Jobs are never null here: a key without an answer is committed only together with the
        // jobs that its request has chosen.
        _ => OperatorKeyUse::Chosen {
            jobs: (row.jobs.unwrap_or_default().into_iter())
                .map(JobId)
                .collect(),
            has_more: row.has_more,
        },
    })
}

/// Records which jobs a request acts on, before anything is done to them.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn choose(
    connection: &mut PgConnection,
    request: &Request,
    jobs: &[JobId],
    has_more: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- operation::choose
        UPDATE operator_requests SET jobs = $2, has_more = $3 WHERE key = $1",
        request.key,
        jobs as &[JobId],
        has_more,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Records the answer to a request. Returns `false` and changes nothing if an answer was recorded
/// before.
pub async fn keep_answer(
    connection: &mut PgConnection,
    request: &Request,
    answer: &Answer,
) -> sqlx::Result<bool> {
    let status: i16 =
        RowId::new("operator_requests", &request.key).convert("status", answer.status)?;
    let kept = sqlx::query!(
        "-- operation::keep_answer
        UPDATE operator_requests SET status = $2, body = $3 WHERE key = $1 AND status IS NULL",
        request.key,
        status,
        answer.body,
    )
    .execute(connection)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// Deletes requests of operators that are older than `age`, and returns their number. There are few
/// such requests, so one statement deletes all of them.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn prune(pool: &PgPool, age: Duration) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "-- operation::prune
        DELETE FROM operator_requests WHERE created_at < now() - make_interval(secs => $1)",
        age.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    Ok(pruned.rows_affected())
}

/// Lists up to `limit` audit entries, the highest number first. With `before`, lists only entries
/// with a lower number than this.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn actions(
    pool: &PgPool,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<AuditEntry>> {
    sqlx::query_as!(
        AuditEntry,
        "-- operation::actions
        SELECT id, at, by, action, reason, subject FROM operator_actions WHERE $1::bigint IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
        before,
        limit,
    )
    .fetch_all(pool)
    .await
}

/// Inserts a pause, and returns its number.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn pause(
    connection: &mut PgConnection,
    reason: &str,
    scope: &Scope,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        "-- operation::pause
        INSERT INTO pauses (model, tenant_id, worker, reason) VALUES ($1, $2, $3, $4) RETURNING id",
        scope.model,
        scope.tenant as Option<TenantId>,
        scope.worker,
        reason,
    )
    .fetch_one(connection)
    .await
}

/// Ends a pause. Returns `false` if the pause does not exist or has ended.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn resume(connection: &mut PgConnection, id: i64) -> sqlx::Result<bool> {
    let ended = sqlx::query_scalar!(
        "-- operation::lift
        UPDATE pauses SET lifted_at = clock_timestamp() WHERE id = $1 AND lifted_at IS NULL RETURNING id",
        id
    )
    .fetch_optional(connection)
    .await?;
    Ok(ended.is_some())
}

/// Lists the pauses that are in force, in the order of their numbers.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn pauses(pool: &PgPool) -> sqlx::Result<Vec<Pause>> {
    let rows = sqlx::query!(
        "-- operation::pauses
        SELECT id, model, tenant_id, worker, reason, paused_at FROM pauses WHERE lifted_at IS NULL ORDER BY id"
    )
    .fetch_all(pool)
    .await?;
    let pauses = rows.into_iter().map(|row| Pause {
        id: row.id,
        model: row.model,
        tenant: row.tenant_id.map(TenantId),
        worker: row.worker,
        reason: row.reason,
        paused_at: row.paused_at,
    });
    Ok(pauses.collect())
}

/// Reads since when jobs of this tenant and model are paused on all workers: the beginning of the
/// first such pause that is in force. Returns `None` if they are not paused.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn paused_since(
    connection: &mut PgConnection,
    tenant: TenantId,
    model: &str,
) -> sqlx::Result<Option<OffsetDateTime>> {
    sqlx::query_scalar!(
        "-- operation::paused_since
        SELECT min(paused_at) FROM pauses
        WHERE lifted_at IS NULL AND worker IS NULL AND (tenant_id IS NULL OR tenant_id = $1) AND (model IS NULL OR model = $2)",
        tenant as TenantId,
        model
    )
    .fetch_one(connection)
    .await
}

/// Whether this worker is drained, which means that it starts no job.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn is_drained(pool: &PgPool, worker: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- operation::is_drained
        SELECT EXISTS (SELECT FROM pauses WHERE lifted_at IS NULL AND worker = $1 AND model IS NULL AND tenant_id IS NULL) AS "drained!""#,
        worker
    )
    .fetch_one(pool)
    .await
}

/// Freezes or unfreezes a tenant's wallet. The status of a frozen wallet is `restricted`. Returns
/// `false` if nothing changed.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn set_frozen(
    connection: &mut PgConnection,
    tenant: TenantId,
    frozen: bool,
) -> sqlx::Result<bool> {
    let (from, to) = if frozen {
        ("active", "restricted")
    } else {
        ("restricted", "active")
    };
    let changed = sqlx::query!(
        "-- operation::freeze
        UPDATE wallets SET status = $3 WHERE tenant_id = $1 AND status = $2",
        tenant as TenantId,
        from,
        to,
    )
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// Finds the new job that a redrive made from this job. Returns `None` if the job was not redriven.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn redriven(connection: &mut PgConnection, old: JobId) -> sqlx::Result<Option<JobId>> {
    let new = sqlx::query_scalar!(
        "-- operation::redriven
        SELECT id FROM jobs WHERE redrive_of = $1",
        old as JobId
    )
    .fetch_optional(connection)
    .await?;
    Ok(new.map(JobId))
}

/// Reads everything that happened to a job, the earliest first, including what was wrong with each
/// answer of a provider. The result does not contain the prompt.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn timeline(pool: &PgPool, job: JobId) -> sqlx::Result<Vec<TimelineEntry>> {
    sqlx::query_as!(
        TimelineEntry,
        r#"-- operation::story
        SELECT at AS "at!", of AS "of!", what AS "what!", id FROM (
          SELECT created_at AS at, 'job' AS of, format('submitted: %s, outputs: %s, calls: at most %s', model, n_requested, max_calls) AS what, id, 0 AS ord FROM jobs WHERE id = $1
          UNION ALL SELECT started_at, 'job', format('first taken up; the newest worker is %s, the newest attempt %s', worker, fence), id, 1 FROM jobs WHERE id = $1 AND started_at IS NOT NULL
          UNION ALL SELECT started_at, 'call', format('attempt %s asks %s for output %s', fence, lane, output_idx), id, 2 FROM calls WHERE job_id = $1
          UNION ALL SELECT ended_at, 'call', format('ended as %s%s', outcome, CASE WHEN cost_micros IS NULL THEN ', what it cost is not known' ELSE format(', %s millionths of a dollar', cost_micros) END)
            || CASE WHEN detail <> '' THEN ': ' || detail ELSE '' END, id, 3 FROM calls WHERE job_id = $1 AND ended_at IS NOT NULL
          UNION ALL SELECT created_at, 'artifact', format('%s of output %s, %s × %s, %s bytes', role, output_idx, width, height, bytes), id, 4 FROM artifacts WHERE job_id = $1
          UNION ALL SELECT at, 'transfer', format('%s of %s credits, from %s to %s', kind, amount, debit, credit), NULL, 5 FROM transfers WHERE kind IN ('hold', 'capture', 'release', 'refund') AND ref = $1::uuid::text
          UNION ALL SELECT finished_at, 'job', format('%s (%s): %s of %s delivered', state, outcome, n_delivered, n_requested), id, 6 FROM jobs WHERE id = $1 AND finished_at IS NOT NULL
          UNION ALL SELECT deleted_at, 'deletion', format('the %s is gone', class), NULL, 7 FROM deletions WHERE job_id = $1 AND deleted_at IS NOT NULL
          UNION ALL SELECT created_at, 'job', 'done once more as another job', id, 8 FROM jobs WHERE redrive_of = $1
          UNION ALL SELECT at, 'operator', format('%s by %s: %s', action, by, reason), NULL, 9 FROM operator_actions WHERE subject ->> 'job' = $2) told
        ORDER BY at, ord"#,
        job as JobId,
        job.to_string(),
    )
    .fetch_all(pool)
    .await
}

/// What is stored under an idempotency key of an operator.
pub enum OperatorKeyUse {
    /// The same request was answered before. This is its answer.
    Answered(Answer),
    /// The same request for many jobs has begun and has no answer yet. It goes on with the jobs
    /// that it has chosen.
    Chosen {
        /// The chosen jobs, in the order in which they are worked on.
        jobs: Vec<JobId>,
        /// Whether more jobs matched than were chosen.
        has_more: bool,
    },
    /// The key belongs to another request.
    AnotherRequest,
}
