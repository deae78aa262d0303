//! `platen doctor`: what is configured, what is reachable, what is missing.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use common::bucket::{self, Address, Bucket, BucketError, Survey};
use common::catalog::lifecycle;
use common::clock;
use common::config::Config;
use common::database::{self, DatabaseRole};
use common::ownership;
use common::queue::{ReadyQueue, Trouble};
use common::verify::guards::{self, Compared};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;

/// What was found, a line each.
#[derive(Default)]
pub struct Report(Vec<(Health, String)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Note,
    Ill,
}

impl Report {
    /// Whether nothing stands in the way of running.
    pub fn is_well(&self) -> bool {
        self.0.iter().all(|(health, _)| *health != Health::Ill)
    }

    fn add(&mut self, health: Health, says: impl Into<String>) {
        self.0.push((health, says.into()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (health, says) in &self.0 {
            let mark = match health {
                Health::Well => "ok     ",
                Health::Note => "note   ",
                Health::Ill => "MISSING",
            };
            write!(f, "{}{mark} {says}", if first { "" } else { "\n" })?;
            first = false;
        }
        Ok(())
    }
}

/// Looks at everything the configuration names.
pub async fn examine(config: &Config) -> Report {
    let mut report = Report::default();
    postgres(config, &mut report).await;
    redis(config, &mut report).await;
    bucket(config, &mut report).await;
    match &config.signing_key {
        Some(_) => report.add(Health::Well, "links are signed with PLATEN_SIGNING_KEY"),
        None => report.add(Health::Note, "PLATEN_SIGNING_KEY is not set; `platen up` makes one, `platen api` and `platen worker` need it"),
    }
    catalog(config, &mut report);
    report
}

async fn postgres(config: &Config, report: &mut Report) {
    let named = DatabaseRole::ALL.map(|role| config.database_url(role).is_ok());
    if named == [false; 3] {
        return private(
            report,
            "Postgres",
            "DATABASE_URL",
            crate::private::missing_postgres(),
        );
    }
    let mut known: Vec<String> = Vec::new();
    // A process has the logins of its own roles only.
    for (role, named) in DatabaseRole::ALL.into_iter().zip(named) {
        if !named {
            continue;
        }
        let examine = login(config, role, &mut known, report);
        match tokio::time::timeout(CHECK_TIMEOUT, examine).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                report.add(Health::Ill, format!("Postgres as {}: {error}", role.name()));
            }
            Err(_) => report.add(
                Health::Ill,
                format!("Postgres as {}: no answer within 5 s", role.name()),
            ),
        }
    }
}

/// How long a server may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What the login of a role may do, and once for all what the database is like.
async fn login(
    config: &Config,
    role: DatabaseRole,
    known: &mut Vec<String>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let url = config.database_url(role)?.expose_secret();
    let pool = database::connect(url, role, 1).await?;
    if role == DatabaseRole::Reader {
        if database::is_migrated(&pool).await? {
            report.add(Health::Well, "Postgres: reachable and up to date");
            guards(&pool, report).await?;
        } else {
            report.add(
                Health::Ill,
                "Postgres: reachable, but not up to date: run `platen migrate`",
            );
        }
        connections(config, &pool, report).await?;
    }
    let login = Login::of(&pool).await?;
    pool.close().await;
    if !known.contains(&login.name) {
        for (health, says) in login.says() {
            report.add(health, says);
        }
        known.push(login.name);
    }
    Ok(())
}

async fn guards(pool: &PgPool, report: &mut Report) -> anyhow::Result<()> {
    match guards::check(&mut *pool.acquire().await?).await? {
        Compared::Findings(found) if found.is_empty() => report.add(
            Health::Well,
            "Postgres: row-level security, policies, triggers, grants, functions and roles are as they must be",
        ),
        Compared::Findings(found) => {
            for finding in found {
                report.add(Health::Ill, format!("Postgres: {}", finding.says));
            }
        }
        Compared::Newer { database, program } => report.add(
            Health::Note,
            format!("Postgres: the guards were NOT compared: the database has migration {database}, this program knows {program}"),
        ),
    }
    Ok(())
}

/// A login, as the database knows it.
struct Login {
    name: String,
    superuser: bool,
    bypasses: bool,
    owner: bool,
    roles: i64,
    limited: bool,
}

impl Login {
    async fn of(pool: &PgPool) -> sqlx::Result<Self> {
        let (name, superuser, bypasses, owner, roles, limited) = sqlx::query_as(
            "SELECT rolname::text, rolsuper, rolbypassrls, pg_has_role(oid, 'platen_owner', 'MEMBER'),
                    (SELECT count(*) FROM pg_roles r WHERE r.rolname IN ('platen_api', 'platen_worker', 'platen_reader') AND pg_has_role(l.oid, r.oid, 'MEMBER')), rolconnlimit >= 0
             FROM pg_roles l WHERE rolname = session_user",
        )
        .fetch_one(pool)
        .await?;
        Ok(Self {
            name,
            superuser,
            bypasses,
            owner,
            roles,
            limited,
        })
    }

    fn says(&self) -> Vec<(Health, String)> {
        let name = &self.name;
        let mut says = Vec::new();
        if self.superuser || self.bypasses || self.owner {
            let is = if self.superuser {
                "is a superuser"
            } else if self.bypasses {
                "bypasses row-level security"
            } else {
                "may act as platen_owner"
            };
            says.push((
                Health::Ill,
                format!("Postgres: the login {name} {is}: give the processes a login that may act as platen_api, platen_worker and platen_reader, and nothing else"),
            ));
        } else if self.roles > 1 {
            says.push((
                Health::Note,
                format!("Postgres: the login {name} may act as {} of the api, the workers and the reader: whoever takes over one process may act as the others. DATABASE_API_URL, DATABASE_WORKER_URL and DATABASE_READER_URL give each a login of its own", self.roles),
            ));
        } else {
            says.push((
                Health::Well,
                format!("Postgres: the login {name} may act as one role only"),
            ));
        }
        if !self.limited {
            says.push((
                Health::Note,
                format!("Postgres: the login {name} has no CONNECTION LIMIT: it may take every connection, and operators find none. `platen migrate` sets one"),
            ));
        }
        says
    }
}

/// Whether the processes find the connections they may take, and some are left for operators.
async fn connections(config: &Config, pool: &PgPool, report: &mut Report) -> sqlx::Result<()> {
    let left: i32 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - coalesce(current_setting('reserved_connections', true), '0')::int",
    )
    .fetch_one(pool)
    .await?;
    let (left, api, worker) = (
        u32::try_from(left).unwrap_or(0),
        api::app::MAX_CONNECTIONS,
        worker::app::connections(config.slots),
    );
    let health = if left < api + worker {
        Health::Ill
    } else {
        Health::Note
    };
    report.add(
        health,
        format!(
            "Postgres: it takes {left} connections, without those it reserves. An api takes up to {api}, a worker of {} slots up to {worker}: {} workers find theirs beside one api",
            config.slots,
            left.saturating_sub(api) / worker.max(1)
        ),
    );
    Ok(())
}

async fn redis(config: &Config, report: &mut Report) {
    let Ok(address) = config.redis() else {
        return private(
            report,
            "Redis",
            "REDIS_URL",
            crate::private::missing_redis(),
        );
    };
    let reach = async { ReadyQueue::new(address, &config.queue)?.check().await };
    match tokio::time::timeout(Duration::from_secs(5), reach).await {
        Ok(Ok(())) => report.add(Health::Well, "Redis: reachable"),
        Ok(Err(error)) => {
            let trouble = Trouble::of(&error).unwrap_or(Trouble::Other);
            let words = trouble.plain_words();
            report.add(Health::Ill, format!("Redis: {words} ({error})"));
        }
        Err(_) => report.add(Health::Ill, "Redis: no answer within 5 s"),
    }
}

async fn bucket(config: &Config, report: &mut Report) {
    let Some(address) = &config.bucket else {
        return report.add(
            Health::Note,
            "bucket: PLATEN_BUCKET is not set; `platen up` keeps objects in its data folder, `platen api` and `platen worker` need it",
        );
    };
    let examine = async {
        let bucket = Bucket::open(address, SecretString::default())?;
        bucket.probe().await?;
        Ok::<_, BucketError>(bucket)
    };
    match tokio::time::timeout(Duration::from_secs(20), examine).await {
        Ok(Ok(bucket)) => {
            report.add(
                Health::Well,
                format!("bucket: {address} can be written and read, and overwrites nothing"),
            );
            owner(config, &bucket, report).await;
            if let Address::Folder(folder) = address {
                files(folder, report);
            }
        }
        Ok(Err(error)) => report.add(Health::Ill, format!("bucket: {address}: {error}")),
        Err(_) => report.add(
            Health::Ill,
            format!("bucket: {address}: no answer within 20 s"),
        ),
    }
}

/// Whether the bucket is the database's.
async fn owner(config: &Config, bucket: &Bucket, report: &mut Report) {
    let Some(url) = &config.database_url else {
        return;
    };
    let ask = async {
        let pool = database::connect(url.expose_secret(), DatabaseRole::Reader, 1).await?;
        ownership::examine(&pool, bucket).await
    };
    match tokio::time::timeout(Duration::from_secs(5), ask).await {
        Ok(Ok(ownership)) => match ownership.problem() {
            None => report.add(Health::Well, "bucket: its marker is this database's"),
            Some(problem) if ownership.is_usable() => {
                report.add(Health::Note, format!("bucket: {problem}"));
            }
            Some(problem) => report.add(Health::Ill, format!("bucket: {problem}")),
        },
        // What is wrong with Postgres was told above.
        Ok(Err(_)) | Err(_) => report.add(
            Health::Note,
            "bucket: whether it is this database's could not be asked",
        ),
    }
}

/// Whether others may read the files of a folder, and what in it is no file.
fn files(folder: &Path, report: &mut Report) {
    let survey = match bucket::survey(folder) {
        Ok(survey) => survey,
        Err(error) => {
            return report.add(
                Health::Note,
                format!("bucket: it cannot be listed: {error}"),
            );
        }
    };
    let Survey { seen, is_whole, .. } = survey;
    let of = if is_whole { "all" } else { "the first" };
    if let Some(path) = &survey.one_of_these {
        report.add(
            Health::Note,
            format!(
                "bucket: {} of {of} {seen} files and folders may be read or written by others than their owner, such as {}: `chmod -R go= {}` ends that",
                survey.open_to_others,
                path.display(),
                folder.display()
            ),
        );
    }
    if let Some(path) = &survey.an_irregular {
        report.add(
            Health::Note,
            format!(
                "bucket: {} of {of} {seen} entries are symbolic links, pipes, sockets or devices, such as {}: they are not followed and not removed",
                survey.irregular,
                path.display()
            ),
        );
    }
}

fn private(report: &mut Report, name: &str, variable: &str, missing: Option<&str>) {
    match missing {
        None => report.add(
            Health::Note,
            format!("{name}: {variable} is not set; `platen up` starts its own"),
        ),
        Some(missing) => report.add(
            Health::Ill,
            format!("{name}: {variable} is not set. {missing}"),
        ),
    }
}

fn catalog(config: &Config, report: &mut Report) {
    match config.catalog() {
        Err(error) => report.add(Health::Ill, error.to_string()),
        Ok(catalog) => {
            let today = clock::now().date();
            report.add(
                Health::Well,
                format!("{} models in the catalogue", catalog.models().count()),
            );
            let memory = worker::memory::within(
                config.memory,
                config.slots + worker::slots::reserve(config.slots),
            );
            match worker::providers::Providers::new(&catalog, config, &memory) {
                Ok(_) => report.add(Health::Well, "every provider in the catalogue has what it needs"),
                Err(error) => report.add(Health::Note, format!("{error:#}. `platen worker` refuses to start; `platen up` without GOOGLE_CLOUD_PROJECT and PLATEN_PROVIDERS starts a fake")),
            }
            for warning in lifecycle::warnings(&catalog, today) {
                report.add(Health::Note, warning.words);
            }
        }
    }
}
