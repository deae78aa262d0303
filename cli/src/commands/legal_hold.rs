//! `platen legal-hold`: keeps the files of a job beyond their retention.

use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use common::config::Config;
use common::people::operator::tenants;
use domain::clock;
use domain::id::{JobId, TenantId};
use domain::operator::Actor;
use domain::retention::Purpose;
use storage::database::DatabaseRole;

use crate::arguments::{DatabaseArgs, NO_REASON, OptionalReasonArgs, ReasonArgs};
use crate::database::with_connection;
use crate::{actor, say};

const DAY: Duration = Duration::from_hours(24);

/// The commands about legal holds.
#[derive(Subcommand)]
pub enum LegalHoldCommand {
    /// Keep the files of a job beyond their retention, for a purpose and a number of days. Prints the number of the legal
    /// hold.
    Add {
        /// The tenant of the job.
        tenant: TenantId,
        /// The job.
        job: JobId,
        /// delivery, analytics or support.
        #[arg(long)]
        purpose: Purpose,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Days until the legal hold ends by itself.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// End a legal hold before its time.
    Remove {
        /// The tenant of the job.
        tenant: TenantId,
        /// The number that `platen legal-hold add` printed.
        hold: i64,
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
/// Returns an error if there is no such job or legal hold, or if the database cannot be reached.
pub async fn run(config: &Config, command: LegalHoldCommand) -> anyhow::Result<()> {
    let by = actor::name();
    match command {
        LegalHoldCommand::Add {
            tenant,
            job,
            purpose,
            reason,
            days,
            database,
        } => {
            let (data, actor) = (database.data_folder(), reason.actor_for(&by)?);
            let number = add(config, data, actor, (tenant, job), purpose, days).await?;
            say!("{number}")?;
        }
        LegalHoldCommand::Remove {
            tenant,
            hold: number,
            reason,
            database,
        } => {
            let actor = reason.actor_for(&by, NO_REASON)?;
            remove(config, database.data_folder(), actor, tenant, number).await?;
            say!("removed")?;
        }
    }
    Ok(())
}

/// Adds a legal hold of `days` days to a job, and returns its number.
///
/// # Errors
///
/// Returns an error if the tenant has no such job, or if the database cannot be reached.
pub async fn add(
    config: &Config,
    data: Option<&Path>,
    actor: Actor<'_>,
    job: (TenantId, JobId),
    purpose: Purpose,
    days: u32,
) -> anyhow::Result<i64> {
    let until = clock::now() + DAY * days;
    with_connection(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::add_legal_hold(pool, actor, job, purpose, until).await?)
    })
    .await
}

/// Ends the legal hold with this number.
///
/// # Errors
///
/// Returns an error if the tenant has no such legal hold, or if the database cannot be reached.
pub async fn remove(
    config: &Config,
    data: Option<&Path>,
    actor: Actor<'_>,
    tenant: TenantId,
    number: i64,
) -> anyhow::Result<()> {
    with_connection(config, data, DatabaseRole::Api, async |pool| {
        Ok(tenants::remove_legal_hold(pool, actor, tenant, number).await?)
    })
    .await
}
