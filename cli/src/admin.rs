//! What an operator does to a database: tenants, keys, credits, migrations, verification.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::anchor::{self, Depth};
use common::bucket::{Address, Bucket};
use common::clock;
use common::config::{Config, ConfigError};
use common::credits::Credits;
use common::database::{self, DatabaseRole, Login};
use common::id::{JobId, TenantId};
use common::operator::{Actor, tenants};
use common::retention::{Purpose, Retention};
use common::tenant::ApiKey;
use common::verify;
use common::verify::deep::{self, Progress, Report};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::private::Database;
use crate::secrets;

/// Migrates with the owner's login, and lets the runtime logins act as their roles.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let owner_url = config.owner_url.as_ref().ok_or(ConfigError::Missing {
        name: "DATABASE_OWNER_URL",
        needed: "the login that owns and migrates the database",
    })?;
    database::migrate_with(owner_url.expose_secret(), &logins(config)?).await?;
    tracing::info!("The database is up to date");
    Ok(())
}

/// The logins that the configuration names: that of `DATABASE_URL`, which must be there, may act as every runtime role; one for a
/// single role is made with its password where it is missing.
fn logins(config: &Config) -> anyhow::Result<Vec<Login>> {
    let mut logins: Vec<Login> = Vec::new();
    let all = config
        .database_url
        .as_ref()
        .map(|url| (url, &DatabaseRole::ALL[..]));
    let single = DatabaseRole::ALL.iter().filter_map(|role| {
        let url = config.logins.of(*role)?;
        Some((url, std::slice::from_ref(role)))
    });
    for (url, roles) in all.into_iter().chain(single) {
        let options: PgConnectOptions = url.expose_secret().parse()?;
        let name = options.get_username();
        match logins.iter_mut().find(|login| login.name == name) {
            Some(known) => {
                let new = roles.iter().filter(|role| !known.roles.contains(role));
                let new: Vec<DatabaseRole> = new.copied().collect();
                known.roles.extend(new);
            }
            None => logins.push(Login {
                name: name.to_owned(),
                roles: roles.to_vec(),
                password: (roles.len() == 1).then(|| password(url)).flatten(),
            }),
        }
    }
    Ok(logins)
}

/// The password in a URL.
fn password(url: &SecretString) -> Option<SecretString> {
    let (_, rest) = url.expose_secret().split_once("://")?;
    let (login, _) = rest.split('/').next()?.rsplit_once('@')?;
    let (_, password) = login.split_once(':')?;
    let password = percent_encoding::percent_decode_str(password);
    Some(SecretString::from(
        password.decode_utf8().ok()?.into_owned(),
    ))
}

/// Adds a tenant with an empty wallet.
pub async fn add_tenant(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    name: &str,
) -> anyhow::Result<TenantId> {
    at(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::add(pool, act, name).await?)
    })
    .await
}

/// Makes a key for a tenant.
pub async fn add_key(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    tenant: TenantId,
    name: &str,
) -> anyhow::Result<ApiKey> {
    at(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::add_key(pool, act, tenant, name).await?)
    })
    .await
}

/// Refuses a key from now on.
pub async fn revoke_key(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    tenant: TenantId,
    key: &str,
) -> anyhow::Result<()> {
    at(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::revoke_key(pool, act, tenant, key).await?)
    })
    .await
}

/// Says how much larger a tenant's share of a worker is than that of others.
pub async fn set_weight(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    tenant: TenantId,
    weight: u8,
) -> anyhow::Result<()> {
    at(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::set_weight(pool, act, tenant, weight).await?)
    })
    .await
}

/// Says how long a tenant's files and prompts are kept, from now on and of what there is.
pub async fn set_retention(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    tenant: TenantId,
    wanted: Retention,
) -> anyhow::Result<()> {
    at(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::set_retention(pool, act, tenant, wanted).await?)
    })
    .await
}

/// Keeps a job's files for so many days though they are due; returns the hold's number.
pub async fn add_legal_hold(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    of: (TenantId, JobId),
    purpose: Purpose,
    days: u32,
) -> anyhow::Result<i64> {
    let until = clock::now() + Duration::from_hours(24) * days;
    at(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::add_legal_hold(pool, act, of, purpose, until).await?)
    })
    .await
}

/// Ends a hold.
pub async fn remove_legal_hold(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    tenant: TenantId,
    hold: i64,
) -> anyhow::Result<()> {
    at(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::remove_legal_hold(pool, act, tenant, hold).await?)
    })
    .await
}

/// Gives promotional credits, once for each source.
pub async fn grant(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    tenant: TenantId,
    amount: Credits,
    source: &str,
) -> anyhow::Result<()> {
    at(config, data, DatabaseRole::Api, async |pool| {
        tenants::grant(pool, act, tenant, source, amount)
            .await
            .context("nothing was granted")?;
        Ok(())
    })
    .await
}

/// What `platen verify` looked at.
pub struct Verified {
    /// How much of the bucket was read, where that was asked for.
    pub deep: Option<Progress>,
    pub anchors: Anchors,
    /// The name of the anchor that was asked for and written.
    pub written: Option<String>,
}

/// What became of the comparison with anchors.
pub enum Anchors {
    /// So many were compared; what they say is told as findings.
    Compared(usize),
    /// None, and why.
    NotCompared(String),
}

/// Checks every invariant, the guards and the anchors; with `deep` looks into the bucket, too. With `write_anchor` it writes an anchor
/// where there was nothing to tell.
pub async fn verify(
    config: &Config,
    data: Option<&Path>,
    deep: bool,
    write_anchor: bool,
    mut tell: impl FnMut(Report),
) -> anyhow::Result<Verified> {
    at(config, data, DatabaseRole::Reader, async |pool| {
        let mut findings = 0_usize;
        verify::check(pool, |_, found, _| {
            findings += found.len();
            found.into_iter().map(Report::Finding).for_each(&mut tell);
        })
        .await?;
        let mut written = None;
        let anchors = match anchorage(config, data) {
            Ok((bucket, key)) => {
                let compared = anchor::compare(pool, &bucket, &key, Depth::All).await?;
                findings += compared.findings.len();
                let found = compared.findings.into_iter();
                found.map(Report::Finding).for_each(&mut tell);
                if write_anchor && findings == 0 {
                    written = anchor::write(pool, &bucket, &key, None).await?;
                }
                Anchors::Compared(compared.anchors)
            }
            Err(error) if write_anchor => return Err(error),
            Err(error) => Anchors::NotCompared(format!("{error:#}")),
        };
        let mut verified = Verified {
            deep: None,
            anchors,
            written,
        };
        if deep {
            let (_, bucket) = bucket_of(config, data)?;
            // The sweeper gets its turn first: what it is about to remove is no finding.
            let timing = &config.timing;
            let grace = timing.sweep_grace + timing.sweep_every * 2;
            verified.deep = Some(deep::check(pool, &bucket, grace, &mut tell).await?);
        }
        Ok(verified)
    })
    .await
}

/// Where anchors are, and what they are signed with.
fn anchorage(config: &Config, data: Option<&Path>) -> anyhow::Result<(Bucket, SecretString)> {
    let (_, bucket) = bucket_of(config, data)?;
    let key = match (&config.signing_key, data, config.names_postgres()) {
        (Some(key), ..) => Some(key.clone()),
        (None, None, true) => None,
        (None, data, _) => {
            let folder = data.unwrap_or_else(|| Path::new("data"));
            secrets::kept(&folder.join("signing.key"), &[])?.map(SecretString::from)
        }
    };
    let key = key.context("PLATEN_SIGNING_KEY is not set, so none can be told from a forgery")?;
    Ok((bucket, key))
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
    role: DatabaseRole,
    work: impl AsyncFnOnce(&PgPool) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (url, private) = match (data, config.database_url(role)) {
        (None, Ok(url)) => (url.expose_secret().to_owned(), None),
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
