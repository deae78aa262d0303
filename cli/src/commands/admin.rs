//! `platen admin`: what operators do to jobs, tenants and workers, directly on the database. The same actions as those of
//! `/v1/admin`, recorded in the same log.

mod jobs;
mod pauses;
mod request;
mod tenants;

use clap::Subcommand;
use common::config::Config;
use domain::id::{JobId, TenantId};
use domain::operator::Scope;
use sqlx::PgPool;
use storage::database::DatabaseRole;
use time::format_description::well_known::Rfc3339;

pub use self::jobs::JobSelection;
use self::tenants::Adjustment;
use crate::arguments::{DatabaseArgs, ReasonArgs};
use crate::database::connected;
use crate::{actor, say};

/// What operators can do.
#[derive(Subcommand)]
pub enum AdminCommand {
    /// List jobs of all tenants, newest first.
    Jobs {
        /// Which jobs.
        #[command(flatten)]
        selection: JobSelection,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show everything that happened to a job.
    Timeline {
        /// The job.
        job: JobId,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Run failed jobs again: each gets one new job, which is charged only if it delivers. A job is redriven at most once.
    Redrive {
        /// Which jobs.
        #[command(flatten)]
        selection: JobSelection,
        /// Only list the jobs.
        #[arg(long)]
        dry_run: bool,
        /// Why.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Cancel open jobs. All credits they hold are released.
    Cancel {
        /// Which jobs.
        #[command(flatten)]
        selection: JobSelection,
        /// Only list the jobs.
        #[arg(long)]
        dry_run: bool,
        /// Why.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Start no more jobs: of a model, of a tenant, on a worker, or at all. Jobs are still accepted.
    Pause {
        /// Jobs of this model.
        #[arg(long)]
        model: Option<String>,
        /// Jobs of this tenant.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Drain this worker: it finishes its running jobs and starts no others.
        #[arg(long)]
        worker: Option<String>,
        /// All jobs.
        #[arg(long)]
        everything: bool,
        /// Why.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// End a pause.
    Resume {
        /// The number that `platen admin pauses` shows.
        pause: i64,
        /// Why.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List the pauses that have not ended.
    Pauses {
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List the workers that have running jobs.
    Workers {
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Refuse new jobs of a tenant.
    Freeze {
        /// The tenant.
        tenant: TenantId,
        /// Why.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Accept new jobs of a frozen tenant again.
    Unfreeze {
        /// The tenant.
        tenant: TenantId,
        /// Why.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Give a tenant credits, or take some away with a negative number.
    Adjust {
        /// The tenant.
        tenant: TenantId,
        /// How many credits.
        #[arg(allow_negative_numbers = true)]
        credits: i64,
        /// A second adjustment with the same key does nothing.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        /// Why.
        #[command(flatten)]
        reason: ReasonArgs,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List what operators did, newest first.
    Actions {
        /// At most this many, the newest.
        #[arg(long, default_value_t = 50)]
        limit: i64,
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// Nothing matches, nothing was done, or the database cannot be reached.
pub async fn run(config: &Config, command: AdminCommand) -> anyhow::Result<()> {
    let by = actor::name();
    match command {
        AdminCommand::Jobs {
            selection,
            database,
        } => jobs::list(config, database.data(), &selection).await,
        AdminCommand::Timeline { job, database } => {
            jobs::timeline(config, database.data(), job).await
        }
        AdminCommand::Redrive {
            selection,
            dry_run,
            reason,
            database,
        } => {
            let actor = reason.actor(&by)?;
            jobs::redrive(config, database.data(), &selection, dry_run, actor).await
        }
        AdminCommand::Cancel {
            selection,
            dry_run,
            reason,
            database,
        } => {
            let actor = reason.actor(&by)?;
            jobs::cancel(config, database.data(), &selection, dry_run, actor).await
        }
        AdminCommand::Pause {
            model,
            tenant,
            worker,
            everything,
            reason,
            database,
        } => {
            let scope = Scope {
                model,
                tenant,
                worker,
            };
            pauses::pause(config, database.data(), &scope, everything, &reason, &by).await
        }
        AdminCommand::Resume {
            pause,
            reason,
            database,
        } => pauses::resume(config, database.data(), pause, reason.actor(&by)?).await,
        AdminCommand::Pauses { database } => pauses::list(config, database.data()).await,
        AdminCommand::Workers { database } => jobs::workers(config, database.data()).await,
        AdminCommand::Freeze {
            tenant,
            reason,
            database,
        } => tenants::freeze(config, database.data(), reason.actor(&by)?, tenant, true).await,
        AdminCommand::Unfreeze {
            tenant,
            reason,
            database,
        } => tenants::freeze(config, database.data(), reason.actor(&by)?, tenant, false).await,
        AdminCommand::Adjust {
            tenant,
            credits,
            idempotency_key,
            reason,
            database,
        } => {
            let adjustment = Adjustment {
                tenant,
                credits,
                idempotency_key,
            };
            tenants::adjust(config, database.data(), reason.actor(&by)?, adjustment).await
        }
        AdminCommand::Actions { limit, database } => actions(config, &database, limit).await,
    }
}

async fn actions(config: &Config, database: &DatabaseArgs, limit: i64) -> anyhow::Result<()> {
    let actions = async |pool: &PgPool| Ok(storage::operators::actions(pool, None, limit).await?);
    for entry in connected(config, database.data(), DatabaseRole::Reader, actions).await? {
        say!(
            "{}  {}  {}  {}: {}",
            entry.at.format(&Rfc3339)?,
            entry.by,
            entry.action,
            entry.subject,
            entry.reason
        )?;
    }
    Ok(())
}
