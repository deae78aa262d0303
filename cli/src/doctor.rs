//! `platen doctor`: what is configured, what is reachable, what is missing.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use common::bucket::{self, Address, Bucket, BucketError, Survey};
use common::catalog::lifecycle;
use common::clock;
use common::config::Config;
use common::database::{self, Role};
use common::ownership;
use common::queue::{Ring, Trouble};
use secrecy::{ExposeSecret, SecretString};

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
    let Some(url) = &config.database_url else {
        return private(
            report,
            "Postgres",
            "DATABASE_URL",
            crate::private::missing_postgres(),
        );
    };
    let reach = async {
        let pool = database::connect(url.expose_secret(), Role::Reader, 1).await?;
        database::is_migrated(&pool).await
    };
    match tokio::time::timeout(Duration::from_secs(5), reach).await {
        Ok(Ok(true)) => report.add(Health::Well, "Postgres: reachable and up to date"),
        Ok(Ok(false)) => report.add(
            Health::Ill,
            "Postgres: reachable, but not up to date: run `platen migrate`",
        ),
        Ok(Err(error)) => report.add(Health::Ill, format!("Postgres: {error}")),
        Err(_) => report.add(Health::Ill, "Postgres: no answer within 5 s"),
    }
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
    let reach = async { Ring::new(address, &config.queue)?.check().await };
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
        bucket.examine().await?;
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
        let pool = database::connect(url.expose_secret(), Role::Reader, 1).await?;
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
                worker::places::Places::new(config.slots, 100).all(),
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
