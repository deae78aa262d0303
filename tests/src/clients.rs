//! Clients as they should be: a request that was not answered, or was answered "later", is sent again with the same
//! key, to the next api.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use common::id::JobId;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a client keeps trying.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// What became of every submit.
pub type Offered = Vec<anyhow::Result<Accepted>>;

/// All clients of one tenant.
pub struct Clients {
    http: Client,
    key: String,
    apis: Vec<SocketAddr>,
    /// Before the number of a submit, in its key.
    name: &'static str,
}

/// A request that was answered with a job.
pub struct Accepted {
    pub job: JobId,
    pub tries: usize,
    /// Of the request that was answered.
    pub took: Duration,
}

impl Clients {
    /// With a tenant's key, of these apis.
    pub fn new(key: &str, apis: Vec<SocketAddr>) -> Self {
        Self::named("client", key, apis)
    }

    /// Others of the same tenant, whose submits are not those of the first again.
    pub fn named(name: &'static str, key: &str, apis: Vec<SocketAddr>) -> Self {
        let http = Client::builder().timeout(Duration::from_secs(20));
        Self {
            http: http.build().unwrap(),
            key: key.to_owned(),
            apis,
            name,
        }
    }

    /// The client itself, for what is no submit.
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// Submits at an even pace, so many jobs each second, until it is enough. Some ask for two pictures.
    pub async fn offer(
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

    /// Submits a job until it is accepted.
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
            if began.elapsed() > PATIENCE {
                bail!("submit {number} was not accepted within {PATIENCE:?}: {why}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!("a client tries until its patience is over")
    }
}
