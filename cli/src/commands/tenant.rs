//! `platen tenant`: adds tenants, and sets their retention and weight.

use clap::{Subcommand, ValueEnum};
use common::config::Config;
use common::people::operator::tenants;
use domain::id::TenantId;
use domain::retention::Retention;
use sqlx::PgPool;
use storage::database::DatabaseRole;

use crate::arguments::{DatabaseArgs, NO_REASON, OptionalReasonArgs};
use crate::database::with_connection;
use crate::{actor, say};

/// The commands about tenants.
#[derive(Subcommand)]
pub enum TenantCommand {
    /// Set how long a tenant's files and prompts are kept: `ephemeral` (inputs and prompts until their job has ended, outputs
    /// and unused uploads for one day) or `account_lifetime`. `PUT /v1/retention` sets other times.
    Retention {
        /// The tenant.
        tenant: TenantId,
        /// How long they are kept.
        policy: Policy,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: OptionalReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Set how many times a tenant's share of each worker is larger than that of others, which is
    /// `PLATEN_TENANT_SLOTS_PERCENT` of the slots. Workers follow within seconds.
    Weight {
        /// The tenant.
        tenant: TenantId,
        /// 1 to 100; 1 is the share of others.
        #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
        weight: u8,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: OptionalReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Add a tenant and print its id.
    Add {
        /// Its name.
        name: String,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: OptionalReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// How long files and prompts are kept.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Policy {
    /// Inputs and prompts until their job has ended, outputs and unused uploads for one day.
    Ephemeral,
    /// As long as the account exists.
    AccountLifetime,
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// Returns an error if there is no such tenant, or if the database cannot be reached.
pub async fn run(config: &Config, command: TenantCommand) -> anyhow::Result<()> {
    let by = actor::name();
    match command {
        TenantCommand::Add {
            name,
            reason,
            database,
        } => {
            let actor = reason.actor_for(&by, NO_REASON)?;
            let add = async |pool: &PgPool| Ok(tenants::add(pool, actor, &name).await?);
            let tenant =
                with_connection(config, database.data_folder(), DatabaseRole::Api, add).await?;
            say!("{tenant}")?;
        }
        TenantCommand::Weight {
            tenant,
            weight,
            reason,
            database,
        } => {
            let actor = reason.actor_for(&by, NO_REASON)?;
            let set =
                async |pool: &PgPool| Ok(tenants::set_weight(pool, actor, tenant, weight).await?);
            with_connection(config, database.data_folder(), DatabaseRole::Api, set).await?;
            say!("set")?;
        }
        TenantCommand::Retention {
            tenant,
            policy,
            reason,
            database,
        } => {
            let retention = match policy {
                Policy::Ephemeral => Retention::EPHEMERAL,
                Policy::AccountLifetime => Retention::default(),
            };
            let actor = reason.actor_for(&by, NO_REASON)?;
            let set = async |pool: &PgPool| {
                Ok(tenants::set_retention(pool, actor, tenant, retention).await?)
            };
            with_connection(config, database.data_folder(), DatabaseRole::Api, set).await?;
            say!("set")?;
        }
    }
    Ok(())
}
