//! `platen admin`: what operators do to jobs, tenants and workers, directly on the database. The actions are the same as those of
//! `/v1/admin`, and are recorded in the same log.

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
use crate::database::with_connection;
use crate::{actor, say};

/// The actions of operators.
#[derive(Subcommand)]
pub enum AdminCommand {
    /// List jobs of all tenants, newest first.
    Jobs {
        /// Which jobs to select.
        #[command(flatten)]
        selection: JobSelection,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show everything that happened to a job.
    Timeline {
        /// The job.
        job: JobId,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Run failed jobs again: each gets one new job, which is charged only if it delivers. A job is redriven at most once.
    Redrive {
        /// Which jobs to select.
        #[command(flatten)]
        selection: JobSelection,
        /// Only list the jobs.
        #[arg(long)]
        dry_run: bool,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Cancel open jobs. All credits they hold are released.
    Cancel {
        /// Which jobs to select.
        #[command(flatten)]
        selection: JobSelection,
        /// Only list the jobs.
        #[arg(long)]
        dry_run: bool,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// The database to work on.
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
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// End a pause.
    Resume {
        /// The number that `platen admin pauses` shows.
        pause: i64,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List the pauses that have not ended.
    Pauses {
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List the workers that have running jobs.
    Workers {
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Refuse new jobs of a tenant.
    Freeze {
        /// The tenant.
        tenant: TenantId,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Accept new jobs of a frozen tenant again.
    Unfreeze {
        /// The tenant.
        tenant: TenantId,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// The database to work on.
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
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: ReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List what operators did, newest first.
    Actions {
        /// At most this many, the newest: 1 to 1000.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// Returns an error if no job matches, if nothing was done, or if the database cannot be reached.
pub async fn run(config: &Config, command: AdminCommand) -> anyhow::Result<()> {
    let by = actor::name();
    match command {
        AdminCommand::Jobs {
            selection,
            database,
        } => jobs::list(config, database.data_folder(), &selection).await,
        AdminCommand::Timeline { job, database } => {
            jobs::timeline(config, database.data_folder(), job).await
        }
        AdminCommand::Redrive {
            selection,
            dry_run,
            reason,
            database,
        } => {
            let actor = reason.actor_for(&by)?;
            jobs::redrive(config, database.data_folder(), &selection, dry_run, actor).await
        }
        AdminCommand::Cancel {
            selection,
            dry_run,
            reason,
            database,
        } => {
            let actor = reason.actor_for(&by)?;
            jobs::cancel(config, database.data_folder(), &selection, dry_run, actor).await
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
            let data = database.data_folder();
            pauses::pause(config, data, &scope, everything, &reason, &by).await
        }
        AdminCommand::Resume {
            pause,
            reason,
            database,
        } => {
            let (data, actor) = (database.data_folder(), reason.actor_for(&by)?);
            pauses::resume(config, data, pause, actor).await
        }
        AdminCommand::Pauses { database } => pauses::list(config, database.data_folder()).await,
        AdminCommand::Workers { database } => jobs::workers(config, database.data_folder()).await,
        AdminCommand::Freeze {
            tenant,
            reason,
            database,
        } => {
            let (data, actor) = (database.data_folder(), reason.actor_for(&by)?);
            tenants::set_frozen(config, data, actor, tenant, true).await
        }
        AdminCommand::Unfreeze {
            tenant,
            reason,
            database,
        } => {
            let (data, actor) = (database.data_folder(), reason.actor_for(&by)?);
            tenants::set_frozen(config, data, actor, tenant, false).await
        }
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
            let (data, actor) = (database.data_folder(), reason.actor_for(&by)?);
            tenants::adjust(config, data, actor, adjustment).await
        }
        AdminCommand::Actions { limit, database } => actions(config, &database, limit).await,
    }
}

/// Lists what operators did, newest first.
async fn actions(config: &Config, database: &DatabaseArgs, limit: i64) -> anyhow::Result<()> {
    let actions = async |pool: &PgPool| Ok(storage::operators::actions(pool, None, limit).await?);
    let data = database.data_folder();
    for entry in with_connection(config, data, DatabaseRole::Reader, actions).await? {
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
