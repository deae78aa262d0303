//! SQL of calls.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::database::row::RowId;
use crate::database::{NotOneRow, one_row};
use domain::call::{Ending, Journaled, LOST, Original};
use domain::catalog::Lane;
use domain::generation::image::{MediaType, Pixels};
use domain::id::{CallId, JobId, TenantId};
use domain::outcome::{Class, Failure};

/// A call about to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewCall<'a> {
    pub id: CallId,
    pub tenant: TenantId,
    pub job: JobId,
    pub fence: i32,
    pub output_idx: i32,
    pub lane: &'a Lane,
    /// What it will cost us if it delivers, in millionths of a US dollar.
    pub cost_micros: i64,
}

/// The last check before money is spent: counts the call on the job and journals it, if the lease still
/// stands and the job's bound allows it. `false`: do not call.
pub async fn begin(connection: &mut PgConnection, call: &NewCall<'_>) -> sqlx::Result<bool> {
    let begun = sqlx::query!(
        "-- call::begin
        WITH job AS (
          UPDATE jobs SET calls_started = calls_started + 1
          WHERE id = $3 AND fence = $4 AND state = 'running' AND lease_until > clock_timestamp()
            AND deadline > clock_timestamp() AND calls_started < max_calls
          RETURNING id)
        INSERT INTO calls (id, tenant_id, job_id, fence, output_idx, provider, model, lane, cost_micros)
        SELECT $1, $2, job.id, $4, $5, $6, $7, $8, $9 FROM job",
        call.id.0,
        call.tenant.0,
        call.job.0,
        call.fence,
        call.output_idx,
        call.lane.provider,
        call.lane.model,
        call.lane.to_string(),
        call.cost_micros,
    )
    .execute(connection)
    .await?;
    Ok(begun.rows_affected() == 1)
}

/// Whether the job's bound allows another call.
pub async fn calls_left(connection: &mut PgConnection, job: JobId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- call::calls_left
        SELECT calls_started < max_calls AS "left!" FROM jobs WHERE id = $1"#,
        job.0
    )
    .fetch_one(connection)
    .await
}

/// Keeps the provider's handle: before it is polled, so that any worker can.
pub async fn record_operation(
    connection: &mut PgConnection,
    id: CallId,
    operation: &str,
) -> sqlx::Result<Result<(), NotOneRow>> {
    let result = sqlx::query!(
        "-- call::operate
        UPDATE calls SET operation = $2 WHERE id = $1 AND ended_at IS NULL",
        id.0,
        operation,
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}

/// Ends what is still open of a job that ends: nobody will ask for the answers any more. They are possibly billed.
pub async fn abandon(connection: &mut PgConnection, job: JobId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- call::abandon
        UPDATE calls SET ended_at = clock_timestamp(), outcome = $2, detail = 'its job ended before it was answered'
        WHERE job_id = $1 AND ended_at IS NULL",
        job.0,
        Class::Unknown.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives an earlier attempt's call up for lost: possibly made, possibly billed. Only who holds the job may, and only if
/// the call is as it was read: its worker may live, and have kept a handle meanwhile.
pub async fn record_lost(
    connection: &mut PgConnection,
    job: JobId,
    fence: i32,
    call: &Journaled,
    failure: &Failure,
) -> sqlx::Result<Result<(), NotOneRow>> {
    let result = sqlx::query!(
        "-- call::lose
        WITH mine AS (SELECT id FROM jobs WHERE id = $2 AND fence = $3 AND state = 'running' FOR NO KEY UPDATE)
        UPDATE calls SET ended_at = clock_timestamp(), outcome = $4, detail = $5 FROM mine
        WHERE calls.id = $1 AND job_id = mine.id AND ended_at IS NULL AND operation IS NOT DISTINCT FROM $6",
        call.id.0,
        job.0,
        fence,
        failure.class.as_str(),
        failure.detail,
        call.operation,
    )
    .execute(connection)
    .await?;
    Ok(one_row(&result))
}

/// Ends a call once; of one that was given up for lost the picture may yet come, while its job is open. One that does
/// not count gives its count back to the job, whoever works on it now.
pub async fn end(
    connection: &mut PgConnection,
    id: CallId,
    job: JobId,
    ending: &Ending<'_>,
) -> sqlx::Result<Result<(), NotOneRow>> {
    let counts = ending.outcome.contract().counts;
    // Lock order: the job before its calls. Whoever ends the job ends its calls, and nothing is named after that.
    sqlx::query!(
        "-- call::lock_job
        SELECT id FROM jobs WHERE id = $1 FOR NO KEY UPDATE",
        job.0,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let original = ending.original;
    let row = RowId::new("calls", id);
    let (width, height): (Option<i32>, Option<i32>) = match original {
        Some(Original { pixels, .. }) => (
            Some(row.fits("width", pixels.width)?),
            Some(row.fits("height", pixels.height)?),
        ),
        None => (None, None),
    };
    let result = sqlx::query!(
        "-- call::end
        UPDATE calls SET ended_at = clock_timestamp(), outcome = $2, detail = $3, provider_request_id = coalesce($4, provider_request_id),
               usage = $5, cost_micros = coalesce($6, cost_micros), counted = $7, reason = $14, object_key = $8, sha256 = $9, bytes = $10, media_type = $11, width = $12, height = $13
        WHERE id = $1 AND (ended_at IS NULL OR (outcome = ANY($15) AND $8::text IS NOT NULL
          AND EXISTS (SELECT FROM jobs WHERE jobs.id = job_id AND finished_at IS NULL)))",
        id.0,
        ending.outcome.as_str(),
        ending.detail,
        ending.provider_request_id,
        ending.usage,
        ending.cost_micros,
        counts,
        original.map(|original| original.object_key.as_str()),
        original.map(|original| &original.sha256[..]),
        original.map(|original| original.bytes),
        original.map(|original| original.media_type.as_str()),
        width,
        height,
        ending.reason,
        &LOST.map(|class| class.as_str().to_owned()),
    )
    .execute(&mut *connection)
    .await?;
    let ended = one_row(&result);
    if ended.is_ok() && (!counts || original.is_some()) {
        // A job that is queued by now is to be taken up before its deadline, for what it has.
        sqlx::query!(
            "-- call::tell_job
            UPDATE jobs SET calls_started = calls_started - $2, stocked = stocked OR $3 WHERE id = $1 AND ($2 > 0 OR state = 'queued')",
            job.0,
            i32::from(!counts),
            original.is_some(),
        )
        .execute(connection)
        .await?;
    }
    Ok(ended)
}

/// Every call made for a job, oldest first, on the database's clock: an id carries that of the worker that made it.
pub async fn of_job(connection: &mut PgConnection, job: JobId) -> sqlx::Result<Vec<Journaled>> {
    let rows = sqlx::query_as!(
        Row,
        r#"-- call::of_job
        SELECT id, output_idx, provider, model, lane, outcome, detail, reason, operation, object_key, sha256, bytes, media_type, width, height,
               extract(epoch FROM clock_timestamp() - started_at)::float8 AS "age_seconds!"
        FROM calls WHERE job_id = $1 ORDER BY started_at, id"#,
        job.0
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
    fn journaled(self) -> sqlx::Result<Journaled> {
        let id = CallId(self.id);
        let row = RowId::new("calls", id);
        Ok(Journaled {
            id,
            output_idx: self.output_idx,
            lane: self.lane(row)?,
            age: Duration::try_from_secs_f64(self.age_seconds).unwrap_or_default(),
            // An unknown one must not read as none: that call is still under way, and would be given up or made again.
            outcome: self
                .outcome
                .as_deref()
                .map(|outcome| row.known("outcome", outcome, Class::parse))
                .transpose()?,
            original: self.original(row)?,
            detail: self.detail,
            reason: self.reason,
            operation: self.operation,
        })
    }

    /// Calls made before lanes were written down were made where their model stood.
    fn lane(&self, row: RowId<CallId>) -> sqlx::Result<Lane> {
        match &self.lane {
            Some(lane) => row.known("lane", lane, |lane| lane.parse().ok()),
            None => Ok(Lane {
                provider: self.provider.clone(),
                project: None,
                location: "global".to_owned(),
                model: self.model.clone(),
            }),
        }
    }

    /// A row has all of an original or nothing (`originals_are_whole`).
    fn original(&self, row: RowId<CallId>) -> sqlx::Result<Option<Original>> {
        let (
            Some(object_key),
            Some(sha256),
            Some(bytes),
            Some(media_type),
            Some(width),
            Some(height),
        ) = (
            &self.object_key,
            &self.sha256,
            self.bytes,
            &self.media_type,
            self.width,
            self.height,
        )
        else {
            return Ok(None);
        };
        Ok(Some(Original {
            object_key: object_key.clone(),
            sha256: row.fits("sha256", sha256.as_slice())?,
            bytes,
            media_type: row.known("media_type", media_type, MediaType::parse)?,
            pixels: Pixels {
                width: row.fits("width", width)?,
                height: row.fits("height", height)?,
            },
        }))
    }
}
