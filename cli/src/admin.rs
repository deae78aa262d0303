//! What an operator does to a database: tenants, keys, credits, migrations, verification.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::bucket::{Address, Bucket};
use common::clock;
use common::config::{Config, ConfigError};
use common::credits::Credits;
use common::database::{self, Role};
use common::id::{JobId, TenantId};
use common::operation::{Act, tenants};
use common::retention::{Purpose, Retention};
use common::tenant::ApiKey;
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
    act: Act<'_>,
    name: &str,
) -> anyhow::Result<TenantId> {
    at(config, data, Role::Api, async |pool| {
        Ok(tenants::add(pool, act, name).await?)
    })
    .await
}

/// Makes a key for a tenant.
pub async fn add_key(
    config: &Config,
    data: Option<&Path>,
    act: Act<'_>,
    tenant: TenantId,
    name: &str,
) -> anyhow::Result<ApiKey> {
    at(config, data, Role::Api, async |pool| {
        Ok(tenants::add_key(pool, act, tenant, name).await?)
    })
    .await
}

/// Refuses a key from now on.
pub async fn revoke_key(
    config: &Config,
    data: Option<&Path>,
    act: Act<'_>,
    tenant: TenantId,
    key: &str,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        Ok(tenants::revoke_key(pool, act, tenant, key).await?)
    })
    .await
}

/// Says how much larger a tenant's share of a worker is than that of others.
pub async fn weigh(
    config: &Config,
    data: Option<&Path>,
    act: Act<'_>,
    tenant: TenantId,
    weight: u8,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        Ok(tenants::weigh(pool, act, tenant, weight).await?)
    })
    .await
}

/// Says how long a tenant's files and prompts are kept, from now on and of what there is.
pub async fn retain(
    config: &Config,
    data: Option<&Path>,
    act: Act<'_>,
    tenant: TenantId,
    wanted: Retention,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        Ok(tenants::retain(pool, act, tenant, wanted).await?)
    })
    .await
}

/// Keeps a job's files for so many days though they are due; returns the hold's number.
pub async fn hold(
    config: &Config,
    data: Option<&Path>,
    act: Act<'_>,
    of: (TenantId, JobId),
    purpose: Purpose,
    days: u32,
) -> anyhow::Result<i64> {
    let until = clock::now() + Duration::from_hours(24) * days;
    at(config, data, Role::Api, async |pool| {
        Ok(tenants::hold(pool, act, of, purpose, until).await?)
    })
    .await
}

/// Ends a hold.
pub async fn lift(
    config: &Config,
    data: Option<&Path>,
    act: Act<'_>,
    tenant: TenantId,
    hold: i64,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        Ok(tenants::lift(pool, act, tenant, hold).await?)
    })
    .await
}

/// Gives promotional credits, once for each source.
pub async fn grant(
    config: &Config,
    data: Option<&Path>,
    act: Act<'_>,
    tenant: TenantId,
    amount: Credits,
    source: &str,
) -> anyhow::Result<()> {
    at(config, data, Role::Api, async |pool| {
        tenants::grant(pool, act, tenant, source, amount)
            .await
            .context("nothing was granted")?;
        Ok(())
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
        let (_, bucket) = bucket_of(config, data)?;
        // The sweeper gets its turn first: what it is about to remove is no finding.
        let timing = &config.timing;
        let grace = timing.sweep_grace + timing.sweep_every * 2;
        Ok(Some(deep::check(pool, &bucket, grace, &mut tell).await?))
    })
    .await
}

/// The bucket of a `platen up` on `data`, or the configured one. No link is signed by it.
pub(crate) fn bucket_of(config: &Config, data: Option<&Path>) -> anyhow::Result<(Address, Bucket)> {
    let of_up = || data.unwrap_or_else(|| Path::new("data")).join("bucket");
    let address = match &config.bucket {
        None if data.is_some() || config.database_url.is_none() => Address::Folder(of_up()),
        _ => config.bucket()?,
    };
    let bucket = Bucket::open(&address, SecretString::default())
        .context("there is no bucket: PLATEN_BUCKET says where it is")?;
    Ok((address, bucket))
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
