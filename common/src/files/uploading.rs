//! The transactions that store an upload, and that delete it because its owner asks for it or
//! because its time is over.
//!
//! The object is written before its row, under the upload's own key. A repeated request gets the
//! first answer. A deletion is planned as for every file that is due, and leaves a receipt: see
//! [`domain::retention`].

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;

use crate::admission::{self, AdmissionError};
use crate::config::FreeLimits;
use domain::id::{TenantId, UploadId};
use domain::idempotency::{self, Answer};
use domain::upload::Upload;
use storage::database;

/// The answer to a request for an upload.
#[derive(Debug)]
pub enum Stored {
    /// The upload was stored now.
    New(Answer),
    /// The request was answered before, so this is that answer. No row names the object that was
    /// written for this request.
    Repeated(Answer),
}

/// The result of [`remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is deleted, now or before: no job may use it, and its file is due.
    Gone,
    /// It is not deleted, because so many open jobs use it.
    InUse(i64),
    /// It does not exist.
    NotFound,
}

/// Stores an upload whose object is written. `answer` makes the reply from the time of storing.
/// With `request`, for requests that would make another upload when repeated, the answer is kept
/// under its key.
///
/// # Errors
/// The tenant does not exist or is frozen, its storage is full, the key was used for another
/// request, or the upload was deleted meanwhile; or the database failed.
pub async fn store(
    pool: &PgPool,
    tenant: TenantId,
    upload: &Upload,
    request: Option<&idempotency::Request>,
    free_limits: &FreeLimits,
    answer: impl FnOnce(OffsetDateTime) -> Answer,
) -> Result<Stored, AdmissionError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    // The lock of the wallet makes the tenant's uploads wait for each other: two that are together
    // too large cannot both pass the check of the storage limit.
    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .ok_or(AdmissionError::Inactive)?;
    if let Some(request) = request
        && let Some(answer) = admission::find_answer(&mut transaction, tenant, request).await?
    {
        return Ok(Stored::Repeated(answer));
    }
    if !wallet.active {
        return Err(AdmissionError::Inactive);
    }
    admission::check_storage_limit(&mut transaction, tenant, upload.bytes, free_limits).await?;
    let Some(created_at) = storage::uploads::insert(&mut transaction, tenant, upload).await? else {
        let kept = storage::uploads::some(&mut transaction, &[upload.id]).await?;
        let kept = kept.first().and_then(|kept| kept.created_at);
        return Ok(Stored::Repeated(answer(
            kept.ok_or(AdmissionError::UploadGone)?,
        )));
    };
    let answer = answer(created_at);
    if let Some(request) = request {
        storage::idempotency::keep(&mut transaction, tenant, request, &answer).await?;
    }
    transaction.commit().await?;
    Ok(Stored::New(answer))
}

/// Deletes an upload whose time is over: the time of its tenant's retention, or the time `max_unpaid_age`
/// where its tenant never paid. If an open job uses it, its time begins again. Returns whether it
/// was deleted.
///
/// # Errors
/// The database failed.
pub async fn expire(
    pool: &PgPool,
    tenant: TenantId,
    id: UploadId,
    max_unpaid_age: Option<Duration>,
) -> sqlx::Result<bool> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    // A job that is being admitted with this upload locks its row, too (`storage::uploads::pin`). So
    // either it waits and then finds the upload deleted, or this waits and then sees the open job.
    if !storage::uploads::lock_due(&mut transaction, id, max_unpaid_age).await? {
        return Ok(false);
    }
    let is_used = storage::uploads::open_jobs(&mut transaction, tenant, id).await? > 0;
    if is_used {
        storage::uploads::touch(&mut transaction, id).await?;
    } else {
        storage::uploads::hide(&mut transaction, id).await?;
        storage::retention::plan_upload(&mut transaction, id).await?;
    }
    transaction.commit().await?;
    Ok(!is_used)
}

/// Deletes an upload, unless an open job uses it. As in [`expire`] row locks decide between this
/// and a job that is being admitted.
///
/// # Errors
/// The database failed.
pub async fn remove(pool: &PgPool, tenant: TenantId, id: UploadId) -> sqlx::Result<Removed> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    if storage::uploads::hide(&mut transaction, id).await? {
        // Returning without a commit undoes the mark.
        let jobs = storage::uploads::open_jobs(&mut transaction, tenant, id).await?;
        if jobs > 0 {
            return Ok(Removed::InUse(jobs));
        }
        storage::retention::plan_upload(&mut transaction, id).await?;
        transaction.commit().await?;
        return Ok(Removed::Gone);
    }
    Ok(if storage::uploads::is_gone(&mut transaction, id).await? {
        Removed::Gone
    } else {
        Removed::NotFound
    })
}
