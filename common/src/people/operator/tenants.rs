//! What operators do for one tenant: add it, give it keys and credits, say how long its files are kept. Each act and its record
//! are one transaction, so neither exists without the other.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use domain::credits::{CreditLimitError, Credits};
use domain::id::{GrantId, JobId, TenantId};
use domain::ledger::Transfer;
use domain::operator::Actor;
use domain::retention::{Purpose, Retention};
use domain::tenant::ApiKey;
use storage::{database, operators};

/// Why nothing was done, and nothing recorded.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no tenant {0}")]
    NoTenant(TenantId),
    #[error(
        "tenant {tenant} was given {amount} from source {source_id} on {at}, and a source gives once to each tenant: name another \
         source to give more",
        at = at.format(&Rfc3339).unwrap_or_default()
    )]
    GivenBefore {
        tenant: TenantId,
        source_id: String,
        amount: Credits,
        at: OffsetDateTime,
    },
    #[error("tenant {tenant} has no key {key} that is not revoked already")]
    NoKey { tenant: TenantId, key: String },
    #[error("tenant {tenant} has no job {job}")]
    NoJob { tenant: TenantId, job: JobId },
    #[error("tenant {tenant} has no hold {hold} that stands")]
    NoHold { tenant: TenantId, hold: i64 },
    #[error(transparent)]
    TooMany(#[from] CreditLimitError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Adds a tenant with an empty wallet.
pub async fn add(pool: &PgPool, act: Actor<'_>, name: &str) -> Result<TenantId, Refusal> {
    let tenant = TenantId::new();
    let mut transaction = database::begin_for(pool, tenant).await?;
    storage::tenants::insert(&mut transaction, tenant, name).await?;
    record(
        &mut transaction,
        act,
        "add_tenant",
        tenant,
        json!({ "name": name }),
    )
    .await?;
    transaction.commit().await?;
    Ok(tenant)
}

/// Makes a key for a tenant. The record names its public part only.
pub async fn add_key(
    pool: &PgPool,
    act: Actor<'_>,
    tenant: TenantId,
    name: &str,
) -> Result<ApiKey, Refusal> {
    let key = ApiKey::generate();
    let mut transaction = database::begin_for(pool, tenant).await?;
    must_exist(&mut transaction, tenant).await?;
    storage::tenants::insert_key(&mut transaction, tenant, &key, name).await?;
    let subject = json!({ "key": key.id, "name": name });
    record(&mut transaction, act, "add_key", tenant, subject).await?;
    transaction.commit().await?;
    Ok(key)
}

/// Refuses a key from now on.
pub async fn revoke_key(
    pool: &PgPool,
    act: Actor<'_>,
    tenant: TenantId,
    key: &str,
) -> Result<(), Refusal> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    if !storage::tenants::revoke_key(&mut transaction, tenant, key).await? {
        let key = key.to_owned();
        return Err(Refusal::NoKey { tenant, key });
    }
    record(
        &mut transaction,
        act,
        "revoke_key",
        tenant,
        json!({ "key": key }),
    )
    .await?;
    Ok(transaction.commit().await?)
}

/// Gives promotional credits, once for each source.
pub async fn grant(
    pool: &PgPool,
    act: Actor<'_>,
    tenant: TenantId,
    source: &str,
    amount: Credits,
) -> Result<GrantId, Refusal> {
    let grant = GrantId::new();
    let mut transaction = database::begin_for(pool, tenant).await?;
    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .ok_or(Refusal::NoTenant(tenant))?;
    if amount > Credits::MAX_TRANSFER {
        return Err(CreditLimitError::Moved.into());
    }
    if !storage::ledger::insert_promo(&mut transaction, tenant, grant, source, amount).await? {
        let (amount, at) = storage::ledger::given_by(&mut transaction, tenant, source).await?;
        return Err(Refusal::GivenBefore {
            tenant,
            source_id: source.to_owned(),
            amount,
            at,
        });
    }
    wallet.may_be_given(amount)?;
    storage::ledger::post(&mut transaction, tenant, &Transfer::promo(grant, amount)).await?;
    let subject = json!({ "credits": amount.get(), "source": source, "grant": grant });
    record(&mut transaction, act, "grant", tenant, subject).await?;
    transaction.commit().await?;
    Ok(grant)
}

/// Says how much larger a tenant's share of a worker is than that of others, 1 to 100.
pub async fn set_weight(
    pool: &PgPool,
    act: Actor<'_>,
    tenant: TenantId,
    weight: u8,
) -> Result<(), Refusal> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    must_exist(&mut transaction, tenant).await?;
    storage::tenants::set_weight(&mut transaction, tenant, weight).await?;
    let subject = json!({ "weight": weight });
    record(&mut transaction, act, "weight", tenant, subject).await?;
    Ok(transaction.commit().await?)
}

/// Says how long a tenant's files and prompts are kept, from now on and of what there is.
pub async fn set_retention(
    pool: &PgPool,
    act: Actor<'_>,
    tenant: TenantId,
    wanted: Retention,
) -> Result<(), Refusal> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    must_exist(&mut transaction, tenant).await?;
    storage::retention::set(&mut transaction, tenant, wanted).await?;
    let subject = json!({ "retention": wanted });
    record(&mut transaction, act, "retention", tenant, subject).await?;
    Ok(transaction.commit().await?)
}

/// Keeps a job's files until a time though they are due; returns the hold's number. The act's reason is the hold's, too.
pub async fn add_legal_hold(
    pool: &PgPool,
    act: Actor<'_>,
    (tenant, job): (TenantId, JobId),
    purpose: Purpose,
    until: OffsetDateTime,
) -> Result<i64, Refusal> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let hold = storage::retention::add_legal_hold(
        &mut transaction,
        tenant,
        job,
        purpose,
        act.reason,
        until,
    )
    .await?;
    let hold = hold.ok_or(Refusal::NoJob { tenant, job })?;
    let until = until.format(&Rfc3339).unwrap_or_default();
    let subject = json!({ "hold": hold, "job": job, "purpose": purpose.as_str(), "until": until });
    record(&mut transaction, act, "hold", tenant, subject).await?;
    transaction.commit().await?;
    Ok(hold)
}

/// Ends a hold.
pub async fn remove_legal_hold(
    pool: &PgPool,
    act: Actor<'_>,
    tenant: TenantId,
    hold: i64,
) -> Result<(), Refusal> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let lifted = storage::retention::remove_legal_hold(&mut transaction, hold).await?;
    let job = lifted.ok_or(Refusal::NoHold { tenant, hold })?;
    let subject = json!({ "hold": hold, "job": job });
    record(&mut transaction, act, "lift", tenant, subject).await?;
    Ok(transaction.commit().await?)
}

async fn must_exist(connection: &mut PgConnection, tenant: TenantId) -> Result<(), Refusal> {
    if storage::tenants::exists(connection, tenant).await? {
        Ok(())
    } else {
        Err(Refusal::NoTenant(tenant))
    }
}

/// Keeps what was done to a tenant, in the transaction that does it.
async fn record(
    connection: &mut PgConnection,
    act: Actor<'_>,
    action: &str,
    tenant: TenantId,
    mut subject: Value,
) -> sqlx::Result<()> {
    subject["tenant"] = json!(tenant);
    operators::record(connection, act, action, &subject).await
}
