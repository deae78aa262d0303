//! Everything that can fail: servers, provider and processes, with a proxy before each of them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bucket::Bucket;
use common::config::{
    Config, DEFAULT_API_MEMORY, DEFAULT_MEMORY, Links, Logins, Ports, Providers, Rates, Timing,
    UnbilledLimits,
};
use common::people::operator::tenants;
use domain::api_key::KeyTerms;
use domain::clock;
use domain::credits::Credits;
use fakes::{Fake, Fault, Latency, Switches};
use secrecy::{ExposeSecret, SecretString};
use servers::Servers;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use storage::database::{self, DatabaseRole};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use super::diary::Diary;
use crate::fleet::{Orders, Process, Role};
use crate::pipeline::TESTER;
use crate::proxy::{Forgotten, Proxy};
use crate::s3::{self, S3};
use crate::{models, pipeline, processes};

/// How many apis run.
pub const APIS: usize = 2;
/// How many workers run.
pub const WORKERS: usize = 3;
/// Jobs that one worker works on at once.
const SLOTS: usize = 16;
/// Bytes of images that may wait for the bucket in one worker.
const SPOOL_BYTES: usize = 64 * 1024 * 1024;
const TENANTS: usize = 4;
/// More than a run can spend.
const CREDITS: i64 = 10_000_000;
/// How long a call may take. Shorter than in the shipped catalogue, so that a run need not wait two minutes for a lost
/// answer.
const MODEL_TIMEOUT_SECONDS: u32 = 30;
/// How long a process may take to start while its servers fail.
const START_TIMEOUT: Duration = Duration::from_mins(2);
const START_INTERVAL: Duration = Duration::from_millis(300);

/// The connections between our processes and something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Those to Postgres.
    Postgres,
    /// Those to Redis.
    Redis,
    /// Those to the provider.
    Provider,
    /// Those to the bucket.
    Bucket,
    /// Those of clients to the apis.
    Clients,
}

/// Everything that runs.
pub struct Stage {
    /// Postgres and Redis.
    pub servers: Mutex<Servers>,
    /// The proxy before Postgres.
    pub postgres: Proxy,
    /// The proxy before Redis.
    pub redis: Proxy,
    /// The proxy before the provider.
    pub provider: Proxy,
    /// The proxy before the bucket.
    pub bucket: Proxy,
    /// The proxy before each api.
    pub api_proxies: Vec<Proxy>,
    /// The apis.
    pub apis: Vec<Mutex<Process>>,
    /// The workers.
    pub workers: Vec<Mutex<Process>>,
    /// The provider.
    pub fake: Fake,
    _store: S3,
    /// When the clock of the fake was zero.
    pub fake_began: OffsetDateTime,
    /// The API key of each tenant.
    pub keys: Vec<String>,
    /// The configuration of the processes, but without proxies.
    pub direct: Config,
    /// Connections with the owner's login, without a proxy.
    pub owner: PgPool,
    /// The record of the run.
    pub diary: Diary,
    /// Connections that stay half open until the end of the run.
    forgotten: std::sync::Mutex<Vec<Forgotten>>,
    _catalogue: TempDir,
}

impl Stage {
    /// Starts everything. Data and logs are in `folder`.
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
            models::patience(&catalogue, file, MODEL_TIMEOUT_SECONDS);
        }

        // Replaced for each process by addresses of its own.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let direct = Config {
            database_url: Some(servers.database_url().into()),
            logins: Logins::default(),
            owner_url: Some(servers.owner_url().into()),
            redis_url: Some(servers.redis_url().into()),
            redis_url_file: None,
            queue: "chaos".to_owned(),
            // The store walks through all objects for each page of a listing, which takes long.
            bucket: Some(s3::address_within(&store.endpoint(), "", "60s")),
            signing_key: Some("a key for chaos, and for chaos only".into()),
            previous_signing_key: None,
            master_keys: None,
            operator_key: None,
            links: Links::default(),
            listen: nowhere,
            metrics_listen: nowhere,
            cors_origins: Vec::new(),
            public_url: None,
            trusted_proxies: Vec::new(),
            private_networks: Vec::new(),
            ports: Ports::default(),
            rates: Rates::default(),
            slots: SLOTS,
            tenant_slots_percent: 100,
            spool: SPOOL_BYTES,
            spool_disk: 0,
            memory: DEFAULT_MEMORY,
            api_memory: DEFAULT_API_MEMORY,
            timing: Timing {
                lease,
                ..Timing::default()
            },
            unbilled_limits: UnbilledLimits::default(),
            models: Some(catalogue.path().to_owned()),
            providers: Providers::default(),
        };
        let pool = database::connect(servers.database_url(), DatabaseRole::Api, 1).await?;
        pipeline::adopt(&pool, &direct.bucket()?).await;
        pool.close().await;
        let mut orders = Orders {
            program: processes::binary("platen"),
            config: Config {
                database_url: Some(SecretString::from(database_url)),
                redis_url: Some(SecretString::from(redis_url)),
                bucket: Some(s3::address(&bucket_url, "")),
                ..direct.clone()
            },
            // Tokens come from the fake without a proxy. They are cached for an hour, so faults there would show nothing.
            environment: models::keys(&fake.base_url()),
            folder: folder.to_owned(),
        };
        let more = [
            ("PLATEN_LOG", "info"),
            ("PLATEN_LOG_FORMAT", "json"),
            ("AWS_TIMEOUT", "5s"),
            // The clients cancel as many jobs as they like.
            ("PLATEN_CANCEL_ALLOWANCE", "1000000"),
        ];
        let more = more.map(|(name, value)| (name, value.to_owned()));
        let more = more.into_iter().chain(s3::variables(&bucket_url));
        let more = more.map(|(name, value)| (name.to_owned(), value));
        orders.environment.extend(more);

        let keys = tenants(&direct).await?;
        let owner = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(2))
            .connect_with(servers.owner_url().parse::<PgConnectOptions>()?)
            .await?;
        let apis = orders.start(Role::Api, APIS).await?;
        let workers = orders.start(Role::Worker, WORKERS).await?;
        let mut api_proxies = Vec::new();
        for api in &apis {
            api_proxies.push(Proxy::start(api.address()).await?);
        }
        Ok(Self {
            servers: Mutex::new(servers),
            postgres,
            redis,
            provider,
            bucket,
            api_proxies,
            apis: apis.into_iter().map(Mutex::new).collect(),
            workers: workers.into_iter().map(Mutex::new).collect(),
            fake,
            _store: store,
            fake_began,
            keys,
            direct,
            owner,
            diary: Diary::default(),
            forgotten: std::sync::Mutex::default(),
            _catalogue: catalogue,
        })
    }

    /// The proxies of a link.
    pub fn proxies(&self, link: Link) -> Vec<&Proxy> {
        match link {
            Link::Postgres => vec![&self.postgres],
            Link::Redis => vec![&self.redis],
            Link::Provider => vec![&self.provider],
            Link::Bucket => vec![&self.bucket],
            Link::Clients => self.api_proxies.iter().collect(),
        }
    }

    /// Leaves every connection of a link half open until the end of the run.
    pub fn forget(&self, link: Link) {
        let forgotten = self.proxies(link).into_iter().map(Proxy::forget);
        let mut all = self.forgotten.lock().unwrap();
        all.extend(forgotten);
    }

    /// All proxies.
    pub fn every_proxy(&self) -> impl Iterator<Item = &Proxy> {
        let single = [&self.postgres, &self.redis, &self.provider, &self.bucket];
        single.into_iter().chain(&self.api_proxies)
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = &Mutex<Process>> {
        self.apis.iter().chain(&self.workers)
    }

    /// Starts a process until it is ready. A process that finds no Postgres ends, and its supervisor must start it again.
    pub async fn start_again(&self, process: &mut Process) {
        let start = async {
            loop {
                let started = match process.start() {
                    Ok(()) => process.ready().await,
                    Err(error) => Err(error),
                };
                if started.is_ok() {
                    return;
                }
                let _ended = process.kill().await;
                tokio::time::sleep(START_INTERVAL).await;
            }
        };
        if tokio::time::timeout(START_TIMEOUT, start).await.is_err() {
            let (name, words) = (&process.name, process.last_words());
            self.diary.violation(format!(
                "{name} did not start within {START_TIMEOUT:?}; {words}"
            ));
        }
    }

    /// Starts processes again that have ended by themselves, which is a violation.
    pub async fn restart_ended_processes(&self) {
        for process in self.processes() {
            // If it is locked, a fault ends it on purpose.
            let Ok(mut process) = process.try_lock() else {
                continue;
            };
            if let Some(status) = process.ended() {
                let (name, words) = (&process.name, process.last_words());
                self.diary
                    .violation(format!("{name} ended by itself ({status}); {words}"));
                self.start_again(&mut process).await;
            }
        }
    }

    /// The bucket, without a proxy.
    pub fn direct_bucket(&self) -> anyhow::Result<Bucket> {
        let key = self.direct.signing_key()?.clone();
        Ok(Bucket::open(&self.direct.bucket()?, key)?)
    }

    /// Connections that see every row, without a proxy.
    pub async fn reader(&self) -> anyhow::Result<PgPool> {
        let url = self
            .direct
            .database_url(DatabaseRole::Reader)?
            .expose_secret();
        Ok(database::connect(url, DatabaseRole::Reader, 4).await?)
    }
}

/// The name of a worker since its last start.
pub fn worker_name(process: &Process) -> Option<String> {
    let log = std::fs::read_to_string(process.log()).ok()?;
    let mut lines = log.lines().rev();
    let line = lines.find(|line| line.contains("\"Worker is ready\""))?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(line["fields"]["worker"].as_str()?.to_owned())
}

/// A provider that is slow and sometimes fails by itself.
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
            Fault::BadImage,
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
        let key = tenants::add_key(&pool, TESTER, tenant, &KeyTerms::named("chaos")).await?;
        keys.push(key.expose().to_owned());
    }
    pool.close().await;
    Ok(keys)
}
