//! `platen key`: adds and revokes API keys.

use std::path::Path;

use clap::Subcommand;
use common::config::Config;
use common::people::operator::tenants;
use domain::api_key::KeyTerms;
use domain::clock;
use domain::id::TenantId;
use domain::operator::Actor;
use domain::permission::Permission;
use ipnet::IpNet;
use sqlx::PgPool;
use storage::database::DatabaseRole;
use time::Duration;

use crate::arguments::{DatabaseArgs, NO_REASON, OptionalReasonArgs};
use crate::database::with_connection;
use crate::{actor, say};

/// The commands about API keys.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Create a key and print it. It is shown only once.
    Add {
        /// The tenant that the key is for.
        tenant: TenantId,
        /// The name of the key.
        name: String,
        /// What the key may do, such as `jobs:read,jobs:write`. Without it the key may do what keys may by default, which is not
        /// to manage keys.
        #[arg(long, value_delimiter = ',', value_parser = Permission::parse_scope)]
        scopes: Vec<Permission>,
        /// The networks that the key may be used from, such as `192.0.2.0/24`. Without it all.
        #[arg(long, value_delimiter = ',')]
        networks: Vec<IpNet>,
        /// For how many days the key is valid. Without it the key does not expire.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=3650))]
        days: Option<u16>,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: OptionalReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Revoke a key: requests with it are refused from now on.
    Revoke {
        /// The tenant that the key is for.
        tenant: TenantId,
        /// The public part of the key: the 12 characters after `pk_`.
        key: String,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: OptionalReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// Returns an error if there is no such tenant or key, if the key to revoke is revoked already, or if the database cannot be
/// reached.
pub async fn run(config: &Config, command: KeyCommand) -> anyhow::Result<()> {
    let by = actor::name();
    match command {
        KeyCommand::Add {
            tenant,
            name,
            scopes,
            networks,
            days,
            reason,
            database,
        } => {
            let actor = reason.actor_for(&by, NO_REASON)?;
            let default = KeyTerms::named(name);
            let chosen = (!scopes.is_empty()).then(|| scopes.into_iter().collect());
            let terms = KeyTerms {
                scopes: chosen.or(default.scopes),
                networks,
                expires_at: days.map(|days| clock::now() + Duration::days(days.into())),
                ..default
            };
            let add =
                async |pool: &PgPool| Ok(tenants::add_key(pool, actor, tenant, &terms).await?);
            let key =
                with_connection(config, database.data_folder(), DatabaseRole::Api, add).await?;
            say!("{}", key.expose())?;
        }
        KeyCommand::Revoke {
            tenant,
            key: key_id,
            reason,
            database,
        } => {
            let actor = reason.actor_for(&by, NO_REASON)?;
            revoke(config, database.data_folder(), actor, tenant, &key_id).await?;
            say!("revoked")?;
        }
    }
    Ok(())
}

/// Revokes the API key whose id (its public part) is `key_id`.
///
/// # Errors
///
/// Returns an error if the tenant has no such key, if the key is revoked already, or if the database cannot be reached.
pub async fn revoke(
    config: &Config,
    data: Option<&Path>,
    actor: Actor<'_>,
    tenant: TenantId,
    key_id: &str,
) -> anyhow::Result<()> {
    with_connection(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::revoke_key(pool, actor, tenant, key_id).await?)
    })
    .await
}
