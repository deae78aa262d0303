//! What an operator does to a database: tenants, keys, credits, migrations, verification.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use common::admission;
use common::bucket::{Address, Bucket};
use common::clock;
use common::config::{Config, ConfigError};
use common::credits::Credits;
use common::database::{self, Role};
use common::id::{JobId, TenantId};
use common::retention::{self, Purpose, Retention};
use common::tenant::{self, ApiKey};
use common::verify;
use common::verify::deep::{self, Progress, Told};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::private::Database;

/// Migrates with the owner's login, and lets the runtime login of `DATABASE_URL` act as the runtime roles.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let owner_url = config.owner_url.as_ref().ok_or(ConfigError::Missing {
        name: "DATABASE_OWNER_URL",
        needed: "the login that owns and migrates the database",
    })?;
    let runtime = config
        .database_url
        .as_ref()
        .map(|url| url.expose_secret().parse::<PgConnectOptions>())
        .transpose()?;
    database::migrate(
        owner_url.expose_secret(),
        runtime.as_ref().map(PgConnectOptions::get_username),
    )
    .await?;
    tracing::info!("The database is up to date");
    Ok(())
}

/// Adds a tenant with an empty wallet.
pub async fn add_tenant(
    config: &Config,
    data: Option<&Path>,
    name: &str,
) -> anyhow::Result<TenantId> {
    at(config, data, Role::Api, async |pool| {
        insert_tenant(pool, name).await
    })
    .await
}

/// Makes a key for a tenant.
pub async fn add_key(
    config: &Config,
    data: Option<&Path>,
    tenant: TenantId,
    name: &str,
) -> anyhow::Result<ApiKey> {
    at(config, data, Role::Api, async |pool| {
        insert_key(pool, tenant, name).await
    })
    .await
}

/// Refuses a key from now on.
pub async fn revoke_key(
    config: &Config,
    data: Option<&Path>,
    tenant: TenantId,
    key: &str,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        let mut transaction = database::begin_for(pool, tenant).await?;
        let revoked = tenant::store::revoke_key(&mut transaction, tenant, key).await?;
        transaction.commit().await?;
        ensure!(
            revoked,
            "tenant {tenant} has no key {key} that is not revoked already"
        );
        Ok(())
    })
    .await
}

/// Says how long a tenant's files are kept, from now on and of what there is.
pub async fn retain(
    config: &Config,
    data: Option<&Path>,
    tenant: TenantId,
    wanted: Retention,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        let mut transaction = database::begin_for(pool, tenant).await?;
        retention::store::set(&mut transaction, tenant, wanted).await?;
        Ok(transaction.commit().await?)
    })
    .await
}

/// Keeps a job's files for so many days though they are due; returns the hold's number.
pub async fn hold(
    config: &Config,
    data: Option<&Path>,
    (tenant, job): (TenantId, JobId),
    purpose: Purpose,
    reason: &str,
    days: u32,
) -> anyhow::Result<i64> {
    let until = clock::now() + Duration::from_hours(24) * days;
    at(config, data, Role::Api, async |pool| {
        let mut transaction = database::begin_for(pool, tenant).await?;
        let hold =
            retention::store::hold(&mut transaction, tenant, job, purpose, reason, until).await?;
        transaction.commit().await?;
        hold.with_context(|| format!("tenant {tenant} has no job {job}"))
    })
    .await
}

/// Ends a hold.
pub async fn lift(
    config: &Config,
    data: Option<&Path>,
    tenant: TenantId,
    hold: i64,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        let mut transaction = database::begin_for(pool, tenant).await?;
        let lifted = retention::store::lift(&mut transaction, hold).await?;
        transaction.commit().await?;
        ensure!(lifted, "tenant {tenant} has no hold {hold} that stands");
        Ok(())
    })
    .await
}

/// Gives promotional credits, once for each source. `false`: this source has given before.
pub async fn grant(
    config: &Config,
    data: Option<&Path>,
    tenant: TenantId,
    amount: Credits,
    source: &str,
) -> anyhow::Result<bool> {
    at(config, data, Role::Api, async |pool| {
        let granted = admission::grant_promo(pool, tenant, source, amount).await;
        granted.with_context(|| format!("nothing was granted to {tenant}"))
    })
    .await
}

/// Checks every invariant; with `deep` looks into the bucket, too, and says how much it saw.
pub async fn verify(
    config: &Config,
    data: Option<&Path>,
    deep: bool,
    mut tell: impl FnMut(Told),
) -> anyhow::Result<Option<Progress>> {
    at(config, data, Role::Reader, async |pool| {
        verify::check(pool, |_, found, _| {
            found.into_iter().map(Told::Finding).for_each(&mut tell);
        })
        .await?;
        if !deep {
            return Ok(None);
        }
        let bucket = bucket_of(config, data)?;
        // The sweeper gets its turn first: what it is about to remove is no finding.
        let timing = &config.timing;
        let grace = timing.sweep_grace + timing.sweep_every * 2;
        Ok(Some(deep::check(pool, &bucket, grace, &mut tell).await?))
    })
    .await
}

/// The bucket of a `platen up` on `data`, or the configured one: only to look at.
pub(crate) fn bucket_of(config: &Config, data: Option<&Path>) -> anyhow::Result<Bucket> {
    let address = match (&config.bucket, data) {
        (None, Some(data)) => Address::Folder(data.join("bucket")),
        _ => config.bucket(),
    };
    if let Address::Folder(folder) = &address {
        ensure!(
            folder.is_dir(),
            "there is no bucket at {address}: PLATEN_BUCKET says where it is"
        );
    }
    // No link is signed here.
    Ok(Bucket::open(&address, SecretString::default())?)
}

/// A tenant with an empty wallet.
pub async fn insert_tenant(pool: &PgPool, name: &str) -> anyhow::Result<TenantId> {
    let tenant = TenantId::new();
    let mut transaction = database::begin_for(pool, tenant).await?;
    tenant::store::insert(&mut transaction, tenant, name).await?;
    transaction.commit().await?;
    Ok(tenant)
}

/// A new key for a tenant that exists.
pub async fn insert_key(pool: &PgPool, tenant: TenantId, name: &str) -> anyhow::Result<ApiKey> {
    let key = ApiKey::generate();
    let mut transaction = database::begin_for(pool, tenant).await?;
    if !tenant::store::exists(&mut transaction, tenant).await? {
        bail!("there is no tenant {tenant}");
    }
    tenant::store::insert_key(&mut transaction, tenant, &key, name).await?;
    transaction.commit().await?;
    Ok(key)
}

/// Works on the database a word is about: the named data folder's, the configured one, or that of `./data`. A
/// Postgres that was started for it is stopped again, however the work ends.
pub(crate) async fn at<T>(
    config: &Config,
    data: Option<&Path>,
    role: Role,
    work: impl AsyncFnOnce(&PgPool) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (url, private) = match (data, &config.database_url) {
        (None, Some(url)) => (url.expose_secret().to_owned(), None),
        (data, _) => {
            let private = Database::open(data.unwrap_or_else(|| Path::new("data"))).await?;
            (private.database_url().to_owned(), Some(private))
        }
    };
    let worked = async {
        let pool = database::connect(&url, role, 2)
            .await
            .context("cannot reach Postgres")?;
        ensure!(
            database::is_migrated(&pool).await?,
            "the database is not up to date: run `platen migrate`, or `platen up` once"
        );
        let worked = work(&pool).await;
        pool.close().await;
        worked
    }
    .await;
    if let Some(private) = private {
        private.close().await;
    }
    worked
}
