//! `platen doctor`: shows what is configured, what is reachable and what is missing.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bucket::{Address, Bucket, BucketError, FolderState};
use common::config::Config;
use common::files::ownership;
use domain::catalog::lifecycle;
use domain::clock;
use queue::{ReadyQueue, RedisFailure};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use storage::database::{self, DatabaseRole};
use storage::verify::guards::{self, Comparison};

use crate::say;

/// How long Postgres and Redis may take to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the check of the bucket may take, in which several objects are written and read.
const BUCKET_TIMEOUT: Duration = Duration::from_secs(20);

/// The lines of the report, one for each finding.
#[derive(Default)]
struct Report(Vec<(Level, String)>);

/// How serious a finding is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, or to be improved. Platen can run like this, if not with every command.
    Note,
    /// Platen cannot run like this.
    Failed,
}

impl Level {
    /// The first column of a line. All labels have the same width.
    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok     ",
            Self::Note => "note   ",
            Self::Failed => "FAILED ",
        }
    }
}

impl Report {
    fn add(&mut self, level: Level, text: impl Into<String>) {
        self.0.push((level, text.into()));
    }
}

/// Checks everything that the configuration names, and prints a line for each finding. The exit code is 1 if a finding
/// says FAILED.
///
/// # Errors
///
/// Returns an error if the output cannot be written.
pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let Report(lines) = examine(config).await;
    let is_ok = lines.iter().all(|(level, _)| *level != Level::Failed);
    let lines: Vec<String> = lines
        .into_iter()
        .map(|(level, text)| format!("{} {text}", level.label()))
        .collect();
    say!("{}", lines.join("\n"))?;
    Ok(if is_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Makes all checks. A check that fails adds a finding and does not end the report.
async fn examine(config: &Config) -> Report {
    let mut report = Report::default();
    check_postgres(config, &mut report).await;
    check_redis(config, &mut report).await;
    check_bucket(config, &mut report).await;
    match &config.signing_key {
        Some(_) => report.add(Level::Ok, "links are signed with PLATEN_SIGNING_KEY"),
        None => report.add(Level::Note, "PLATEN_SIGNING_KEY is not set; `platen up` makes one, `platen api` and `platen worker` need it"),
    }
    check_master_keys(config, &mut report);
    check_private_networks(config, &mut report);
    check_catalog(config, &mut report);
    report
}

/// Says whether there are master keys, and which.
fn check_master_keys(config: &Config, report: &mut Report) {
    let Some(keys) = &config.master_keys else {
        return report.add(
            Level::Note,
            "PLATEN_MASTER_KEYS is not set: nothing that needs encryption or mailed links can be stored. `platen up` makes a key. For others write `2026:` and the output of `openssl rand -hex 32`, the same for every process",
        );
    };
    let ids: Vec<&str> = keys.ids().collect();
    let text = match &ids[..] {
        [newest] => format!("secrets are encrypted with the master key {newest}"),
        [newest, older @ ..] => format!(
            "secrets are encrypted with the master key {newest}, and decrypted with {} as well",
            older.join(", ")
        ),
        [] => return,
    };
    report.add(Level::Ok, text);
}

/// Names the private networks that customers can reach, because each of them is a risk.
fn check_private_networks(config: &Config, report: &mut Report) {
    if config.private_networks.is_empty() {
        return report.add(
            Level::Ok,
            "URLs given by customers lead to public addresses only",
        );
    }
    let networks: Vec<String> = config
        .private_networks
        .iter()
        .map(ToString::to_string)
        .collect();
    report.add(
        Level::Note,
        format!("PLATEN_PRIVATE_NETWORKS: URLs given by customers may lead into {}: every customer can send requests to whatever listens there", networks.join(", ")),
    );
}

/// Checks each login of Postgres that is configured.
async fn check_postgres(config: &Config, report: &mut Report) {
    if !config.has_database_url() {
        return not_configured(
            report,
            "Postgres",
            "DATABASE_URL",
            servers::missing_postgres(),
        );
    }
    let mut known_logins: Vec<String> = Vec::new();
    // A process may have the logins of its own roles only, so each role is checked by itself.
    for &role in DatabaseRole::ALL {
        if config.database_url(role).is_err() {
            continue;
        }
        let check = check_login(config, role, &mut known_logins, report);
        match tokio::time::timeout(SERVER_TIMEOUT, check).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                report.add(
                    Level::Failed,
                    format!("Postgres as {}: {error}", role.name()),
                );
            }
            Err(_) => report.add(
                Level::Failed,
                format!("Postgres as {}: no answer within 5 s", role.name()),
            ),
        }
    }
}

/// Checks what the login of a role may do. With the reader's login it also checks the database itself. A login in
/// `known_logins` was described before and is not described again.
///
/// # Errors
///
/// Returns an error if the login cannot connect, cannot act as the role, or a query fails.
async fn check_login(
    config: &Config,
    role: DatabaseRole,
    known_logins: &mut Vec<String>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let url = config.database_url(role)?.expose_secret();
    let pool = database::connect(url, role, 1).await?;
    if role == DatabaseRole::Reader {
        if database::is_migrated(&pool).await? {
            report.add(Level::Ok, "Postgres: reachable and up to date");
            check_guards(&pool, report).await?;
        } else {
            report.add(
                Level::Failed,
                "Postgres: reachable, but not up to date: run `platen migrate`",
            );
        }
        check_connections(config, &pool, report).await?;
    }
    let login = Login::read(&pool).await?;
    pool.close().await;
    if !known_logins.contains(&login.name) {
        login.describe(report);
        known_logins.push(login.name);
    }
    Ok(())
}

/// Checks what protects the data inside the database: row-level security, triggers, grants.
async fn check_guards(pool: &PgPool, report: &mut Report) -> anyhow::Result<()> {
    match guards::check(&mut *pool.acquire().await?).await? {
        Comparison::Findings(found) if found.is_empty() => report.add(
            Level::Ok,
            "Postgres: row-level security, policies, triggers, grants, functions and roles are as they must be",
        ),
        Comparison::Findings(found) => {
            for finding in found {
                report.add(Level::Failed, format!("Postgres: {}", finding.text));
            }
        }
        Comparison::Newer { database, program } => report.add(
            Level::Note,
            format!("Postgres: the guards were NOT compared: the database has migration {database}, this program knows {program}"),
        ),
    }
    Ok(())
}

/// A login and its rights.
struct Login {
    name: String,
    is_superuser: bool,
    bypasses_row_security: bool,
    /// Whether the login may act as `platen_owner`.
    is_owner: bool,
    /// How many of the three runtime roles (api, worker, reader) the login may act as.
    roles: i64,
    has_connection_limit: bool,
}

impl Login {
    /// Reads the rights of the login that `pool` uses.
    async fn read(pool: &PgPool) -> sqlx::Result<Self> {
        let (name, is_superuser, bypasses_row_security, is_owner, roles, has_connection_limit) =
            sqlx::query_as(
            "SELECT rolname::text, rolsuper, rolbypassrls, pg_has_role(oid, 'platen_owner', 'MEMBER'),
                    (SELECT count(*) FROM pg_roles r WHERE r.rolname IN ('platen_api', 'platen_worker', 'platen_reader') AND pg_has_role(l.oid, r.oid, 'MEMBER')), rolconnlimit >= 0
             FROM pg_roles l WHERE rolname = session_user",
        )
        .fetch_one(pool)
        .await?;
        Ok(Self {
            name,
            is_superuser,
            bypasses_row_security,
            is_owner,
            roles,
            has_connection_limit,
        })
    }

    /// Adds what is good and bad about the rights of the login.
    fn describe(&self, report: &mut Report) {
        let name = &self.name;
        if self.is_superuser || self.bypasses_row_security || self.is_owner {
            let problem = if self.is_superuser {
                "is a superuser"
            } else if self.bypasses_row_security {
                "bypasses row-level security"
            } else {
                "may act as platen_owner"
            };
            report.add(
                Level::Failed,
                format!("Postgres: the login {name} {problem}: give the processes a login that may act as platen_api, platen_worker and platen_reader, and nothing else"),
            );
        } else if self.roles > 1 {
            report.add(
                Level::Note,
                format!("Postgres: the login {name} may act as {} of the api, the workers and the reader: whoever takes over one process may act as the others. DATABASE_API_URL, DATABASE_WORKER_URL and DATABASE_READER_URL give each a login of its own", self.roles),
            );
        } else {
            report.add(
                Level::Ok,
                format!("Postgres: the login {name} may act as one role only"),
            );
        }
        if !self.has_connection_limit {
            report.add(
                Level::Note,
                format!("Postgres: the login {name} has no CONNECTION LIMIT: it may take every connection, and operators find none. `platen migrate` sets one"),
            );
        }
    }
}

/// Compares the number of connections that Postgres accepts with the number that one api and the workers may use.
async fn check_connections(
    config: &Config,
    pool: &PgPool,
    report: &mut Report,
) -> sqlx::Result<()> {
    let usable: i32 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - coalesce(current_setting('reserved_connections', true), '0')::int",
    )
    .fetch_one(pool)
    .await?;
    let (usable, api, worker) = (
        u32::try_from(usable).unwrap_or(0),
        api::app::MAX_CONNECTIONS,
        worker::app::connections(config.slots),
    );
    let level = if usable < api + worker {
        Level::Failed
    } else {
        Level::Note
    };
    report.add(
        level,
        format!(
            "Postgres: it accepts {usable} connections besides the reserved ones. One api uses up to {api}, one worker of {} slots up to {worker}: beside one api there is room for {} workers",
            config.slots,
            usable.saturating_sub(api) / worker.max(1)
        ),
    );
    Ok(())
}

/// Checks whether Redis can be used.
async fn check_redis(config: &Config, report: &mut Report) {
    let Ok(address) = config.redis() else {
        return not_configured(report, "Redis", "REDIS_URL", servers::missing_redis());
    };
    let check = async { ReadyQueue::new(address, &config.queue)?.check().await };
    match tokio::time::timeout(SERVER_TIMEOUT, check).await {
        Ok(Ok(())) => report.add(Level::Ok, "Redis: reachable"),
        Ok(Err(error)) => {
            let failure = RedisFailure::classify(&error).unwrap_or(RedisFailure::Other);
            let words = failure.explanation();
            report.add(Level::Failed, format!("Redis: {words} ({error})"));
        }
        Err(_) => report.add(Level::Failed, "Redis: no answer within 5 s"),
    }
}

/// Checks whether objects can be written to the bucket and read from it, and whose bucket it is.
async fn check_bucket(config: &Config, report: &mut Report) {
    let Some(address) = &config.bucket else {
        return report.add(
            Level::Note,
            "bucket: PLATEN_BUCKET is not set; `platen up` keeps objects in its data folder, `platen api` and `platen worker` need it",
        );
    };
    let check = async {
        let bucket = Bucket::open(address, SecretString::default())?;
        bucket.probe().await?;
        Ok::<_, BucketError>(bucket)
    };
    match tokio::time::timeout(BUCKET_TIMEOUT, check).await {
        Ok(Ok(bucket)) => {
            report.add(
                Level::Ok,
                format!("bucket: {address} can be written and read, and overwrites nothing"),
            );
            check_owner(config, &bucket, report).await;
            if let Address::Folder(folder) = address {
                check_files(folder, report);
            }
        }
        Ok(Err(error)) => report.add(Level::Failed, format!("bucket: {address}: {error}")),
        Err(_) => report.add(
            Level::Failed,
            format!("bucket: {address}: no answer within 20 s"),
        ),
    }
}

/// Checks whether the bucket belongs to the database.
async fn check_owner(config: &Config, bucket: &Bucket, report: &mut Report) {
    let Ok(url) = config.database_url(DatabaseRole::Reader) else {
        return;
    };
    let check = async {
        let pool = database::connect(url.expose_secret(), DatabaseRole::Reader, 1).await?;
        ownership::examine(&pool, bucket).await
    };
    match tokio::time::timeout(SERVER_TIMEOUT, check).await {
        Ok(Ok(ownership)) => match ownership.problem() {
            None => report.add(Level::Ok, "bucket: its marker is this database's"),
            Some(problem) if ownership.is_usable() => {
                report.add(Level::Note, format!("bucket: {problem}"));
            }
            Some(problem) => report.add(Level::Failed, format!("bucket: {problem}")),
        },
        // The check of Postgres has already reported the problem.
        Ok(Err(_)) | Err(_) => report.add(
            Level::Note,
            "bucket: whether it is this database's could not be asked",
        ),
    }
}

/// Checks whether other users may read the files of a folder, and whether it contains links or other special files.
fn check_files(folder: &Path, report: &mut Report) {
    let survey = match bucket::survey(folder) {
        Ok(survey) => survey,
        Err(error) => {
            return report.add(Level::Note, format!("bucket: it cannot be listed: {error}"));
        }
    };
    let FolderState { seen, is_whole, .. } = survey;
    // A large folder is checked only in part.
    let which = if is_whole { "all" } else { "the first" };
    if let Some(path) = &survey.example_open_to_others {
        report.add(
            Level::Note,
            format!(
                "bucket: {} of {which} {seen} files and folders may be read or written by others than their owner, such as {}: `chmod -R go= {}` ends that",
                survey.open_to_others,
                path.display(),
                folder.display()
            ),
        );
    }
    if let Some(path) = &survey.example_irregular {
        report.add(
            Level::Note,
            format!(
                "bucket: {} of {which} {seen} entries are symbolic links, pipes, sockets or devices, such as {}: they are not followed and not removed",
                survey.irregular,
                path.display()
            ),
        );
    }
}

/// Reports a server that is not configured, and whether `platen up` could start its own.
fn not_configured(report: &mut Report, name: &str, variable: &str, missing: Option<&str>) {
    match missing {
        None => report.add(
            Level::Note,
            format!("{name}: {variable} is not set; `platen up` starts its own"),
        ),
        Some(missing) => report.add(
            Level::Failed,
            format!("{name}: {variable} is not set. {missing}"),
        ),
    }
}

/// Checks the catalogue of models, and whether its providers have their credentials.
fn check_catalog(config: &Config, report: &mut Report) {
    match config.catalog() {
        Err(error) => report.add(Level::Failed, error.to_string()),
        Ok(catalog) => {
            let today = clock::now().date();
            report.add(
                Level::Ok,
                format!("{} models in the catalogue", catalog.models().count()),
            );
            // The providers are built only to see whether each of them has its credentials.
            let memory = worker::memory::within(
                config.memory,
                config.slots + worker::slots::reserve(config.slots),
            );
            match worker::providers::Providers::new(&catalog, config, &memory) {
                Ok(_) => report.add(Level::Ok, "every provider in the catalogue has what it needs"),
                Err(error) => report.add(Level::Note, format!("{error:#}. `platen worker` refuses to start; `platen up` without GOOGLE_CLOUD_PROJECT and PLATEN_PROVIDERS starts a fake")),
            }
            for warning in lifecycle::warnings(&catalog, today) {
                report.add(Level::Note, warning.words);
            }
        }
    }
}
