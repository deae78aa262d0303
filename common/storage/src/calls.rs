//! SQL of the call journal.
//!
//! The row of a call is written before the call is made. After the answer, the end of the call is
//! written into the row. Between the two, other workers know only what the row says about the call.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::database::row::RowId;
use crate::database::{GuardedWrite, one_row};
use crate::file_columns::{FileColumns, width_and_height};
use domain::call::{Ending, JournaledCall, LOST};
use domain::catalog::Lane;
use domain::id::{CallId, JobId, TenantId};
use domain::outcome::Failure;
use domain::stored_file::StoredFile;

/// A call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewCall<'a> {
    /// The call.
    pub id: CallId,
    /// The tenant that owns the job.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
    /// Number of the attempt that makes the call.
    pub fence: i32,
    /// Which output of the job the call is for, from 0.
    pub output_idx: i32,
    /// The lane on which the call is made.
    pub lane: &'a Lane,
    /// What the call will cost us if it delivers, in millionths of a US dollar.
    pub cost_micros: i64,
}

/// Counts a call on its job and journals it. This is the last check before money is spent. Returns
/// `false` if the call must not be made: the lease or the deadline has passed, or the job has made
/// `max_calls` calls.
///
/// Check and count are one statement. So two workers that both believe that they hold the job
/// cannot both make its last call.
///
/// The statement needs no transaction of its caller. It sets the tenant itself when it returns the
/// job's row. The row of the call takes its tenant from there, so it is not written before the
/// tenant is set.
///
/// # Errors
/// Returns an error if Postgres fails. The call must not be made in that case.
pub async fn begin(executor: impl PgExecutor<'_>, call: &NewCall<'_>) -> sqlx::Result<bool> {
    // If the UPDATE of the job matches no row, the INSERT selects from nothing, and no call is
    // journaled. Only a running job has a lease.
    let begun = sqlx::query!(
        "-- call::begin
        WITH job AS (
          UPDATE jobs SET calls_started = calls_started + 1
          WHERE id = $3 AND tenant_id = $2 AND fence = $4 AND lease_until > clock_timestamp()
            AND deadline > clock_timestamp() AND calls_started < max_calls
          RETURNING id, set_config('platen.tenant', tenant_id::text, true)::uuid AS tenant_id)
        INSERT INTO calls (id, tenant_id, job_id, fence, output_idx, provider, model, lane, cost_micros)
        SELECT $1, job.tenant_id, job.id, $4, $5, $6, $7, $8, $9 FROM job",
        call.id as CallId,
        call.tenant as TenantId,
        call.job as JobId,
        call.fence,
        call.output_idx,
        call.lane.provider,
        call.lane.model,
        call.lane.to_string(),
        call.cost_micros,
    )
    .execute(executor)
    .await?;
    Ok(begun.rows_affected() == 1)
}

/// Whether the job may make another paid call under its `max_calls`. Only [`begin`] decides whether
/// a call may be made. This function tells afterwards why [`begin`] refused it.
///
/// # Errors
/// Returns an error if there is no such job, or if Postgres fails.
pub async fn has_calls_left(pool: &PgPool, job: JobId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- call::calls_left
        SELECT calls_started < max_calls AS "left!" FROM jobs WHERE id = $1"#,
        job as JobId
    )
    .fetch_one(pool)
    .await
}

/// Stores the provider's handle of a long operation. A worker calls this before the first poll, so
/// that any other worker can go on polling if this one dies. Changes nothing if the call has ended
/// meanwhile.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn record_operation(
    connection: &mut PgConnection,
    id: CallId,
    operation: &str,
) -> sqlx::Result<GuardedWrite> {
    let result = sqlx::query!(
        "-- call::operate
        UPDATE calls SET operation = $2 WHERE id = $1 AND ended_at IS NULL",
        id as CallId,
        operation,
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}

/// Gives up a call of an earlier attempt as lost. The call may have been made, and may be billed to
/// us.
///
/// Only the worker that holds the job may do this, and only if the call has the same handle as when
/// it was read. The worker that made the call may still be alive and have stored a handle since;
/// then the call is not lost. If one of the two conditions does not hold, nothing is changed.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn record_lost(
    connection: &mut PgConnection,
    job: JobId,
    fence: i32,
    call: &JournaledCall,
    failure: &Failure,
) -> sqlx::Result<GuardedWrite> {
    let result = sqlx::query!(
        "-- call::lose
        WITH mine AS (SELECT id FROM jobs WHERE id = $2 AND fence = $3 AND lease_until IS NOT NULL FOR NO KEY UPDATE)
        UPDATE calls SET ended_at = clock_timestamp(), outcome = $4, detail = $5 FROM mine
        WHERE calls.id = $1 AND job_id = mine.id AND ended_at IS NULL AND operation IS NOT DISTINCT FROM $6",
        call.id as CallId,
        job as JobId,
        fence,
        failure.class.as_str(),
        failure.detail,
        call.operation,
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}

/// What [`end`] did.
#[derive(Clone, Copy, Debug)]
pub struct EndedCall {
    /// Whether it ended the call.
    pub has_ended: bool,
    /// Whether the job may make another paid call under its `max_calls`.
    pub has_calls_left: bool,
}

/// Ends a call. It changes nothing if the call had already ended.
///
/// There is one exception. A call that was given up as lost may end a second time, with its image,
/// while its job is open. So a slow worker can still deliver an image that we have paid for.
///
/// A call whose class does not count ([`domain::outcome::Contract::counts`]) gives its count back
/// to the job. This needs no fence, because the count belongs to the job and not to the attempt.
///
/// The function `end_call` of the database locks the job before the call, because every transaction
/// locks a job before its calls. If a settlement runs at the same time, one of the two waits for the
/// other. If the settlement comes first, it has ended this call with the job, and this function
/// changes nothing. Otherwise the settlement sees the end that this function has written.
///
/// # Errors
/// Returns an error if a value does not fit its column, if there is no such job, or if Postgres
/// fails.
pub async fn end(
    executor: impl PgExecutor<'_>,
    tenant: TenantId,
    job: JobId,
    id: CallId,
    ending: &Ending<'_>,
) -> sqlx::Result<EndedCall> {
    let counts = ending.outcome.contract().counts;
    let original = ending.original;
    let row_id = RowId::new("calls", id);
    let (width, height): (Option<i32>, Option<i32>) = match original {
        Some(original) => {
            let (width, height) = width_and_height(&row_id, original)?;
            (Some(width), Some(height))
        }
        None => (None, None),
    };
    let ended = sqlx::query!(
        r#"-- call::end
        SELECT has_ended AS "has_ended!", has_calls_left
        FROM end_call($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"#,
        tenant as TenantId,
        job as JobId,
        id as CallId,
        ending.outcome.as_str(),
        ending.detail,
        ending.reason,
        ending.provider_request_id,
        ending.usage,
        ending.cost_micros,
        counts,
        &LOST.map(|class| class.as_str().to_owned()),
        original.map(|original| original.object_key.as_str()),
        original.map(|original| &original.sha256[..]),
        original.map(|original| original.bytes),
        original.map(|original| original.media_type.as_str()),
        width,
        height,
    )
    .fetch_one(executor)
    .await?;
    Ok(EndedCall {
        has_ended: ended.has_ended,
        has_calls_left: ended.has_calls_left.ok_or(sqlx::Error::RowNotFound)?,
    })
}

/// Reads every call that was made for a job, oldest first. The order is by the database's clock,
/// because the time inside an id comes from the clock of the worker that made the call.
///
/// # Errors
/// Returns an error if a row has a value that this version does not know, or if Postgres fails.
pub async fn of_job(connection: &mut PgConnection, job: JobId) -> sqlx::Result<Vec<JournaledCall>> {
    let rows = sqlx::query_as!(
        Row,
        r#"-- call::of_job
        SELECT id, output_idx, provider, model, lane, outcome, detail, reason, operation, object_key, sha256, bytes, media_type, width, height,
               extract(epoch FROM clock_timestamp() - started_at)::float8 AS "age_seconds!"
        FROM calls WHERE job_id = $1 ORDER BY started_at, id"#,
        job as JobId
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::journaled).collect()
}

struct Row {
    id: Uuid,
    output_idx: i32,
    provider: String,
    model: String,
    lane: Option<String>,
    age_seconds: f64,
    outcome: Option<String>,
    detail: Option<String>,
    reason: Option<String>,
    operation: Option<String>,
    object_key: Option<String>,
    sha256: Option<Vec<u8>>,
    bytes: Option<i64>,
    media_type: Option<String>,
    width: Option<i32>,
    height: Option<i32>,
}

impl Row {
    fn journaled(self) -> sqlx::Result<JournaledCall> {
        let id = CallId(self.id);
        let row_id = RowId::new("calls", id);
        Ok(JournaledCall {
            id,
            output_idx: self.output_idx,
            lane: self.lane(row_id)?,
            age: Duration::try_from_secs_f64(self.age_seconds).unwrap_or_default(),
            // An unknown class is an error and not `None`: `None` means that the call is still
            // open, and then it would be given up or made again.
            outcome: self
                .outcome
                .as_deref()
                .map(|outcome| row_id.parse("outcome", outcome))
                .transpose()?,
            original: self.original(row_id)?,
            detail: self.detail,
            reason: self.reason,
            operation: self.operation,
        })
    }

    /// The lane of the call. Rows that are older than the column `lane` have none. Those calls were
    /// made at the provider's only location.
    fn lane(&self, row_id: RowId<CallId>) -> sqlx::Result<Lane> {
        match &self.lane {
            Some(lane) => row_id.parse("lane", lane),
            None => Ok(Lane {
                provider: self.provider.clone(),
                project: None,
                location: "global".to_owned(),
                model: self.model.clone(),
            }),
        }
    }

    /// The stored image. A row has all columns of the image or none of them (rule
    /// `originals_are_whole`).
    fn original(&self, row_id: RowId<CallId>) -> sqlx::Result<Option<StoredFile>> {
        let (
            Some(object_key),
            Some(sha256),
            Some(bytes),
            Some(media_type),
            Some(width),
            Some(height),
        ) = (
            self.object_key.clone(),
            self.sha256.clone(),
            self.bytes,
            self.media_type.clone(),
            self.width,
            self.height,
        )
        else {
            return Ok(None);
        };
        let columns = FileColumns {
            object_key,
            sha256,
            bytes,
            media_type,
            width,
            height,
        };
        columns.file(&row_id).map(Some)
    }
}
