//! The `platen` program: every word it understands, on one page.
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cli::admin::Anchors;
use cli::operator::{self, AdminCommand, DatabaseArgs, OptionalReason, ReasonArgs};
use cli::say::OutputError;
use cli::{actor, admin, allocator, bucket, doctor, healthy, private, processes, say, up};
use common::config::Config;
use common::credits::Credits;
use common::id::{JobId, TenantId};
use common::retention::{Purpose, Retention};
use common::verify::deep::{Progress, Report};
use common::{telemetry, verify};
use nix::sys::stat::{Mode, umask};

/// The backend of an AI content studio: jobs in, pictures out, no credit ever wrong.
#[derive(Parser)]
#[command(name = "platen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything in one process: the API, a worker and the console; and, where none are configured,
    /// a private Postgres, a private Redis and fake vendors.
    Up(up::Options),
    /// Run the API alone.
    Api,
    /// Run a worker alone.
    Worker,
    /// Bring the database up to date.
    Migrate,
    /// Add tenants.
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// Add and revoke API keys.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Keep a job's files although they are due, or stop keeping them.
    LegalHold {
        #[command(subcommand)]
        command: LegalHoldCommand,
    },
    /// Operate: list, redrive, cancel, pause, drain, freeze, adjust.
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Give a tenant credits, once for each source.
    Grant {
        tenant: TenantId,
        amount: i64,
        /// What they are given for; the same source gives once to each tenant.
        #[arg(long)]
        source: String,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say which bucket is this database's.
    Bucket {
        #[command(subcommand)]
        command: BucketCommand,
    },
    /// Check every invariant; exits with 1 and says where one is broken.
    Verify {
        /// Read every stored file, too, and look through the bucket for what no row names; may take hours.
        #[arg(long)]
        deep: bool,
        /// Then write an anchor of the ledger, as workers do every hour.
        #[arg(long)]
        anchor: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say what is configured, reachable and missing.
    Doctor,
    /// Ask the api or the worker on this machine whether it is ready: a health check for containers.
    Healthy,
}

#[derive(Subcommand)]
enum TenantCommand {
    /// Say how long a tenant's files and prompts are kept: `ephemeral` (inputs and prompts until their job has ended, outputs and
    /// unused uploads for a day) or `account_lifetime`. Other times are set by `PUT /v1/retention`.
    Retention {
        tenant: TenantId,
        policy: Policy,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say how much larger a tenant's share of each worker is than that of others: times what
    /// `PLATEN_TENANT_SLOTS_PERCENT` gives everyone. Workers notice within seconds.
    Weight {
        tenant: TenantId,
        #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
        weight: u8,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Add a tenant and print its id.
    Add {
        name: String,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Subcommand)]
enum LegalHoldCommand {
    /// Keep a job's files although they are due, for a purpose and a number of days. Prints the hold's number.
    Add {
        tenant: TenantId,
        job: JobId,
        /// delivery, analytics or support.
        #[arg(long)]
        purpose: Purpose,
        #[command(flatten)]
        why: ReasonArgs,
        /// Days until it ends by itself.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// End a legal hold before its time.
    Remove {
        tenant: TenantId,
        /// Its number, as `platen legal-hold add` printed it.
        hold: i64,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Subcommand)]
enum BucketCommand {
    /// Make the configured bucket this database's: writes a marker into it. Until then no file is deleted. Run it once, and with
    /// `--replace` after the files were moved to another bucket.
    Adopt {
        /// Also a bucket whose marker names another database, and one other than before.
        #[arg(long)]
        replace: bool,
        /// Only for a database without tenants that has adopted none; else do nothing. For a step that runs with each installation.
        #[arg(long, conflicts_with = "replace")]
        if_new: bool,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Policy {
    Ephemeral,
    AccountLifetime,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key and print it, once.
    Add {
        tenant: TenantId,
        name: String,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Refuse a key from now on.
    Revoke {
        tenant: TenantId,
        /// The key's public part: the 12 characters after `pk_`.
        key: String,
        #[command(flatten)]
        why: OptionalReason,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// The reason of an act that may go without.
const NO_REASON: &str = "no reason was given";

fn main() -> ExitCode {
    let command = Cli::parse().command;
    if command.may_start_postgres() {
        private::without_clients_variables();
    }
    if matches!(command, Command::Up(_) | Command::Api | Command::Worker) {
        allocator::give_back();
        // What is written is its owner's alone, customers' pictures first.
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
    }
    match processes::run_to_the_end(start(command)) {
        Ok(code) => code,
        Err(error) => unlogged(&format_args!("the program cannot start: {error}")),
    }
}

impl Command {
    /// Whether it may work on the private Postgres: nothing else is configured, or a data folder is named.
    fn may_start_postgres(&self) -> bool {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_private = [
            "DATABASE_URL",
            "DATABASE_API_URL",
            "DATABASE_WORKER_URL",
            "DATABASE_READER_URL",
        ]
        .iter()
        .all(|name| !is_set(name) && !is_set(&format!("{name}_FILE")));
        match self {
            Self::Api | Self::Worker | Self::Migrate | Self::Doctor | Self::Healthy => false,
            Self::Verify { database, .. } => is_private || database.data.is_some(),
            _ => is_private,
        }
    }
}

async fn start(command: Command) -> ExitCode {
    let _exporting = match telemetry::start() {
        Ok(exporting) => exporting,
        Err(error) => return unlogged(&error),
    };
    // Before anything speaks TLS: one crypto provider for all.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("A crypto provider was installed already");
    }
    match run(command).await {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<OutputError>() {
            // As if the signal had ended it that such a write sends where nobody ignores it.
            Some(unheard) if unheard.has_gone() => ExitCode::from(128 + 13),
            _ if tracing::enabled!(tracing::Level::ERROR) => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
            _ => unlogged(&format_args!("{error:#}")),
        },
    }
}

/// Says why nothing was done where no log does: there is none yet, or it leaves errors out.
fn unlogged(error: &dyn std::fmt::Display) -> ExitCode {
    // Who has closed standard error does not want to know.
    let _unheard = writeln!(std::io::stderr(), "platen: {error}");
    ExitCode::FAILURE
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let config = Config::from_env()?;
    let by = actor::name();
    match command {
        Command::Up(options) => up::run(config, options).await?,
        Command::Api => processes::api(&config).await?,
        Command::Worker => processes::worker(&config).await?,
        Command::Migrate => admin::migrate(&config).await?,
        Command::Tenant {
            command:
                TenantCommand::Add {
                    name,
                    why,
                    database,
                },
        } => {
            let act = why.act(&by, NO_REASON)?;
            let tenant = admin::add_tenant(&config, database.data.as_deref(), act, &name).await?;
            say!("{tenant}")?;
        }
        Command::Tenant {
            command:
                TenantCommand::Weight {
                    tenant,
                    weight,
                    why,
                    database,
                },
        } => {
            let act = why.act(&by, NO_REASON)?;
            admin::set_weight(&config, database.data.as_deref(), act, tenant, weight).await?;
            say!("set")?;
        }
        Command::Tenant {
            command:
                TenantCommand::Retention {
                    tenant,
                    policy,
                    why,
                    database,
                },
        } => {
            let retention = match policy {
                Policy::Ephemeral => Retention::EPHEMERAL,
                Policy::AccountLifetime => Retention::default(),
            };
            let act = why.act(&by, NO_REASON)?;
            admin::set_retention(&config, database.data.as_deref(), act, tenant, retention).await?;
            say!("set")?;
        }
        Command::LegalHold {
            command:
                LegalHoldCommand::Add {
                    tenant,
                    job,
                    purpose,
                    why,
                    days,
                    database,
                },
        } => {
            let (data, act) = (database.data.as_deref(), why.act(&by)?);
            let hold = admin::add_legal_hold(&config, data, act, (tenant, job), purpose, days);
            say!("{}", hold.await?)?;
        }
        Command::LegalHold {
            command:
                LegalHoldCommand::Remove {
                    tenant,
                    hold,
                    why,
                    database,
                },
        } => {
            let act = why.act(&by, NO_REASON)?;
            admin::remove_legal_hold(&config, database.data.as_deref(), act, tenant, hold).await?;
            say!("removed")?;
        }
        Command::Key {
            command:
                KeyCommand::Add {
                    tenant,
                    name,
                    why,
                    database,
                },
        } => {
            let act = why.act(&by, NO_REASON)?;
            let key = admin::add_key(&config, database.data.as_deref(), act, tenant, &name).await?;
            say!("{}", key.expose())?;
        }
        Command::Key {
            command:
                KeyCommand::Revoke {
                    tenant,
                    key,
                    why,
                    database,
                },
        } => {
            let act = why.act(&by, NO_REASON)?;
            admin::revoke_key(&config, database.data.as_deref(), act, tenant, &key).await?;
            say!("revoked")?;
        }
        Command::Grant {
            tenant,
            amount,
            source,
            why,
            database,
        } => {
            let amount = Credits::new(amount)?;
            let for_its_source = format!("source: {source}");
            let act = why.act(&by, &for_its_source)?;
            let data = database.data.as_deref();
            admin::grant(&config, data, act, tenant, amount, &source).await?;
            say!("granted {amount}")?;
        }
        Command::Bucket {
            command:
                BucketCommand::Adopt {
                    replace,
                    if_new,
                    why,
                    database,
                },
        } => {
            let act = why.act(&by, NO_REASON)?;
            let how = match (replace, if_new) {
                (_, true) => bucket::AdoptMode::IfNew,
                (true, false) => bucket::AdoptMode::Replace,
                (false, false) => bucket::AdoptMode::Once,
            };
            say!(
                "{}",
                bucket::adopt(&config, database.data.as_deref(), act, how).await?
            )?;
        }
        Command::Admin { command } => operator::run(&config, command).await?,
        Command::Verify {
            deep,
            anchor,
            database,
        } => return verify(&config, deep, anchor, database).await,
        Command::Healthy => healthy::ask(&config).await?,
        Command::Doctor => {
            let report = doctor::examine(&config).await;
            say!("{report}")?;
            return Ok(if report.is_well() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(
    config: &Config,
    deep: bool,
    anchor: bool,
    database: DatabaseArgs,
) -> anyhow::Result<ExitCode> {
    let (mut findings, mut said) = (0_u64, Ok(()));
    let checked = admin::verify(config, database.data.as_deref(), deep, anchor, |told| match told {
        Report::Finding(finding) => {
            findings += 1;
            if said.is_ok() {
                said = say!("{}: {}", finding.invariant, finding.says);
            }
        }
        Report::Progress(Progress { read, bytes, listed }) => tracing::info!(
            findings,
            "{read} files read ({} MB), {listed} objects of the bucket looked at, {findings} findings",
            bytes / 1_000_000
        ),
    })
    .await?;
    said?;
    match &checked.anchors {
        Anchors::Compared(0) => say!("no anchor was compared with the ledger: there is none yet")?,
        Anchors::Compared(anchors) => say!("anchors compared with the ledger: {anchors}")?,
        Anchors::NotCompared(why) => say!("anchors were NOT compared: {why}")?,
    }
    if findings > 0 {
        say!("{findings} findings")?;
        return Ok(ExitCode::FAILURE);
    }
    if let Some(name) = checked.written {
        say!("anchored as {name}")?;
    }
    let invariants = verify::INVARIANTS.len();
    match checked.deep {
        None => {
            say!(
                "all is well: {invariants} invariants hold, and what guards the data is in place"
            )?;
        }
        Some(Progress { read, listed, .. }) => say!(
            "all is well: {invariants} invariants hold, what guards the data is in place, {read} files are as they were stored, and each of {listed} objects has its row or is young"
        )?,
    }
    Ok(ExitCode::SUCCESS)
}
