//! The commands of the program, one file per command: its arguments and what it does.

pub mod admin;
pub mod api;
pub mod bucket;
pub mod doctor;
pub mod grant;
pub mod healthy;
pub mod key;
pub mod legal_hold;
pub mod migrate;
pub mod tenant;
pub mod up;
pub mod verify;
pub mod worker;

use std::process::ExitCode;

use clap::Subcommand;
use common::config::Config;

use self::admin::AdminCommand;
use self::bucket::BucketCommand;
use self::grant::GrantArgs;
use self::key::KeyCommand;
use self::legal_hold::LegalHoldCommand;
use self::tenant::TenantCommand;
use self::up::UpArgs;
use self::verify::VerifyArgs;

/// The commands of the program.
#[derive(Subcommand)]
pub enum Command {
    /// Start everything in one process: the API, a worker and the console. Postgres, Redis and vendors that are not
    /// configured are replaced by a private Postgres, a private Redis and fake vendors.
    Up(UpArgs),
    /// Run the API alone.
    Api,
    /// Run a worker alone.
    Worker,
    /// Bring the database up to date.
    Migrate,
    /// Add tenants, and set their retention and weight.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Add and revoke API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Keep the files of a job beyond their retention, or stop keeping them.
    #[command(subcommand)]
    LegalHold(LegalHoldCommand),
    /// Operate: list, redrive and cancel jobs, pause and drain, freeze tenants, adjust credits.
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Give a tenant credits, once for each source.
    Grant(GrantArgs),
    /// Choose the bucket that belongs to this database.
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Check every invariant. Exits with 1 and prints each violation if one is broken.
    Verify(VerifyArgs),
    /// Show what is configured, what is reachable and what is missing.
    Doctor,
    /// Ask the api or the worker on this machine whether it is ready: a health check for containers.
    Healthy,
}

impl Command {
    /// Runs the command to its end. Errors are returned and not printed.
    ///
    /// # Errors
    ///
    /// Returns an error if the command fails, or if its output cannot be written.
    pub async fn run(self, config: Config) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(args) => up::run(config, args).await?,
            Self::Api => api::run(&config).await?,
            Self::Worker => worker::run(&config).await?,
            Self::Migrate => migrate::run(&config).await?,
            Self::Tenant(command) => tenant::run(&config, command).await?,
            Self::Key(command) => key::run(&config, command).await?,
            Self::LegalHold(command) => legal_hold::run(&config, command).await?,
            Self::Admin(command) => admin::run(&config, command).await?,
            Self::Grant(args) => grant::run(&config, args).await?,
            Self::Bucket(command) => bucket::run(&config, command).await?,
            Self::Verify(args) => return verify::run(&config, args).await,
            Self::Doctor => return doctor::run(&config).await,
            Self::Healthy => healthy::run(&config).await?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Whether the command serves until the process is told to stop.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Api | Self::Worker)
    }

    /// Whether the command may start the private Postgres, because no database is configured or `names_data_folder`: its
    /// arguments name a data folder.
    pub fn may_start_postgres(&self, names_data_folder: bool) -> bool {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let no_database_is_configured = [
            "DATABASE_URL",
            "DATABASE_API_URL",
            "DATABASE_WORKER_URL",
            "DATABASE_READER_URL",
        ]
        .iter()
        .all(|name| !is_set(name) && !is_set(&format!("{name}_FILE")));
        match self {
            Self::Api | Self::Worker | Self::Migrate | Self::Doctor | Self::Healthy => false,
            _ => names_data_folder || no_database_is_configured,
        }
    }
}
