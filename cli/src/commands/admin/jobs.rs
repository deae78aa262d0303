//! `platen admin jobs`, `timeline`, `redrive`, `cancel` and `workers`.

use std::path::Path;

use anyhow::ensure;
use clap::Args;
use common::config::Config;
use common::people::operator::once::OperatorRequest;
use common::people::operator::{self, ActionResult};
use domain::id::{JobId, TenantId};
use domain::job::{Job, State};
use domain::operator::Actor;
use domain::outcome::{Class, readable};
use sqlx::PgPool;
use storage::database::DatabaseRole;
use storage::jobs::Search;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::request::new_request;
use crate::database::{open_bucket, with_connection};
use crate::say;

/// Selects the jobs that match all given conditions.
#[derive(Args)]
pub struct JobSelection {
    /// This job. May be given several times.
    #[arg(long = "job")]
    jobs: Vec<JobId>,
    /// Jobs of this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Jobs of this model.
    #[arg(long)]
    model: Option<String>,
    /// Jobs in this state.
    #[arg(long, value_parser = parse_state)]
    state: Option<State>,
    /// Jobs with this outcome, named as in `docs/outcomes.md`.
    #[arg(long, value_parser = parse_class)]
    outcome: Option<Class>,
    /// Jobs submitted at this time or later, such as 2026-11-22T18:00:00Z.
    #[arg(long, value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Jobs submitted before this time.
    #[arg(long, value_parser = parse_time)]
    before: Option<OffsetDateTime>,
    /// At most this many jobs, the newest.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
}

/// Parses a state of jobs.
fn parse_state(text: &str) -> Result<State, String> {
    text.parse().map_err(|_| {
        let known: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
        format!("use one of {}", known.join(", "))
    })
}

/// Parses an outcome class.
fn parse_class(text: &str) -> Result<Class, String> {
    text.parse()
        .map_err(|_| "there is no such outcome: docs/outcomes.md lists them".to_owned())
}

/// Parses a time in the form of RFC 3339.
fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "use a time like 2026-11-22T18:00:00Z".to_owned())
}

impl JobSelection {
    /// Finds the selected jobs. If no state is given, finds jobs in one of `default_states`; an empty list stands for all states.
    async fn find(
        &self,
        config: &Config,
        data: Option<&Path>,
        default_states: &[State],
    ) -> anyhow::Result<Vec<Job>> {
        let search = Search {
            ids: (!self.jobs.is_empty()).then(|| self.jobs.clone()),
            tenant: self.tenant,
            model: self.model.clone(),
            states: self
                .state
                .map_or_else(|| default_states.to_vec(), |state| vec![state]),
            outcome: self.outcome,
            since: self.since,
            before: self.before,
            after: None,
        };
        let search =
            async |pool: &PgPool| Ok(storage::jobs::search(pool, &search, self.limit).await?);
        with_connection(config, data, DatabaseRole::Reader, search).await
    }

    /// Does the same as [`Self::find`], and returns an error if no job matches.
    async fn find_or_fail(
        &self,
        config: &Config,
        data: Option<&Path>,
        default_states: &[State],
    ) -> anyhow::Result<Vec<Job>> {
        let jobs = self.find(config, data, default_states).await?;
        ensure!(!jobs.is_empty(), "nothing was done: no job matches");
        Ok(jobs)
    }
}

/// Lists the selected jobs, newest first.
pub(super) async fn list(
    config: &Config,
    data: Option<&Path>,
    selection: &JobSelection,
) -> anyhow::Result<()> {
    for job in selection.find(config, data, &[]).await? {
        say!("{}", describe(&job))?;
    }
    Ok(())
}

/// Lists everything that happened to a job, oldest first.
pub(super) async fn timeline(
    config: &Config,
    data: Option<&Path>,
    job: JobId,
) -> anyhow::Result<()> {
    let timeline = async |pool: &PgPool| Ok(storage::operators::timeline(pool, job).await?);
    let events = with_connection(config, data, DatabaseRole::Reader, timeline).await?;
    ensure!(!events.is_empty(), "there is no job {job}");
    for event in events {
        // `of` is padded to 9 characters, so that all texts begin in one column.
        say!(
            "{}  {:9}  {}",
            event.at.format(&Rfc3339)?,
            event.of,
            // Older rows may contain control characters, because earlier versions did not remove them from the details of calls.
            readable(&event.what, usize::MAX)
        )?;
    }
    Ok(())
}

/// Lists the workers that have running jobs.
pub(super) async fn workers(config: &Config, data: Option<&Path>) -> anyhow::Result<()> {
    let workers = async |pool: &PgPool| Ok(storage::jobs::by_worker(pool).await?);
    for (worker, jobs) in with_connection(config, data, DatabaseRole::Reader, workers).await? {
        say!("{worker}  {jobs} jobs")?;
    }
    Ok(())
}

/// Runs the selected jobs again, as new jobs; only failed jobs if the selection names no state.
pub(super) async fn redrive(
    config: &Config,
    data: Option<&Path>,
    selection: &JobSelection,
    dry_run: bool,
    actor: Actor<'_>,
) -> anyhow::Result<()> {
    let jobs = selection
        .find_or_fail(config, data, &[State::Failed])
        .await?;
    let ((_, bucket), catalog) = (open_bucket(config, data)?, config.catalog()?);
    let operator_request = OperatorRequest {
        actor,
        request: &new_request("redrive"),
    };
    let redrive = async |pool: &PgPool, job: &Job| {
        Ok(operator::redrive(pool, &bucket, &catalog, operator_request, job).await?)
    };
    act_on_each(config, data, dry_run, &jobs, redrive).await
}

/// Cancels the selected jobs; only open jobs if the selection names no state.
pub(super) async fn cancel(
    config: &Config,
    data: Option<&Path>,
    selection: &JobSelection,
    dry_run: bool,
    actor: Actor<'_>,
) -> anyhow::Result<()> {
    let open = [State::Queued, State::Running];
    let jobs = selection.find_or_fail(config, data, &open).await?;
    let operator_request = OperatorRequest {
        actor,
        request: &new_request("cancel"),
    };
    let cancel =
        async |pool: &PgPool, job: &Job| Ok(operator::cancel(pool, operator_request, job).await?);
    act_on_each(config, data, dry_run, &jobs, cancel).await
}

/// Does `action` to each job, one after the other, and prints each result. A dry run only lists the jobs. Returns an error if an
/// action fails, which ends the run, or if every job was skipped.
async fn act_on_each(
    config: &Config,
    data: Option<&Path>,
    dry_run: bool,
    jobs: &[Job],
    action: impl AsyncFn(&PgPool, &Job) -> anyhow::Result<ActionResult>,
) -> anyhow::Result<()> {
    if dry_run {
        for job in jobs {
            say!("{}", describe(job))?;
        }
        return Ok(());
    }
    let do_all = async |pool: &PgPool| {
        let mut done_count = 0_usize;
        for job in jobs {
            let result = action(pool, job).await?;
            done_count += usize::from(result.skipped.is_none());
            match (result.new, result.skipped) {
                (_, Some(reason)) => say!("{}  skipped: {reason}", job.id)?,
                (Some(new), None) => say!("{}  as {new}", job.id)?,
                (None, None) => say!("{}  done", job.id)?,
            }
        }
        Ok(done_count)
    };
    let done_count = with_connection(config, data, DatabaseRole::Api, do_all).await?;
    ensure!(done_count > 0, "nothing was done: every job was skipped");
    Ok(())
}

/// A job as one line of a list.
fn describe(job: &Job) -> String {
    let outcome = job.outcome.map_or("", Class::as_str);
    let at = job.created_at.format(&Rfc3339).unwrap_or_default();
    format!(
        "{}  {}  {at}  {}  {} {outcome}",
        job.id,
        job.tenant,
        job.attributes.model,
        job.state.as_str()
    )
}
