//! Uploading: the transaction in which a picture becomes an upload, and those in which it ceases to be one: because its owner
//! deletes it, or because its time is over.
//!
//! The object is written before, under the upload's own key; a repeated request is answered as the first was. What is deleted is
//! planned like every file that is due, and leaves a receipt: read [`domain::retention`] next.

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;

use crate::admission::{self, Refusal};
use crate::config::Unpaid;
use domain::id::{TenantId, UploadId};
use domain::idempotency::{self, Answer};
use domain::upload::Upload;
use storage::database;

/// A request that was answered with success.
#[derive(Debug)]
pub enum Stored {
    New(Answer),
    /// The answer this key was given before: the object is nobody's.
    Repeated(Answer),
}

/// What became of an upload that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// No job may name it any more, and its file is due. Also when that was so before.
    Gone,
    /// So many open jobs need it.
    InUse(i64),
    /// There is none.
    Nothing,
}

/// Keeps an upload whose object is written. `answer` makes the reply; it is kept for whoever repeats the `request`, where it is
/// one that may make another upload.
pub async fn store(
    pool: &PgPool,
    tenant: TenantId,
    upload: &Upload,
    request: Option<&idempotency::Request>,
    unpaid: &Unpaid,
    answer: impl FnOnce(OffsetDateTime) -> Answer,
) -> Result<Stored, Refusal> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .ok_or(Refusal::Inactive)?;
    if let Some(request) = request
        && let Some(answer) = admission::find_answer(&mut transaction, tenant, request).await?
    {
        return Ok(Stored::Repeated(answer));
    }
    if !wallet.active {
        return Err(Refusal::Inactive);
    }
    admission::check_storage_limit(&mut transaction, tenant, upload.bytes, unpaid).await?;
    let Some(created_at) = storage::uploads::insert(&mut transaction, tenant, upload).await? else {
        let kept = storage::uploads::some(&mut transaction, &[upload.id]).await?;
        let kept = kept.first().and_then(|kept| kept.created_at);
        return Ok(Stored::Repeated(answer(kept.ok_or(Refusal::UploadGone)?)));
    };
    let answer = answer(created_at);
    if let Some(request) = request {
        storage::idempotency::keep(&mut transaction, tenant, request, &answer).await?;
    }
    transaction.commit().await?;
    Ok(Stored::New(answer))
}

/// Deletes an upload whose time is over, as its owner would: the time its tenant wants, or the `unpaid` time where its tenant never
/// paid. Where an open job needs it, its time begins anew. `false`: it stays.
pub async fn expire(
    pool: &PgPool,
    tenant: TenantId,
    id: UploadId,
    unpaid: Option<Duration>,
) -> sqlx::Result<bool> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    // A job that names it at this moment waits for us, or we for it: then we see that it is open.
    if !storage::uploads::lock_due(&mut transaction, id, unpaid).await? {
        return Ok(false);
    }
    let needed = storage::uploads::open_jobs(&mut transaction, tenant, id).await? > 0;
    if needed {
        storage::uploads::touch(&mut transaction, id).await?;
    } else {
        storage::uploads::hide(&mut transaction, id).await?;
        storage::retention::plan_upload(&mut transaction, id).await?;
    }
    transaction.commit().await?;
    Ok(!needed)
}

/// Deletes an upload, unless an open job needs it: a job that names it at this moment waits for us, or we for it.
pub async fn remove(pool: &PgPool, tenant: TenantId, id: UploadId) -> sqlx::Result<Removed> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    if storage::uploads::hide(&mut transaction, id).await? {
        // Not committed: whoever finds it in use leaves it as it was.
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
        Removed::Nothing
    })
}
