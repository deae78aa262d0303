//! An api, a worker and fake vendors on a database of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bucket::{Address, Bucket};
use common::config::Config;
use common::files::ownership;
use common::people::operator::tenants;
use common::verify::deep::{self, Progress, Report};
use domain::api_key::KeyTerms;
use domain::credits::Credits;
use domain::id::TenantId;
use domain::lanes::LaneState;
use domain::operator::Actor;
use fakes::Fake;
use queue::{Lanes, ReadyQueue};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};
use storage::database::{self, DatabaseRole};
use storage::verify::Finding;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use servers::Durability;

pub use crate::options::OPERATOR_KEY;

use crate::servers::{OwnServers, TestServers};
use crate::{Options, delivered, drain, wait};

/// How long a job may take until a test gives up.
const JOB_TIMEOUT: Duration = Duration::from_secs(30);

/// Who creates tenants and keys, in the log of operators' actions.
pub const TESTER: Actor<'static> = Actor {
    by: "a test",
    reason: "it needs a tenant",
};

/// The whole product, in this process.
pub struct Pipeline {
    /// The base URL of the API.
    pub url: String,
    /// The base URL of the api's metrics.
    pub metrics_url: String,
    /// The first tenant.
    pub tenant: TenantId,
    /// The API key of the first tenant.
    pub key: String,
    /// The fake vendors.
    pub fake: Fake,
    /// The configuration of api and workers.
    pub config: Config,
    /// The URLs of Postgres and Redis.
    pub servers: TestServers,
    /// The name of the database.
    pub database: String,
    /// Connections that see every row and change nothing.
    pub reader: PgPool,
    /// The folder of the bucket, unless the options name another bucket.
    pub bucket: tempfile::TempDir,
    client: Client,
    api: Part,
    workers: Vec<Part>,
    closed: bool,
    /// Servers that only this pipeline uses. Last, so that they end last.
    own: Option<OwnServers>,
}

/// An api or a worker that runs until it is told to stop.
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
    /// Starts on the servers of this run.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts on the servers of this run, with options.
    pub async fn start_with(options: Options) -> Self {
        Self::start_on(TestServers::get().await, options).await
    }

    /// Starts on servers that nobody else uses. They end with the pipeline.
    pub async fn start_alone(durability: Durability, options: Options) -> Self {
        let (own, urls) = OwnServers::start(durability).await;
        Self::start_on(urls, options).await.owning(own)
    }

    /// Lets the pipeline end these servers.
    pub(crate) fn owning(mut self, own: OwnServers) -> Self {
        self.own = Some(own);
        self
    }

    /// Starts on servers that the caller ends.
    pub async fn start_on(servers: TestServers, options: Options) -> Self {
        let _exporting = telemetry::start();
        let _another_test_was_first =
            rustls::crypto::aws_lc_rs::default_provider().install_default();
        let database = servers.create_database().await;
        let bucket = tempfile::tempdir().unwrap();
        let fake = Fake::start(fakes::Options::default()).await.unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (credits, workers) = (options.credits, options.workers);
        let config = options.config(&servers, &database, bucket.path(), &fake);
        let runtime = servers.runtime_url(&database);
        let pool = database::connect(&runtime, DatabaseRole::Api, 2)
            .await
            .unwrap();
        adopt(&pool, &config.bucket().unwrap()).await;
        let (tenant, key) = add_tenant(&pool, credits).await;
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
        app.drain_delay = Duration::ZERO;
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
            own: None,
        };
        for _ in 0..workers {
            pipeline.start_worker().await;
        }
        pipeline
    }

    /// Starts another worker.
    pub async fn start_worker(&mut self) {
        let app = Arc::new(worker::App::connect(&self.config).await.unwrap());
        self.workers.push(run(|stop| worker::run(app, stop)));
    }

    /// Stops every worker, as SIGTERM does.
    pub async fn stop_workers(&mut self) {
        for worker in self.workers.drain(..) {
            worker.stop().await;
        }
    }

    /// Adds a tenant, and returns it with its key.
    pub async fn add_tenant(&self, credits: i64) -> (TenantId, String) {
        let pool = self.api_pool().await;
        let added = add_tenant(&pool, credits).await;
        pool.close().await;
        added
    }

    /// Adds another key to the first tenant.
    pub async fn add_key(&self) -> String {
        self.add_key_of(self.tenant).await
    }

    /// Adds a key to a tenant.
    pub async fn add_key_of(&self, tenant: TenantId) -> String {
        self.add_key_with(tenant, &KeyTerms::named("another")).await
    }

    /// Adds a key with these terms to a tenant.
    pub async fn add_key_with(&self, tenant: TenantId, terms: &KeyTerms) -> String {
        let pool = self.api_pool().await;
        let key = tenants::add_key(&pool, TESTER, tenant, terms).await;
        pool.close().await;
        key.unwrap().expose().to_owned()
    }

    async fn api_pool(&self) -> PgPool {
        let url = self.servers.runtime_url(&self.database);
        database::connect(&url, DatabaseRole::Api, 1).await.unwrap()
    }

    /// The servers that only this pipeline uses.
    ///
    /// # Panics
    ///
    /// It was started on servers that others use.
    pub fn own(&mut self) -> &mut OwnServers {
        self.own.as_mut().unwrap()
    }

    /// A request with the key of the first tenant.
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

    /// `GET` with the key of the first tenant: status and body.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    /// `POST` with the key of the first tenant: status and body.
    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Submits a job, which must be accepted, and returns its id.
    pub async fn submit(&self, body: &Value) -> String {
        let (status, job) = self.post("/v1/jobs", body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        job["id"].as_str().unwrap().to_owned()
    }

    /// A job as the API shows it.
    pub async fn job(&self, id: &str) -> Value {
        let (status, job) = self.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{job}");
        job
    }

    /// Waits until a job has ended, and returns it.
    pub async fn ended(&self, id: &str) -> Value {
        self.ended_within(id, JOB_TIMEOUT).await
    }

    /// The same, with a time limit.
    pub async fn ended_within(&self, id: &str, within: Duration) -> Value {
        self.until(&format!("job {id} has ended"), within, async || {
            let job = self.job(id).await;
            (!matches!(job["state"].as_str(), Some("queued" | "running"))).then_some(job)
        })
        .await
    }

    /// Asks again and again until there is an answer. See [`wait::until`].
    pub async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        ask: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        wait::until(what, within, ask).await
    }

    /// A connection with the owner's login, which may do everything.
    pub async fn owner(&self) -> PgConnection {
        let url = self.servers.owner_url_of(&self.database);
        PgConnection::connect(&url).await.unwrap()
    }

    /// The state of a model's lane for the first tenant.
    pub async fn lane(&self, model: &str) -> LaneState {
        let queue = ReadyQueue::new(self.config.redis().unwrap(), &self.config.queue).unwrap();
        let catalog = self.config.catalog().unwrap();
        let lanes = Lanes::new(&queue, self.config.timing.lanes, &catalog);
        let states = lanes.states().await.unwrap().into_iter();
        let mut own = states.filter(|state| state.lane == *catalog.get(model).unwrap().lane());
        own.next().unwrap().for_tenant(self.tenant)
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

    /// The findings of a deep verification, sorted, and how much it read. `grace` is how old an orphan must be.
    pub async fn deep(&self, grace: Duration) -> (Vec<Finding>, Progress) {
        verify_deep(&self.reader, &self.config.bucket().unwrap(), grace).await
    }

    /// How many jobs have not ended.
    pub async fn open_jobs(&self) -> i64 {
        drain::open_jobs(&self.reader).await.unwrap()
    }

    /// Waits until every job has ended. Returns `false` if some are open after `within`.
    pub async fn drained(&self, within: Duration) -> bool {
        drain::drained(&self.reader, within).await.is_ok()
    }

    /// Stops everything without checking anything, for a proof that was interrupted.
    pub async fn abandon(mut self) {
        self.closed = true;
        if let Some(own) = self.own.take() {
            own.stop().await;
        }
    }

    /// Ends the test: stops everything, and checks what is left.
    ///
    /// # Panics
    ///
    /// A job is open or an invariant is broken.
    pub async fn close(mut self) {
        self.stop_workers().await;
        self.api.stop().await;
        let open = self.open_jobs().await;
        assert_eq!(open, 0, "jobs are still open");
        let findings = common::verify::verify(&self.reader).await.unwrap();
        assert!(findings.is_empty(), "the books do not close: {findings:#?}");
        delivered::keep(&self.reader, self.bucket.path()).await;
        self.reader.close().await;
        self.servers.drop_database(&self.database).await;
        self.closed = true;
        if let Some(own) = self.own.take() {
            own.stop().await;
        }
    }
}

/// Makes a bucket the one of the database, as `platen bucket adopt` does.
pub async fn adopt(pool: &PgPool, address: &Address) {
    let bucket = Bucket::open(address, SecretString::default()).unwrap();
    ownership::adopt(pool, &bucket, &address.to_string(), TESTER, true)
        .await
        .unwrap();
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        assert!(
            self.closed || std::thread::panicking(),
            "a test must end with `close`"
        );
    }
}

/// Verifies a database and its bucket. Returns the findings, sorted, and how much was read.
pub async fn verify_deep(
    reader: &PgPool,
    address: &Address,
    grace: Duration,
) -> (Vec<Finding>, Progress) {
    let bucket = Bucket::open(address, SecretString::default()).unwrap();
    let mut findings = Vec::new();
    let report = |report| {
        if let Report::Finding(finding) = report {
            findings.push(finding);
        }
    };
    let progress = deep::check(reader, &bucket, grace, report).await.unwrap();
    findings.sort_by(|a, b| a.text.cmp(&b.text));
    (findings, progress)
}

/// The smallest job: one square image of 1K.
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
    let key = tenants::add_key(pool, TESTER, tenant, &KeyTerms::named("test"))
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
