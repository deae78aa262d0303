//! Actions of operators for one tenant: adding it, its keys and credits, and how long its files are
//! kept.
//!
//! Each action and its audit entry are one transaction, so neither exists without the other.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use domain::api_key::{ApiKey, KeyTerms};
use domain::credits::{CreditLimitError, Credits};
use domain::id::{GrantId, JobId, TenantId};
use domain::ledger::Transfer;
use domain::operator::Actor;
use domain::permission::Permission;
use domain::retention::{Purpose, Retention};
use storage::{database, operators};

/// Why an action failed. Nothing was done, and no audit entry was written.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// The tenant does not exist.
    #[error("there is no tenant {0}")]
    NoTenant(TenantId),
    /// The tenant has a grant from this source already.
    #[error(
        "tenant {tenant} was given {amount} from source {source_id} on {at}, and a source gives once to each tenant: name another \
         source to give more",
        at = at.format(&Rfc3339).unwrap_or_default()
    )]
    GivenBefore {
        /// The tenant.
        tenant: TenantId,
        /// The source.
        source_id: String,
        /// The amount of that grant.
        amount: Credits,
        /// When it was given.
        at: OffsetDateTime,
    },
    /// The key does not exist, or was revoked before.
    #[error("tenant {tenant} has no key {key_id} that could be revoked")]
    NoKey {
        /// The tenant.
        tenant: TenantId,
        /// The key's id.
        key_id: String,
    },
    /// The tenant has no such job.
    #[error("tenant {tenant} has no job {job}")]
    NoJob {
        /// The tenant.
        tenant: TenantId,
        /// The job.
        job: JobId,
    },
    /// The legal hold does not exist, or was removed before.
    #[error("tenant {tenant} has no legal hold {legal_hold} that could be removed")]
    NoLegalHold {
        /// The tenant.
        tenant: TenantId,
        /// The number of the legal hold.
        legal_hold: i64,
    },
    /// More credits than one transfer, or one wallet, may have.
    #[error(transparent)]
    CreditLimit(#[from] CreditLimitError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Adds a tenant with an empty wallet.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn add(pool: &PgPool, actor: Actor<'_>, name: &str) -> Result<TenantId, TenantError> {
    let tenant = TenantId::new();
    let mut transaction = database::begin_for(pool, tenant).await?;
    storage::tenants::insert(&mut transaction, tenant, name).await?;
    record(
        &mut transaction,
        actor,
        "add_tenant",
        tenant,
        json!({ "name": name }),
    )
    .await?;
    transaction.commit().await?;
    Ok(tenant)
}

/// Creates an API key for a tenant. The audit entry names only the public part of the key.
///
/// # Errors
/// Returns an error if the tenant does not exist, or if Postgres fails.
pub async fn add_key(
    pool: &PgPool,
    actor: Actor<'_>,
    tenant: TenantId,
    terms: &KeyTerms,
) -> Result<ApiKey, TenantError> {
    let key = ApiKey::generate();
    let mut transaction = database::begin_for(pool, tenant).await?;
    must_exist(&mut transaction, tenant).await?;
    storage::api_keys::insert(&mut transaction, tenant, &key, terms).await?;
    let scopes: Vec<&str> = terms.permissions().iter().map(Permission::as_str).collect();
    let subject = json!({ "key": key.id, "name": terms.name, "scopes": scopes });
    record(&mut transaction, actor, "add_key", tenant, subject).await?;
    transaction.commit().await?;
    Ok(key)
}

/// Revokes the API key with this id: the key is refused from now on.
///
/// # Errors
/// Returns an error if the tenant has no such key, if the key was revoked before, or if Postgres
/// fails.
pub async fn revoke_key(
    pool: &PgPool,
    actor: Actor<'_>,
    tenant: TenantId,
    key_id: &str,
) -> Result<(), TenantError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    if !storage::api_keys::revoke(&mut transaction, tenant, key_id).await? {
        let key_id = key_id.to_owned();
        return Err(TenantError::NoKey { tenant, key_id });
    }
    record(
        &mut transaction,
        actor,
        "revoke_key",
        tenant,
        json!({ "key": key_id }),
    )
    .await?;
    Ok(transaction.commit().await?)
}

/// Gives promotional credits, once for each source.
///
/// # Errors
/// Returns an error if the tenant does not exist, already has a grant from this source, or would
/// have too many credits, or if Postgres fails.
pub async fn grant(
    pool: &PgPool,
    actor: Actor<'_>,
    tenant: TenantId,
    source: &str,
    amount: Credits,
) -> Result<GrantId, TenantError> {
    let grant = GrantId::new();
    let mut transaction = database::begin_for(pool, tenant).await?;
    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .ok_or(TenantError::NoTenant(tenant))?;
    if amount > Credits::MAX_TRANSFER {
        return Err(CreditLimitError::Moved.into());
    }
    if !storage::ledger::insert_promo(&mut transaction, tenant, grant, source, amount).await? {
        let (amount, at) = storage::ledger::promo_from(&mut transaction, tenant, source).await?;
        return Err(TenantError::GivenBefore {
            tenant,
            source_id: source.to_owned(),
            amount,
            at,
        });
    }
    // Checked last: a command that is repeated fails because of its source, not because of the
    // balance. An error undoes the insert.
    wallet.may_be_given(amount)?;
    storage::ledger::post(&mut transaction, tenant, &Transfer::promo(grant, amount)).await?;
    let subject = json!({ "credits": amount.get(), "source": source, "grant": grant });
    record(&mut transaction, actor, "grant", tenant, subject).await?;
    transaction.commit().await?;
    Ok(grant)
}

/// Sets a tenant's weight, 1 to 100. The tenant may have this many times as many slots of a worker
/// as a tenant with weight 1.
///
/// # Errors
/// Returns an error if the tenant does not exist, or if Postgres fails.
pub async fn set_weight(
    pool: &PgPool,
    actor: Actor<'_>,
    tenant: TenantId,
    weight: u8,
) -> Result<(), TenantError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    must_exist(&mut transaction, tenant).await?;
    storage::tenants::set_weight(&mut transaction, tenant, weight).await?;
    let subject = json!({ "weight": weight });
    record(&mut transaction, actor, "weight", tenant, subject).await?;
    Ok(transaction.commit().await?)
}

/// Sets how long a tenant's files and prompts are kept, both existing and new ones. A deletion that
/// is planned already never moves to a later time.
///
/// # Errors
/// Returns an error if the tenant does not exist, or if Postgres fails.
pub async fn set_retention(
    pool: &PgPool,
    actor: Actor<'_>,
    tenant: TenantId,
    wanted: Retention,
) -> Result<(), TenantError> {
    // With the wallet's lock no job can end meanwhile, so the deletion of every job's files is planned.
    let mut transaction = database::begin_with_wallet(pool, tenant).await?;
    must_exist(&mut transaction, tenant).await?;
    storage::retention::set(&mut transaction, tenant, wanted).await?;
    let subject = json!({ "retention": wanted });
    record(&mut transaction, actor, "retention", tenant, subject).await?;
    Ok(transaction.commit().await?)
}

/// Adds a legal hold, which keeps a job's files until a given time although they are due for
/// deletion. Returns the number of the legal hold. The reason of the action is also the reason of
/// the legal hold.
///
/// # Errors
/// Returns an error if the tenant has no such job, or if Postgres fails.
pub async fn add_legal_hold(
    pool: &PgPool,
    actor: Actor<'_>,
    (tenant, job): (TenantId, JobId),
    purpose: Purpose,
    until: OffsetDateTime,
) -> Result<i64, TenantError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let legal_hold = storage::retention::add_legal_hold(
        &mut transaction,
        tenant,
        job,
        purpose,
        actor.reason,
        until,
    )
    .await?;
    let legal_hold = legal_hold.ok_or(TenantError::NoJob { tenant, job })?;
    let until = until.format(&Rfc3339).unwrap_or_default();
    let subject =
        json!({ "hold": legal_hold, "job": job, "purpose": purpose.as_str(), "until": until });
    record(&mut transaction, actor, "hold", tenant, subject).await?;
    transaction.commit().await?;
    Ok(legal_hold)
}

/// Removes the legal hold with this number. The files are then deleted when they are due, or at
/// once if they are due already.
///
/// # Errors
/// Returns an error if the tenant has no such legal hold, if it was removed before, or if Postgres
/// fails.
pub async fn remove_legal_hold(
    pool: &PgPool,
    actor: Actor<'_>,
    tenant: TenantId,
    legal_hold: i64,
) -> Result<(), TenantError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let job = storage::retention::remove_legal_hold(&mut transaction, legal_hold).await?;
    let job = job.ok_or(TenantError::NoLegalHold { tenant, legal_hold })?;
    let subject = json!({ "hold": legal_hold, "job": job });
    record(&mut transaction, actor, "lift", tenant, subject).await?;
    Ok(transaction.commit().await?)
}

/// Returns an error if the tenant does not exist.
async fn must_exist(connection: &mut PgConnection, tenant: TenantId) -> Result<(), TenantError> {
    if storage::tenants::exists(connection, tenant).await? {
        Ok(())
    } else {
        Err(TenantError::NoTenant(tenant))
    }
}

/// Writes an audit entry, in the transaction of the action. Adds the tenant to `subject`.
async fn record(
    connection: &mut PgConnection,
    actor: Actor<'_>,
    action: &str,
    tenant: TenantId,
    mut subject: Value,
) -> sqlx::Result<()> {
    subject["tenant"] = json!(tenant);
    operators::record(connection, actor, action, &subject).await
}
