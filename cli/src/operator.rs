//! `platen admin …`: what operators do, at the database itself. The same acts as `/v1/admin`, kept in the same record.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use common::config::Config;
use common::credits::Credits;
use common::database::DatabaseRole;
use common::id::{JobId, RequestId, TenantId};
use common::idempotency::{self, Answer, Request};
use common::job::store::Search;
use common::job::{self, Job, State};
use common::operator::once::{OperatorRequest, Replied};
use common::operator::{self, ActionResult, Actor, MAX_REASON, Scope};
use common::outcome::{Class, readable};
use sqlx::PgPool;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::actor;
use crate::admin::{at, bucket_of};
use crate::say;

/// Which database a word is about.
#[derive(Args)]
pub struct DatabaseArgs {
    /// The data folder of a `platen up`, running or stopped; without it `DATABASE_URL` is asked, then ./data.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// What operators do.
#[derive(Subcommand)]
pub enum AdminCommand {
    /// List jobs of all tenants, newest first.
    Jobs {
        #[command(flatten)]
        which: JobSelection,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Tell everything that happened to a job.
    Timeline {
        job: JobId,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Do failed jobs once more: a new job for each, once, charged only if it delivers.
    Redrive {
        #[command(flatten)]
        which: JobSelection,
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// End open jobs; everything they hold goes back.
    Cancel {
        #[command(flatten)]
        which: JobSelection,
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Start no more jobs of a model, of a tenant, by a worker, or at all. They are accepted as before.
    Pause {
        #[arg(long)]
        model: Option<String>,
        #[arg(long)]
        tenant: Option<TenantId>,
        /// It is drained: what it has under way ends.
        #[arg(long)]
        worker: Option<String>,
        #[arg(long)]
        everything: bool,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// End a pause.
    Resume {
        /// Its number, as `platen admin pauses` prints it.
        pause: i64,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List the pauses that stand.
    Pauses {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List the workers that hold jobs.
    Workers {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Let a tenant submit no more jobs.
    Freeze {
        tenant: TenantId,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Let a frozen tenant submit jobs again.
    Unfreeze {
        tenant: TenantId,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Give a tenant credits, or take some with a negative number.
    Adjust {
        tenant: TenantId,
        #[arg(allow_negative_numbers = true)]
        credits: i64,
        /// Repeated with the same key, it is not done again.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List what operators did, newest first.
    Actions {
        #[arg(long, default_value_t = 50)]
        limit: i64,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Why, in words.
#[derive(Args)]
pub struct ReasonArgs {
    /// Why, in words; it is kept with what is done.
    #[arg(long)]
    reason: String,
}

/// Why, in words, where an act may go without.
#[derive(Args)]
pub struct OptionalReason {
    /// Why, in words; it is kept with what is done.
    #[arg(long)]
    reason: Option<String>,
}

/// Jobs that fit everything that is said.
#[derive(Args)]
pub struct JobSelection {
    /// This one; may be given several times.
    #[arg(long = "job")]
    jobs: Vec<JobId>,
    #[arg(long)]
    tenant: Option<TenantId>,
    #[arg(long)]
    model: Option<String>,
    #[arg(long, value_parser = state)]
    state: Option<State>,
    /// As `docs/outcomes.md` names it.
    #[arg(long, value_parser = class)]
    outcome: Option<Class>,
    /// Submitted from then on, such as 2026-11-22T18:00:00Z.
    #[arg(long, value_parser = moment)]
    since: Option<OffsetDateTime>,
    /// Submitted before then.
    #[arg(long, value_parser = moment)]
    before: Option<OffsetDateTime>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
}

fn state(text: &str) -> Result<State, String> {
    let known = || State::ALL.map(State::as_str).join(", ");
    State::parse(text).ok_or_else(|| format!("one of {}", known()))
}

fn class(text: &str) -> Result<Class, String> {
    Class::parse(text).ok_or_else(|| "no such outcome: docs/outcomes.md lists them".to_owned())
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "a time like 2026-11-22T18:00:00Z".to_owned())
}

impl JobSelection {
    /// In one of `states` where none is said.
    async fn find(
        &self,
        config: &Config,
        data: Option<&Path>,
        states: &[State],
    ) -> anyhow::Result<Vec<Job>> {
        let search = Search {
            ids: (!self.jobs.is_empty()).then(|| self.jobs.clone()),
            tenant: self.tenant,
            model: self.model.clone(),
            states: self
                .state
                .map_or_else(|| states.to_vec(), |state| vec![state]),
            outcome: self.outcome,
            since: self.since,
            before: self.before,
            after: None,
        };
        let search = async |pool: &PgPool| Ok(job::store::search(pool, &search, self.limit).await?);
        at(config, data, DatabaseRole::Reader, search).await
    }

    /// The same, for what is to be done to them: none is an error.
    async fn find_some(
        &self,
        config: &Config,
        data: Option<&Path>,
        states: &[State],
    ) -> anyhow::Result<Vec<Job>> {
        let jobs = self.find(config, data, states).await?;
        ensure!(!jobs.is_empty(), "nothing was done: no job fits");
        Ok(jobs)
    }
}

impl ReasonArgs {
    /// An act of `by` for this reason.
    pub fn act<'a>(&'a self, by: &'a str) -> anyhow::Result<Actor<'a>> {
        act(by, &self.reason)
    }
}

impl OptionalReason {
    /// An act of `by` for this reason, or for `otherwise` where none is given.
    pub fn act<'a>(&'a self, by: &'a str, otherwise: &'a str) -> anyhow::Result<Actor<'a>> {
        act(by, self.reason.as_deref().unwrap_or(otherwise))
    }
}

fn act<'a>(by: &'a str, reason: &'a str) -> anyhow::Result<Actor<'a>> {
    let reason = reason.trim();
    let length = reason.chars().count();
    ensure!(
        (1..=MAX_REASON).contains(&length),
        "say why in 1 to {MAX_REASON} characters"
    );
    Ok(Actor { by, reason })
}

/// A request as it is known when it is repeated; without a key it is one of its own.
fn request(key: Option<String>, what: &str) -> anyhow::Result<Request> {
    let key = key.unwrap_or_else(|| RequestId::new().0.to_string());
    let usable = (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(
        usable,
        "--idempotency-key takes 1 to 255 visible ASCII characters"
    );
    Ok(Request {
        key,
        hash: idempotency::request_hash("platen admin", what, b""),
    })
}

/// Does what the word says, and prints what came of it.
pub async fn run(config: &Config, command: AdminCommand) -> anyhow::Result<()> {
    let by = actor::name();
    match command {
        AdminCommand::Jobs { which, database } => {
            for job in which.find(config, database.data.as_deref(), &[]).await? {
                say!("{}", line(&job))?;
            }
        }
        AdminCommand::Timeline { job, database } => {
            let timeline = async |pool: &PgPool| Ok(operator::store::timeline(pool, job).await?);
            let events = at(
                config,
                database.data.as_deref(),
                DatabaseRole::Reader,
                timeline,
            )
            .await?;
            ensure!(!events.is_empty(), "there is no job {job}");
            for event in events {
                say!(
                    "{}  {:9}  {}",
                    event.at.format(&Rfc3339)?,
                    event.of,
                    // Calls made before details were cleaned may have anything in them.
                    readable(&event.what, usize::MAX)
                )?;
            }
        }
        AdminCommand::Redrive {
            which,
            dry_run,
            why,
            database,
        } => {
            let (data, act) = (database.data.as_deref(), why.act(&by)?);
            let jobs = which.find_some(config, data, &[State::Failed]).await?;
            let ((_, bucket), catalog) = (bucket_of(config, data)?, config.catalog()?);
            let request = request(None, "redrive")?;
            let order = OperatorRequest {
                act,
                request: &request,
            };
            let redrive = async |pool: &PgPool, job: &Job| {
                Ok(operator::redrive(pool, &bucket, &catalog, order, job).await?)
            };
            each(config, data, dry_run, &jobs, redrive).await?;
        }
        AdminCommand::Cancel {
            which,
            dry_run,
            why,
            database,
        } => {
            let (data, act) = (database.data.as_deref(), why.act(&by)?);
            let jobs = which
                .find_some(config, data, &[State::Queued, State::Running])
                .await?;
            let request = request(None, "cancel")?;
            let order = OperatorRequest {
                act,
                request: &request,
            };
            let cancel =
                async |pool: &PgPool, job: &Job| Ok(operator::cancel(pool, order, job).await?);
            each(config, data, dry_run, &jobs, cancel).await?;
        }
        AdminCommand::Pause {
            model,
            tenant,
            worker,
            everything,
            why,
            database,
        } => {
            let scope = Scope {
                model,
                tenant,
                worker,
            };
            if (scope == Scope::default()) != everything {
                bail!("name --model, --tenant or --worker, or say --everything: not both");
            }
            let act = why.act(&by)?;
            let request = request(None, "pause")?;
            let order = OperatorRequest {
                act,
                request: &request,
            };
            let pause = async |pool: &PgPool| {
                let mut number = None;
                let paused = |id: i64| {
                    number = Some(id);
                    Answer::json(201, &id)
                };
                operator::pause(pool, order, &scope, paused).await?;
                Ok(number)
            };
            let id = at(config, database.data.as_deref(), DatabaseRole::Api, pause).await?;
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            say!("paused; `platen admin resume {id}` ends it")?;
        }
        AdminCommand::Resume {
            pause,
            why,
            database,
        } => {
            let order = OperatorRequest {
                act: why.act(&by)?,
                request: &request(None, "resume")?,
            };
            let resume = async |pool: &PgPool| Ok(operator::resume(pool, order, pause).await?);
            let resumed = at(config, database.data.as_deref(), DatabaseRole::Api, resume).await?;
            ensure!(resumed.is_some(), "no pause {pause} stands");
            say!("resumed")?;
        }
        AdminCommand::Pauses { database } => {
            let pauses = async |pool: &PgPool| Ok(operator::store::pauses(pool).await?);
            for pause in at(
                config,
                database.data.as_deref(),
                DatabaseRole::Reader,
                pauses,
            )
            .await?
            {
                let tenant = pause.tenant.map(|tenant| tenant.to_string());
                let scope = [
                    ("model", pause.model),
                    ("tenant", tenant),
                    ("worker", pause.worker),
                ];
                let scope = scope
                    .into_iter()
                    .filter_map(|(what, name)| Some(format!("{what} {}", name?)));
                let scope: Vec<String> = scope.collect();
                let scope = if scope.is_empty() {
                    "everything".to_owned()
                } else {
                    scope.join(", ")
                };
                say!(
                    "{}  {}  {scope}: {}",
                    pause.id,
                    pause.paused_at.format(&Rfc3339)?,
                    pause.reason
                )?;
            }
        }
        AdminCommand::Workers { database } => {
            let workers = async |pool: &PgPool| Ok(job::store::by_worker(pool).await?);
            for (worker, jobs) in at(
                config,
                database.data.as_deref(),
                DatabaseRole::Reader,
                workers,
            )
            .await?
            {
                say!("{worker}  {jobs} jobs")?;
            }
        }
        AdminCommand::Freeze {
            tenant,
            why,
            database,
        } => {
            freeze(
                config,
                database.data.as_deref(),
                why.act(&by)?,
                tenant,
                true,
            )
            .await?;
        }
        AdminCommand::Unfreeze {
            tenant,
            why,
            database,
        } => {
            freeze(
                config,
                database.data.as_deref(),
                why.act(&by)?,
                tenant,
                false,
            )
            .await?;
        }
        AdminCommand::Adjust {
            tenant,
            credits,
            idempotency_key,
            why,
            database,
        } => {
            let what = format!("adjust {tenant} {credits}");
            let order = OperatorRequest {
                act: why.act(&by)?,
                request: &request(idempotency_key, &what)?,
            };
            let amount = Credits::new(i64::try_from(credits.unsigned_abs())?)?;
            ensure!(!amount.is_zero(), "say how many credits: not 0");
            let adjust = async |pool: &PgPool| {
                Ok(operator::adjust(pool, order, tenant, amount, credits > 0).await?)
            };
            match at(config, database.data.as_deref(), DatabaseRole::Api, adjust).await? {
                Replied::New(_) => say!("adjusted by {credits}")?,
                Replied::Repeated(_) => {
                    say!("adjusted by {credits} before, under this key: nothing was done now")?;
                }
            }
        }
        AdminCommand::Actions { limit, database } => {
            let actions =
                async |pool: &PgPool| Ok(operator::store::actions(pool, None, limit).await?);
            for done in at(
                config,
                database.data.as_deref(),
                DatabaseRole::Reader,
                actions,
            )
            .await?
            {
                say!(
                    "{}  {}  {}  {}: {}",
                    done.at.format(&Rfc3339)?,
                    done.by,
                    done.action,
                    done.subject,
                    done.reason
                )?;
            }
        }
    }
    Ok(())
}

async fn freeze(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    tenant: TenantId,
    frozen: bool,
) -> anyhow::Result<()> {
    let request = request(None, "freeze")?;
    let order = OperatorRequest {
        act,
        request: &request,
    };
    let freeze = async |pool: &PgPool| Ok(operator::freeze(pool, order, tenant, frozen).await?);
    let (_, changed) = at(config, data, DatabaseRole::Api, freeze).await?;
    let standing = if frozen { "not active" } else { "not frozen" };
    ensure!(changed, "nothing was done: tenant {tenant} is {standing}");
    say!("{}", if frozen { "frozen" } else { "not frozen" })?;
    Ok(())
}

/// Does something to each, and prints what came of it. An error when nothing was done to any.
async fn each(
    config: &Config,
    data: Option<&Path>,
    dry_run: bool,
    jobs: &[Job],
    act: impl AsyncFn(&PgPool, &Job) -> anyhow::Result<ActionResult>,
) -> anyhow::Result<()> {
    if dry_run {
        for job in jobs {
            say!("{}", line(job))?;
        }
        return Ok(());
    }
    let all = async |pool: &PgPool| {
        let mut done = 0_usize;
        for job in jobs {
            let outcome = act(pool, job).await?;
            done += usize::from(outcome.skipped.is_none());
            match (outcome.new, outcome.skipped) {
                (_, Some(why)) => say!("{}  skipped: {why}", job.id)?,
                (Some(new), None) => say!("{}  as {new}", job.id)?,
                (None, None) => say!("{}  done", job.id)?,
            }
        }
        Ok(done)
    };
    let done = at(config, data, DatabaseRole::Api, all).await?;
    ensure!(done > 0, "nothing was done: every job was skipped");
    Ok(())
}

fn line(job: &Job) -> String {
    let outcome = job.outcome.map_or("", Class::as_str);
    let at = job.created_at.format(&Rfc3339).unwrap_or_default();
    format!(
        "{}  {}  {at}  {}  {} {outcome}",
        job.id,
        job.tenant,
        job.model,
        job.state.as_str()
    )
}
