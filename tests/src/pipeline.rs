//! An api, a worker and fake vendors on a database of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::bucket::{Address, Bucket};
use common::config::{
    API_MEMORY, Config, LaneTiming, Links, Logins, MEMORY, Ports, Providers, Rates, Timing, Unpaid,
};
use common::credits::Credits;
use common::database::{self, DatabaseRole};
use common::id::TenantId;
use common::operator::{Actor, tenants};
use common::ownership;
use common::queue::lanes::LaneState;
use common::queue::{Lanes, ReadyQueue};
use common::verify::deep::{self, Progress, Report};
use common::verify::{self, Finding};
use fakes::Fake;
use ipnet::IpNet;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delivered;
use crate::servers::TestServers;

/// How a pipeline starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Credits of the first tenant.
    pub credits: i64,
    /// Workers that run from the start.
    pub workers: usize,
    pub slots: usize,
    /// What one tenant may have of them, in percent.
    pub tenant_slots_percent: usize,
    /// Bytes of pictures that may wait for the bucket.
    pub spool: usize,
    /// Bytes a worker may take.
    pub memory: usize,
    /// Bytes the api may take.
    pub api_memory: usize,
    pub lease: Duration,
    /// First and longest delay before a job is tried again.
    pub retry: (Duration, Duration),
    /// How long a lane is closed at first.
    pub closed: Duration,
    /// Files that replace the shipped catalogue.
    pub models: Option<PathBuf>,
    /// Base URL of the vendors, where it is not the pipeline's own fake.
    pub vendors: Option<String>,
    /// Where objects are kept, where it is not a folder of the pipeline's own.
    pub bucket: Option<Address>,
    /// Where clients reach the api, where that is said.
    pub public_url: Option<String>,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What clients may take of the ports.
    pub ports: Ports,
    /// How many requests are answered: as many as come, for tests ask as fast as they can.
    pub rates: Rates,
    /// Where Redis is said to be, where that is not true.
    pub redis: Option<String>,
    /// The file that names it, where its URL changes.
    pub redis_url_file: Option<PathBuf>,
    /// What a tenant may use that it does not pay for.
    pub unpaid: Unpaid,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credits: 1_000,
            workers: 1,
            slots: 8,
            tenant_slots_percent: 100,
            spool: 256_000_000,
            memory: MEMORY,
            api_memory: API_MEMORY,
            lease: Duration::from_secs(3),
            retry: (Duration::from_millis(20), Duration::from_millis(200)),
            closed: Duration::from_millis(500),
            models: None,
            vendors: None,
            bucket: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            ports: Ports {
                // All of a test's clients have one address.
                per_address: Ports::default().connections,
                ..Ports::default()
            },
            rates: Rates::OFF,
            redis: None,
            redis_url_file: None,
            unpaid: Unpaid::default(),
        }
    }
}

impl Options {
    /// For long proofs: credits without end, and leases as in production.
    pub fn in_earnest() -> Self {
        Self {
            credits: 100_000_000,
            lease: Timing::default().lease,
            unpaid: Unpaid {
                cancel_allowance: 1_000_000,
                ..Unpaid::default()
            },
            ..Self::default()
        }
    }
}

/// Who sets the tests up, in the record of operators.
pub const TESTER: Actor<'static> = Actor {
    by: "a test",
    reason: "it needs a tenant",
};

/// What operators show.
pub const OPERATOR_KEY: &str = "a key for operators, in tests only";

/// The whole product, in this process.
pub struct Pipeline {
    pub url: String,
    pub metrics_url: String,
    pub tenant: TenantId,
    pub key: String,
    pub fake: Fake,
    pub config: Config,
    pub servers: TestServers,
    pub database: String,
    /// Sees everything, changes nothing.
    pub reader: PgPool,
    /// What the bucket keeps, where the options named no other.
    pub bucket: tempfile::TempDir,
    client: Client,
    api: Part,
    workers: Vec<Part>,
    closed: bool,
}

/// Something that runs until it is told to stop.
struct Part {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Part {
    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Pipeline {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        Self::start_on(TestServers::get().await, options).await
    }

    /// On servers of the caller's own.
    pub async fn start_on(servers: TestServers, options: Options) -> Self {
        let _exporting = common::telemetry::start();
        let _another_test_was_first =
            rustls::crypto::aws_lc_rs::default_provider().install_default();
        let database = servers.create_database().await;
        let bucket = tempfile::tempdir().unwrap();
        let fake = Fake::start(fakes::Options::default()).await.unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            database_url: Some(SecretString::from(servers.runtime_url(&database))),
            logins: Logins::default(),
            owner_url: Some(SecretString::from(servers.owner_url_of(&database))),
            redis_url: Some(SecretString::from(
                options.redis.unwrap_or_else(|| servers.redis_url.clone()),
            )),
            redis_url_file: options.redis_url_file,
            queue: database.clone(),
            bucket: Some(
                options
                    .bucket
                    .unwrap_or_else(|| Address::Folder(bucket.path().to_owned())),
            ),
            previous_signing_key: None,
            signing_key: Some(SecretString::from("a key for tests, and for tests only")),
            operator_key: Some(SecretString::from(OPERATOR_KEY)),
            links: Links::default(),
            listen: any,
            metrics_listen: any,
            cors_origins: vec!["https://studio.example".to_owned()],
            public_url: options.public_url,
            trusted_proxies: options.trusted_proxies,
            ports: options.ports,
            rates: options.rates,
            slots: options.slots,
            tenant_slots_percent: options.tenant_slots_percent,
            spool: options.spool,
            memory: options.memory,
            api_memory: options.api_memory,
            timing: Timing {
                lease: options.lease,
                look_every: Duration::from_millis(100),
                retain_every: Duration::from_millis(200),
                prune_every: Duration::from_millis(200),
                reap_every: Duration::from_millis(200),
                retry: options.retry,
                idle: Duration::from_secs(1),
                poll: (Duration::from_millis(50), Duration::from_millis(300)),
                lanes: LaneTiming {
                    closed: (options.closed, options.closed * 4),
                    throttled: (Duration::from_millis(50), Duration::from_millis(500)),
                },
                grace: Duration::from_secs(10),
                ..Timing::default()
            },
            unpaid: options.unpaid,
            models: options.models,
            providers: Providers {
                wanted: None,
                google_project: None,
                fake: Some(options.vendors.unwrap_or_else(|| fake.base_url())),
            },
        };
        let runtime = servers.runtime_url(&database);
        let pool = database::connect(&runtime, DatabaseRole::Api, 2)
            .await
            .unwrap();
        adopt(&pool, &config.bucket().unwrap()).await;
        let (tenant, key) = add_tenant(&pool, options.credits).await;
        pool.close().await;
        let reader = database::connect(&runtime, DatabaseRole::Reader, 2)
            .await
            .unwrap();

        let (listener, metrics) = (
            TcpListener::bind(any).await.unwrap(),
            TcpListener::bind(any).await.unwrap(),
        );
        let (url, metrics_url) = (address(&listener), address(&metrics));
        let mut app = api::App::connect(&config).await.unwrap();
        app.farewell = Duration::ZERO;
        let api = run(|stop| api::serve(app, listener, Some(metrics), stop));
        let mut pipeline = Self {
            url,
            metrics_url,
            tenant,
            key,
            fake,
            config,
            servers,
            database,
            reader,
            bucket,
            client: Client::builder()
                .timeout(Duration::from_mins(1))
                .build()
                .unwrap(),
            api,
            workers: Vec::new(),
            closed: false,
        };
        for _ in 0..options.workers {
            pipeline.start_worker().await;
        }
        pipeline
    }

    /// Starts another worker.
    pub async fn start_worker(&mut self) {
        let app = Arc::new(worker::App::connect(&self.config).await.unwrap());
        self.workers.push(run(|stop| worker::run(app, stop)));
    }

    /// Stops every worker, politely.
    pub async fn stop_workers(&mut self) {
        for worker in self.workers.drain(..) {
            worker.stop().await;
        }
    }

    /// Another tenant, with its key.
    pub async fn add_tenant(&self, credits: i64) -> (TenantId, String) {
        let pool = database::connect(
            &self.servers.runtime_url(&self.database),
            DatabaseRole::Api,
            1,
        )
        .await
        .unwrap();
        let added = add_tenant(&pool, credits).await;
        pool.close().await;
        added
    }

    /// Another key of the first tenant.
    pub async fn add_key(&self) -> String {
        let pool = database::connect(
            &self.servers.runtime_url(&self.database),
            DatabaseRole::Api,
            1,
        )
        .await
        .unwrap();
        let key = tenants::add_key(&pool, TESTER, self.tenant, "another").await;
        pool.close().await;
        key.unwrap().expose().to_owned()
    }

    /// A request with the first tenant's key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.key)
    }

    /// A request without a key.
    pub fn anonymous(&self, method: Method, url: &str) -> RequestBuilder {
        let url = if url.starts_with("http") {
            url.to_owned()
        } else {
            format!("{}{url}", self.url)
        };
        self.client.request(method, url)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Submits a job that must be admitted; returns its id.
    pub async fn submit(&self, body: &Value) -> String {
        let (status, job) = self.post("/v1/jobs", body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        job["id"].as_str().unwrap().to_owned()
    }

    pub async fn job(&self, id: &str) -> Value {
        let (status, job) = self.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{job}");
        job
    }

    /// Waits until a job has ended.
    pub async fn ended(&self, id: &str) -> Value {
        self.ended_within(id, Duration::from_secs(30)).await
    }

    pub async fn ended_within(&self, id: &str, within: Duration) -> Value {
        self.until(within, async || {
            let job = self.job(id).await;
            (!matches!(job["state"].as_str(), Some("queued" | "running"))).then_some(job)
        })
        .await
    }

    /// Asks again until there is an answer.
    pub async fn until<T>(&self, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(started.elapsed() < within, "waited {within:?} in vain");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// May do everything, as nobody else may.
    pub async fn owner(&self) -> PgConnection {
        let url = self.servers.owner_url_of(&self.database);
        PgConnection::connect(&url).await.unwrap()
    }

    /// How the lane of a model stands for the first tenant.
    pub async fn lane(&self, model: &str) -> LaneState {
        let ring = ReadyQueue::new(self.config.redis().unwrap(), &self.config.queue).unwrap();
        let lanes = Lanes::new(&ring, self.config.timing.lanes);
        let catalog = self.config.catalog().unwrap();
        let states = lanes.states(&catalog).await.unwrap().into_iter();
        let mut own = states.filter(|state| state.lane == *catalog.get(model).unwrap().lane());
        own.next().unwrap().seen_by(self.tenant)
    }

    /// The bytes behind a link.
    pub async fn download(&self, url: &str) -> Vec<u8> {
        let response = self.anonymous(Method::GET, url).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.unwrap().to_vec()
    }

    /// Available and held credits of the first tenant.
    pub async fn balance(&self) -> (i64, i64) {
        let (_, credits) = self.get("/v1/credits").await;
        (
            credits["available"].as_i64().unwrap(),
            credits["held"].as_i64().unwrap(),
        )
    }

    /// What a look into the bucket finds; `grace` is how old an orphan must be.
    pub async fn deep(&self, grace: Duration) -> (Vec<Finding>, Progress) {
        look(&self.reader, &self.config.bucket().unwrap(), grace).await
    }

    /// How many jobs have not ended.
    pub async fn open_jobs(&self) -> i64 {
        open_jobs(&self.reader).await.unwrap()
    }

    /// Waits until every job has ended. `false`: some are open after that time.
    pub async fn drained(&self, within: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < within {
            if self.open_jobs().await == 0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Ends the test: stops everything and closes the books. No job may be open, no invariant broken.
    pub async fn close(mut self) {
        self.stop_workers().await;
        self.api.stop().await;
        let open = self.open_jobs().await;
        assert_eq!(open, 0, "jobs are still open");
        let findings = verify::verify(&self.reader).await.unwrap();
        assert!(findings.is_empty(), "the books do not close: {findings:#?}");
        delivered::keep(&self.reader, self.bucket.path()).await;
        self.reader.close().await;
        self.servers.drop_database(&self.database).await;
        self.closed = true;
    }
}

/// Makes a bucket the database's, as `platen bucket adopt` does.
pub async fn adopt(pool: &PgPool, address: &Address) {
    let bucket = Bucket::open(address, SecretString::default()).unwrap();
    ownership::adopt(pool, &bucket, &address.to_string(), TESTER, true)
        .await
        .unwrap();
}

/// How many jobs have not ended.
pub async fn open_jobs(rows: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM jobs WHERE finished_at IS NULL")
        .fetch_one(rows)
        .await
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        assert!(
            self.closed || std::thread::panicking(),
            "a test must end with `close`"
        );
    }
}

/// What a look into a bucket finds, in order, and how much it saw.
pub async fn look(reader: &PgPool, address: &Address, grace: Duration) -> (Vec<Finding>, Progress) {
    let bucket = Bucket::open(address, SecretString::default()).unwrap();
    let mut findings = Vec::new();
    let tell = |told| {
        if let Report::Finding(finding) = told {
            findings.push(finding);
        }
    };
    let seen = deep::check(reader, &bucket, grace, tell).await.unwrap();
    findings.sort_by(|a, b| a.says.cmp(&b.says));
    (findings, seen)
}

/// The smallest job there is.
pub fn small_job() -> Value {
    json!({"model": "gemini-nano-banana-2.1", "prompt": "a glass bottle on wet slate", "aspect_ratio": "1:1", "size": "1K"})
}

async fn add_tenant(pool: &PgPool, credits: i64) -> (TenantId, String) {
    let tenant = tenants::add(pool, TESTER, "a tenant of a test")
        .await
        .unwrap();
    if credits > 0 {
        let credits = Credits::new(credits).unwrap();
        tenants::grant(pool, TESTER, tenant, "test", credits)
            .await
            .unwrap();
    }
    let key = tenants::add_key(pool, TESTER, tenant, "test")
        .await
        .unwrap();
    (tenant, key.expose().to_owned())
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, response.json().await.unwrap())
}

fn address(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

fn run<F>(part: impl FnOnce(CancellationToken) -> F) -> Part
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let part = part(stop.clone());
    tasks.spawn(async move { part.await.unwrap() });
    tasks.close();
    Part { stop, tasks }
}
