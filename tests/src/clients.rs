//! Correct clients: they send a request that was not answered, or was answered with 503, again to the next api, with the
//! same idempotency key.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use domain::id::JobId;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a client tries again.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The time between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The result of every submit.
pub type Offered = Vec<anyhow::Result<Accepted>>;

/// All clients of one tenant.
pub struct Clients {
    http: Client,
    key: String,
    apis: Vec<SocketAddr>,
    /// The idempotency key of a submit is this and its number.
    name: &'static str,
}

/// A submit that was accepted.
pub struct Accepted {
    /// The job.
    pub job: JobId,
    /// How often it was sent.
    pub tries: usize,
    /// How long the request took that was answered.
    pub took: Duration,
}

impl Clients {
    /// Clients with the key of a tenant, who send to these apis in turn.
    pub fn new(key: &str, apis: Vec<SocketAddr>) -> Self {
        Self::named("client", key, apis)
    }

    /// The same, with another name. Submits of clients with different names never share an idempotency key.
    pub fn named(name: &'static str, key: &str, apis: Vec<SocketAddr>) -> Self {
        let http = Client::builder().timeout(REQUEST_TIMEOUT);
        Self {
            http: http.build().unwrap(),
            key: key.to_owned(),
            apis,
            name,
        }
    }

    /// The HTTP client, for other requests than submits.
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// Submits `rate` jobs a second until `enough` is cancelled. Every fifth job asks for two images.
    async fn offer(
        self: Arc<Self>,
        rate: u32,
        model: &'static str,
        enough: CancellationToken,
    ) -> Offered {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut submits = JoinSet::new();
        for number in 0.. {
            if enough.run_until_cancelled(ticks.tick()).await.is_none() {
                break;
            }
            let clients = Arc::clone(&self);
            submits.spawn(async move {
                let outputs = 1 + usize::from(number % 5 == 0);
                let job = json!({"model": model, "prompt": format!("a bottle, number {number}"), "size": "1K", "outputs": outputs});
                clients.submit(number, &job).await
            });
        }
        submits.join_all().await
    }

    /// Submits the jobs with these numbers, `at_once` of them at the same time. Each must be accepted.
    pub async fn submit_all(
        &self,
        numbers: Range<usize>,
        at_once: usize,
        job: impl Fn(usize) -> Value,
    ) -> anyhow::Result<()> {
        stream::iter(numbers)
            .map(|number| {
                let job = job(number);
                async move { self.submit(number, &job).await.map(drop) }
            })
            .buffer_unordered(at_once.max(1))
            .try_collect()
            .await
    }

    /// Submits a job until it is accepted.
    ///
    /// # Errors
    ///
    /// It is refused, or was not accepted after 30 seconds.
    pub async fn submit(&self, number: usize, job: &Value) -> anyhow::Result<Accepted> {
        let began = Instant::now();
        for tries in 1.. {
            let api = self.apis[(number + tries) % self.apis.len()];
            let asked = Instant::now();
            let request = self.http.post(format!("http://{api}/v1/jobs"));
            let request = request
                .bearer_auth(&self.key)
                .header("Idempotency-Key", format!("{}-{number}", self.name));
            let why = match request.json(job).send().await {
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                    let took = asked.elapsed();
                    match answer.json::<Value>().await {
                        Ok(job) => {
                            let job = job["id"].as_str().unwrap_or_default().parse()?;
                            return Ok(Accepted { job, tries, took });
                        }
                        Err(error) => error.to_string(),
                    }
                }
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    "answered 503".to_owned()
                }
                Ok(answer) => bail!("submit {number} was answered {}", answer.status()),
                Err(error) => format!("{error:#}"),
            };
            if began.elapsed() > SUBMIT_TIMEOUT {
                bail!("submit {number} was not accepted within {SUBMIT_TIMEOUT:?}: {why}");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        unreachable!("a client tries until the timeout")
    }
}

/// Clients that submit in the background, at an even pace.
pub struct Load {
    enough: CancellationToken,
    offering: JoinSet<Offered>,
}

impl Load {
    /// Starts to submit `rate` jobs a second. Every fifth job asks for two images.
    pub fn start(clients: Arc<Clients>, rate: u32, model: &'static str) -> Self {
        let enough = CancellationToken::new();
        let mut offering = JoinSet::new();
        offering.spawn(clients.offer(rate, model, enough.clone()));
        Self { enough, offering }
    }

    /// Submits nothing more, and returns what became of every submit.
    pub async fn end(mut self) -> anyhow::Result<Offered> {
        self.enough.cancel();
        let offered = self.offering.join_next().await;
        Ok(offered.context("nobody submits")??)
    }
}
