//! Everything that can fail: servers, provider and processes, with a proxy before each.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::bucket::Bucket;
use common::clock;
use common::config::{
    API_MEMORY, Config, Links, Logins, MEMORY, Ports, Providers, Rates, Timing, Unpaid,
};
use common::credits::Credits;
use common::database::{self, DatabaseRole};
use common::operator::tenants;
use fakes::{Fake, Fault, Latency, Switches};
use secrecy::{ExposeSecret, SecretString};
use servers::Servers;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use super::diary::Diary;
use super::plan::Line;
use crate::fleet::{Orders, Process, Role};
use crate::pipeline::TESTER;
use crate::proxy::{Forgotten, Proxy};
use crate::s3::{self, S3};
use crate::{models, pipeline, processes};

pub const APIS: usize = 2;
pub const WORKERS: usize = 3;
/// Jobs one worker works on at once.
const SLOTS: usize = 16;
/// Bytes of pictures that may wait for the bucket in one worker.
const SPOOL: usize = 64 * 1024 * 1024;
const TENANTS: usize = 4;
/// More than a run can spend.
const CREDITS: i64 = 10_000_000;
/// How long a model may take; shorter than the shipped ones, for nobody here waits two minutes for a lost answer.
const MODEL_SECONDS: u32 = 30;
/// How long a process may take to come up while its servers come and go.
const RISE: Duration = Duration::from_mins(2);

pub struct Stage {
    pub servers: Mutex<Servers>,
    pub postgres: Proxy,
    pub redis: Proxy,
    pub provider: Proxy,
    pub bucket: Proxy,
    /// One before each api.
    pub doors: Vec<Proxy>,
    pub apis: Vec<Mutex<Process>>,
    pub workers: Vec<Mutex<Process>>,
    pub fake: Fake,
    _store: S3,
    /// The time of the fake's clock at zero.
    pub fake_began: OffsetDateTime,
    /// Keys of the tenants.
    pub keys: Vec<String>,
    /// What our processes are told, but with no proxy between.
    pub straight: Config,
    /// Sees and may do everything, with no proxy between.
    pub owner: PgPool,
    pub diary: Diary,
    /// Connections that are half open until everything is over.
    forgotten: std::sync::Mutex<Vec<Forgotten>>,
    _catalogue: TempDir,
}

impl Stage {
    /// Starts everything, with data and logs in a folder.
    pub async fn start(folder: &Path, lease: Duration) -> anyhow::Result<Self> {
        let servers = Servers::start(&folder.join("servers")).await?;
        database::migrate(servers.owner_url(), Some("platen")).await?;
        let fake = Fake::start(fakes::Options::default()).await?;
        let fake_began = clock::now();
        fake.faults().set(provider());
        let (postgres, database_url) = Proxy::before(servers.database_url()).await?;
        let (redis, redis_url) = Proxy::before(servers.redis_url()).await?;
        let (provider, provider_url) = Proxy::before(&fake.base_url()).await?;
        let store = S3::start(&folder.join("bucket")).await;
        let (bucket, bucket_url) = Proxy::before(&store.endpoint()).await?;
        let catalogue = models::shipped();
        models::played_by(&catalogue, &provider_url);
        for file in ["vertex.toml", "interactions.toml"] {
            models::patience(&catalogue, file, MODEL_SECONDS);
        }

        // Each process is given addresses of its own.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let straight = Config {
            database_url: Some(servers.database_url().into()),
            logins: Logins::default(),
            owner_url: Some(servers.owner_url().into()),
            redis_url: Some(servers.redis_url().into()),
            redis_url_file: None,
            queue: "chaos".to_owned(),
            // Each page of a listing is a walk through all there is, and there is much.
            bucket: Some(s3::address_within(&store.endpoint(), "", "60s")),
            signing_key: Some("a key for chaos, and for chaos only".into()),
            previous_signing_key: None,
            operator_key: None,
            links: Links::default(),
            listen: nowhere,
            metrics_listen: nowhere,
            cors_origins: Vec::new(),
            public_url: None,
            trusted_proxies: Vec::new(),
            ports: Ports::default(),
            rates: Rates::default(),
            slots: SLOTS,
            tenant_slots_percent: 100,
            spool: SPOOL,
            memory: MEMORY,
            api_memory: API_MEMORY,
            timing: Timing {
                lease,
                ..Timing::default()
            },
            unpaid: Unpaid::default(),
            models: Some(catalogue.path().to_owned()),
            providers: Providers::default(),
        };
        let pool = database::connect(servers.database_url(), DatabaseRole::Api, 1).await?;
        pipeline::adopt(&pool, &straight.bucket()?).await;
        pool.close().await;
        let mut orders = Orders {
            program: processes::binary("platen"),
            config: Config {
                database_url: Some(SecretString::from(database_url)),
                redis_url: Some(SecretString::from(redis_url)),
                bucket: Some(s3::address(&bucket_url, "")),
                ..straight.clone()
            },
            // Tokens are kept for an hour: where they come from is not what is tried here.
            environment: models::keys(&fake.base_url()),
            folder: folder.to_owned(),
        };
        let more = [
            ("PLATEN_LOG", "info"),
            ("PLATEN_LOG_FORMAT", "json"),
            ("AWS_TIMEOUT", "5s"),
            // Its clients cancel what they like.
            ("PLATEN_CANCEL_ALLOWANCE", "1000000"),
        ];
        let more = more.map(|(name, value)| (name, value.to_owned()));
        let more = more.into_iter().chain(s3::variables(&bucket_url));
        let more = more.map(|(name, value)| (name.to_owned(), value));
        orders.environment.extend(more);

        let keys = tenants(&straight).await?;
        let owner = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(2))
            .connect_with(servers.owner_url().parse::<PgConnectOptions>()?)
            .await?;
        let apis = orders.start(Role::Api, APIS).await?;
        let workers = orders.start(Role::Worker, WORKERS).await?;
        let mut doors = Vec::new();
        for api in &apis {
            doors.push(Proxy::start(api.address()).await?);
        }
        Ok(Self {
            servers: Mutex::new(servers),
            postgres,
            redis,
            provider,
            bucket,
            doors,
            apis: apis.into_iter().map(Mutex::new).collect(),
            workers: workers.into_iter().map(Mutex::new).collect(),
            fake,
            _store: store,
            fake_began,
            keys,
            straight,
            owner,
            diary: Diary::default(),
            forgotten: std::sync::Mutex::default(),
            _catalogue: catalogue,
        })
    }

    /// The proxies of a line.
    pub fn line(&self, line: Line) -> Vec<&Proxy> {
        match line {
            Line::Postgres => vec![&self.postgres],
            Line::Redis => vec![&self.redis],
            Line::Provider => vec![&self.provider],
            Line::Bucket => vec![&self.bucket],
            Line::Clients => self.doors.iter().collect(),
        }
    }

    /// Leaves every connection of a line half open for good.
    pub fn forget(&self, line: Line) {
        let forgotten = self.line(line).into_iter().map(Proxy::forget);
        let mut all = self.forgotten.lock().unwrap();
        all.extend(forgotten);
    }

    pub fn every_proxy(&self) -> impl Iterator<Item = &Proxy> {
        let single = [&self.postgres, &self.redis, &self.provider, &self.bucket];
        single.into_iter().chain(&self.doors)
    }

    pub fn processes(&self) -> impl Iterator<Item = &Mutex<Process>> {
        self.apis.iter().chain(&self.workers)
    }

    /// Starts a process again, as often as it takes: one that finds no Postgres ends, and whoever runs it tries again.
    pub async fn rise(&self, process: &mut Process) {
        let rise = async {
            loop {
                let risen = match process.start() {
                    Ok(()) => process.ready().await,
                    Err(error) => Err(error),
                };
                if risen.is_ok() {
                    return;
                }
                let _gone = process.kill().await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        if tokio::time::timeout(RISE, rise).await.is_err() {
            let (name, words) = (&process.name, process.last_words());
            self.diary
                .violation(format!("{name} did not come up within {RISE:?}; {words}"));
        }
    }

    /// Looks whether a process has ended by itself, which none should, and starts it again.
    pub async fn look_after_processes(&self) {
        for process in self.processes() {
            // Who holds it ends it on purpose.
            let Ok(mut process) = process.try_lock() else {
                continue;
            };
            if let Some(status) = process.ended() {
                let (name, words) = (&process.name, process.last_words());
                self.diary
                    .violation(format!("{name} ended by itself ({status}); {words}"));
                self.rise(&mut process).await;
            }
        }
    }

    /// The bucket, with no proxy between.
    pub fn spool(&self) -> anyhow::Result<Bucket> {
        let key = self.straight.signing_key()?.clone();
        Ok(Bucket::open(&self.straight.bucket()?, key)?)
    }

    /// Sees every row.
    pub async fn reader(&self) -> anyhow::Result<PgPool> {
        let url = self
            .straight
            .database_url(DatabaseRole::Reader)?
            .expose_secret();
        Ok(database::connect(url, DatabaseRole::Reader, 4).await?)
    }
}

/// What a worker calls itself in this life.
pub fn worker_name(process: &Process) -> Option<String> {
    let log = std::fs::read_to_string(process.log()).ok()?;
    let mut lines = log.lines().rev();
    let line = lines.find(|line| line.contains("\"Worker is ready\""))?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(line["fields"]["worker"].as_str()?.to_owned())
}

/// A provider that takes its time and sometimes fails by itself.
fn provider() -> Switches {
    Switches {
        latency_ms: Latency {
            min: 1_000,
            max: 2_000,
        },
        rate: 0.05,
        among: vec![
            Fault::Status(503),
            Fault::Status(500),
            Fault::Status(429),
            Fault::Cut,
            Fault::BadPicture,
            Fault::TextOnly,
            Fault::Late(7_000),
        ],
        plain: true,
        ..Switches::default()
    }
}

async fn tenants(config: &Config) -> anyhow::Result<Vec<String>> {
    let url = config.database_url(DatabaseRole::Api)?.expose_secret();
    let pool = database::connect(url, DatabaseRole::Api, 2).await?;
    let mut keys = Vec::new();
    for number in 0..TENANTS {
        let tenant = tenants::add(&pool, TESTER, &format!("tenant {number}")).await?;
        tenants::grant(&pool, TESTER, tenant, "chaos", Credits::new(CREDITS)?).await?;
        let key = tenants::add_key(&pool, TESTER, tenant, "chaos").await?;
        keys.push(key.expose().to_owned());
    }
    pool.close().await;
    Ok(keys)
}
