//! `platen doctor`: what is configured, what is reachable, what is missing.

use std::fmt;
use std::time::Duration;

use common::bucket::Bucket;
use common::catalog::lifecycle;
use common::clock;
use common::config::Config;
use common::database::{self, Role};
use common::queue::Ring;
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
    let Some(url) = &config.redis_url else {
        return private(
            report,
            "Redis",
            "REDIS_URL",
            crate::private::missing_redis(),
        );
    };
    let reach = async { Ring::new(url.expose_secret(), &config.queue)?.ping().await };
    match tokio::time::timeout(Duration::from_secs(5), reach).await {
        Ok(Ok(())) => report.add(Health::Well, "Redis: reachable"),
        Ok(Err(error)) => report.add(Health::Ill, format!("Redis: {error}")),
        Err(_) => report.add(Health::Ill, "Redis: no answer within 5 s"),
    }
}

async fn bucket(config: &Config, report: &mut Report) {
    let Some(address) = &config.bucket else {
        return report.add(
            Health::Note,
            "bucket: PLATEN_BUCKET is not set; `platen up` keeps objects in its data folder, others in ./data/bucket",
        );
    };
    let examine = async {
        let bucket = Bucket::open(address, SecretString::default())?;
        bucket.examine().await
    };
    match tokio::time::timeout(Duration::from_secs(20), examine).await {
        Ok(Ok(())) => report.add(
            Health::Well,
            format!("bucket: {address} can be written and read, and overwrites nothing"),
        ),
        Ok(Err(error)) => report.add(Health::Ill, format!("bucket: {address}: {error}")),
        Err(_) => report.add(
            Health::Ill,
            format!("bucket: {address}: no answer within 20 s"),
        ),
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
            let memory = worker::memory::within(config.memory, config.slots);
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
