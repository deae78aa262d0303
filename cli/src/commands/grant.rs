//! `platen grant`: gives a tenant promotional credits.

use anyhow::Context;
use clap::Args;
use common::config::Config;
use common::people::operator::tenants;
use domain::credits::Credits;
use domain::id::TenantId;
use storage::database::DatabaseRole;

use crate::arguments::{DatabaseArgs, OptionalReasonArgs};
use crate::database::with_connection;
use crate::{actor, say};

/// The arguments of `platen grant`.
#[derive(Args)]
pub struct GrantArgs {
    /// The tenant.
    tenant: TenantId,
    /// How many credits.
    amount: i64,
    /// What the credits are for. A second grant with the same source to the same tenant is refused.
    #[arg(long)]
    source: String,
    #[command(flatten)]
    reason: OptionalReasonArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Gives the credits, and prints how many.
///
/// # Errors
///
/// Returns an error if the tenant was given credits from this source before, if there is no such tenant, if the amount is out of
/// range, or if the database cannot be reached.
pub async fn run(config: &Config, args: GrantArgs) -> anyhow::Result<()> {
    let by = actor::name();
    let amount = Credits::new(args.amount)?;
    let default_reason = format!("source: {}", args.source);
    let actor = args.reason.actor_for(&by, &default_reason)?;
    with_connection(
        config,
        args.database.data_folder(),
        DatabaseRole::Api,
        async |pool| {
            tenants::grant(pool, actor, args.tenant, &args.source, amount)
                .await
                .context("nothing was granted")?;
            Ok(())
        },
    )
    .await?;
    say!("granted {amount}")?;
    Ok(())
}
