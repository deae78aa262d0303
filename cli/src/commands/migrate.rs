//! `platen migrate`: brings the database up to date.

use common::config::{Config, ConfigError};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use storage::database::{self, DatabaseRole, Login};

/// Migrates the database with the owner's login, and lets the runtime logins act as their roles.
///
/// # Errors
///
/// Returns an error if `DATABASE_OWNER_URL` is missing, if a URL is not usable, or if a migration fails.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let owner_url = config.owner_url.as_ref().ok_or(ConfigError::Missing {
        name: "DATABASE_OWNER_URL",
        needed: "the login that owns and migrates the database",
    })?;
    database::migrate_with(owner_url.expose_secret(), &logins(config)?).await?;
    tracing::info!("The database is up to date");
    Ok(())
}

/// Reads the runtime logins that the configuration names, each once, with the roles that it may act as.
///
/// The login of `DATABASE_URL` may act as every runtime role. It must exist already, so the result does not contain its password. A
/// login for a single role is created with its password if it does not exist, so the result contains that password.
fn logins(config: &Config) -> anyhow::Result<Vec<Login>> {
    let mut logins: Vec<Login> = Vec::new();
    let all_roles = config
        .database_url
        .as_ref()
        .map(|url| (url, DatabaseRole::ALL));
    let single_roles = DatabaseRole::ALL.iter().filter_map(|role| {
        let url = config.logins.for_role(*role)?;
        Some((url, std::slice::from_ref(role)))
    });
    for (url, roles) in all_roles.into_iter().chain(single_roles) {
        let options: PgConnectOptions = url.expose_secret().parse()?;
        let name = options.get_username();
        match logins.iter_mut().find(|login| login.name == name) {
            Some(known) => {
                let new_roles = roles.iter().filter(|role| !known.roles.contains(role));
                let new_roles: Vec<DatabaseRole> = new_roles.copied().collect();
                known.roles.extend(new_roles);
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

/// The password in a database URL; `None` if the URL has no password.
fn password(url: &SecretString) -> Option<SecretString> {
    let (_, rest) = url.expose_secret().split_once("://")?;
    let (login, _) = rest.split('/').next()?.rsplit_once('@')?;
    let (_, password) = login.split_once(':')?;
    let password = percent_encoding::percent_decode_str(password);
    Some(SecretString::from(
        password.decode_utf8().ok()?.into_owned(),
    ))
}
