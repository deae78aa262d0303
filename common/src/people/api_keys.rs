//! API keys of a tenant: made, rotated and revoked by its own callers.
//!
//! Operators do the same with the command line (`operator::tenants`).

use std::time::Duration;

use sqlx::PgPool;

use crate::admission::{self, AdmissionError};
use domain::api_key::{ApiKey, KeyRecord, KeyTerms};
use domain::id::TenantId;
use domain::idempotency::{Answer, Request};
use storage::database::{self, Transaction};

/// How many keys a tenant may have that are neither revoked nor expired.
pub const MAX_KEYS: usize = 100;

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The tenant has [`MAX_KEYS`] keys.
    #[error("the tenant has {MAX_KEYS} API keys")]
    TooMany,
    /// The tenant has no key with this id.
    #[error("there is no such key")]
    NotFound,
    /// The key to rotate was revoked, has expired, or was rotated before.
    #[error("the key was revoked, has expired, or was rotated before")]
    NotActive,
    /// The request repeats an earlier one in a wrong way, or Postgres fails.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
}

impl From<sqlx::Error> for KeyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Admission(error.into())
    }
}

/// What a request for a new key made.
#[derive(Debug)]
pub enum NewKey {
    /// A new key. Only this answer has its secret.
    Made(ApiKey, Answer),
    /// The request was answered before. This is its answer, without the secret.
    Repeated(Answer),
}

/// Makes a key. `answer` makes the answer without the secret, which is kept for repetitions, from
/// the key.
///
/// # Errors
/// Returns an error if the tenant has too many keys, if the idempotency key belongs to another
/// request, or if Postgres fails.
pub async fn create(
    pool: &PgPool,
    tenant: TenantId,
    request: &Request,
    terms: KeyTerms,
    answer: impl FnOnce(&KeyRecord) -> Answer,
) -> Result<NewKey, KeyError> {
    let (mut transaction, repeated) = begin(pool, tenant, request).await?;
    if let Some(answer) = repeated {
        return Ok(NewKey::Repeated(answer));
    }
    let key = ApiKey::generate();
    let record = insert(&mut transaction, tenant, &key, terms).await?;
    finish(transaction, tenant, request, key, answer(&record)).await
}

/// Makes a key that replaces another one: with the same name, scopes and networks, and the same
/// time to live. The old key stays valid for `overlap`, or until it expires if that is sooner.
/// `check` is asked before anything is written, and may refuse.
///
/// # Errors
/// Returns an error if there is no such key, if it is not active or was rotated before, if the
/// tenant has too many keys, if `check` refuses, if the idempotency key belongs to another request,
/// or if Postgres fails.
pub async fn rotate<E: From<KeyError>>(
    pool: &PgPool,
    tenant: TenantId,
    request: &Request,
    (old, overlap): (&str, Duration),
    check: impl FnOnce(&KeyRecord) -> Result<(), E>,
    answer: impl FnOnce(&KeyRecord) -> Answer,
) -> Result<NewKey, E> {
    let (mut transaction, repeated) = begin(pool, tenant, request).await?;
    if let Some(answer) = repeated {
        return Ok(NewKey::Repeated(answer));
    }
    let found = storage::api_keys::find(&mut transaction, tenant, old).await;
    let found = found.map_err(KeyError::from)?.ok_or(KeyError::NotFound)?;
    check(&found)?;
    let key = ApiKey::generate();
    let replaced =
        storage::api_keys::replace(&mut transaction, tenant, old, &key.id, overlap).await;
    if !replaced.map_err(KeyError::from)? {
        return Err(KeyError::NotActive.into());
    }
    let now = domain::clock::now();
    let terms = KeyTerms {
        expires_at: (found.terms.expires_at)
            .map(|expires_at| now + (expires_at - found.created_at)),
        ..found.terms
    };
    let record = insert(&mut transaction, tenant, &key, terms).await?;
    Ok(finish(transaction, tenant, request, key, answer(&record)).await?)
}

/// Revokes a key. It is refused everywhere within five seconds. Returns `false` if the tenant has no
/// such key. A key that is revoked already stays so.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn revoke(pool: &PgPool, tenant: TenantId, id: &str) -> sqlx::Result<bool> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let revoked = storage::api_keys::revoke(&mut transaction, tenant, id).await?;
    let exists =
        revoked || (storage::api_keys::find(&mut transaction, tenant, id).await?).is_some();
    transaction.commit().await?;
    Ok(exists)
}

/// Begins a request for a key. The lock of the wallet makes the tenant's requests wait for each
/// other, so a repetition finds the first answer, and two requests cannot both make the last key.
async fn begin(
    pool: &PgPool,
    tenant: TenantId,
    request: &Request,
) -> Result<(Transaction, Option<Answer>), KeyError> {
    let mut transaction = database::begin_with_wallet(pool, tenant).await?;
    let repeated = admission::find_answer(&mut transaction, tenant, request).await?;
    Ok((transaction, repeated))
}

async fn insert(
    transaction: &mut Transaction,
    tenant: TenantId,
    key: &ApiKey,
    terms: KeyTerms,
) -> Result<KeyRecord, KeyError> {
    let active = storage::api_keys::count_active(transaction, tenant).await?;
    if usize::try_from(active).is_ok_and(|active| active >= MAX_KEYS) {
        return Err(KeyError::TooMany);
    }
    let created_at = storage::api_keys::insert(transaction, tenant, key, &terms).await?;
    Ok(KeyRecord {
        id: key.id.clone(),
        terms,
        created_at,
        last_used_at: None,
        revoked_at: None,
        successor: None,
    })
}

async fn finish(
    mut transaction: Transaction,
    tenant: TenantId,
    request: &Request,
    key: ApiKey,
    answer: Answer,
) -> Result<NewKey, KeyError> {
    storage::idempotency::keep(&mut transaction, tenant, request, &answer).await?;
    transaction.commit().await?;
    Ok(NewKey::Made(key, answer))
}
