//! The transactions that store an upload, and that delete an upload because its owner asks for it
//! or because the upload has expired.
//!
//! The object is written before its row, under the upload's own key. A repeated request gets the
//! first answer. The file of a deleted upload is planned for deletion like every file that is due,
//! and its deletion leaves a receipt (see [`domain::retention`]).

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;

use crate::admission::{self, AdmissionError};
use crate::config::UnbilledLimits;
use domain::id::{TenantId, UploadId};
use domain::idempotency::{self, Answer};
use domain::upload::Upload;
use storage::database;

/// The answer to a request for an upload.
#[derive(Debug)]
pub enum StoreResult {
    /// The upload was stored now.
    New(Answer),
    /// The upload was stored before, and this is the earlier answer. If the request's key was
    /// found, no row names the object that was written for this request. If an upload with the same
    /// id was found, its row names that object.
    Repeated(Answer),
}

/// The result of [`remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveResult {
    /// The upload is deleted, now or before. No job may use it, and its file is due for deletion.
    Gone,
    /// The upload is not deleted, because this many open jobs use it.
    InUse(i64),
    /// The upload does not exist.
    NotFound,
}

/// Writes the row of an upload whose object is in the bucket already. `answer` makes the answer to
/// the client from the time at which the row was written. A caller passes `request` if a repetition
/// would have another id, and so make another upload. The answer is then stored under the request's
/// key.
///
/// # Errors
/// Returns an error if the tenant does not exist or is frozen, if its storage is full, if the key
/// was used for another request, if the upload was deleted meanwhile, or if Postgres fails.
pub async fn store(
    pool: &PgPool,
    tenant: TenantId,
    upload: &Upload,
    request: Option<&idempotency::Request>,
    unbilled_limits: &UnbilledLimits,
    answer: impl FnOnce(OffsetDateTime) -> Answer,
) -> Result<StoreResult, AdmissionError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    // The lock of the wallet makes the tenant's uploads wait for each other. So two uploads that
    // are together too large cannot both pass the check of the storage limit.
    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .ok_or(AdmissionError::Inactive)?;
    if let Some(request) = request
        && let Some(answer) = admission::find_answer(&mut transaction, tenant, request).await?
    {
        return Ok(StoreResult::Repeated(answer));
    }
    if !wallet.may_submit {
        return Err(AdmissionError::Inactive);
    }
    admission::check_storage_limit(&mut transaction, tenant, upload.file.bytes, unbilled_limits)
        .await?;
    let Some(created_at) = storage::uploads::insert(&mut transaction, tenant, upload).await? else {
        let stored = storage::uploads::find_existing(&mut transaction, &[upload.id]).await?;
        let stored_at = stored.first().and_then(|stored| stored.created_at);
        return Ok(StoreResult::Repeated(answer(
            stored_at.ok_or(AdmissionError::UploadGone)?,
        )));
    };
    let answer = answer(created_at);
    if let Some(request) = request {
        storage::idempotency::keep(&mut transaction, tenant, request, &answer).await?;
    }
    transaction.commit().await?;
    Ok(StoreResult::New(answer))
}

/// Deletes an upload that has expired: it has not been used for as long as its tenant's retention
/// says, or for `max_unpaid_age` if none of its tenant's credits was ever consumed (`None`: only
/// the retention counts). If an open job uses the upload, the upload counts as used now and stays.
/// Returns whether the upload was deleted.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn expire(
    pool: &PgPool,
    tenant: TenantId,
    id: UploadId,
    max_unpaid_age: Option<Duration>,
) -> sqlx::Result<bool> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    // Admission of a job with this upload locks the upload's row, too
    // (`storage::admissions::read`). So either admission waits and then finds the upload deleted,
    // or this transaction waits and then sees the open job.
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

/// Deletes an upload, unless an open job uses it. This transaction and the admission of a job with the
/// upload lock its row. So either admission waits and finds the upload deleted, or this transaction
/// waits and finds the open job.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn remove(pool: &PgPool, tenant: TenantId, id: UploadId) -> sqlx::Result<RemoveResult> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    if storage::uploads::hide(&mut transaction, id).await? {
        // Returning without a commit undoes `hide`.
        let jobs = storage::uploads::open_jobs(&mut transaction, tenant, id).await?;
        if jobs > 0 {
            return Ok(RemoveResult::InUse(jobs));
        }
        storage::retention::plan_upload(&mut transaction, id).await?;
        transaction.commit().await?;
        return Ok(RemoveResult::Gone);
    }
    Ok(if storage::uploads::is_gone(&mut transaction, id).await? {
        RemoveResult::Gone
    } else {
        RemoveResult::NotFound
    })
}
