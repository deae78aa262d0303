//! Clients as they should be: a request that was not answered, or was answered "later", is sent again with the same
//! key, to the next api.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use common::id::JobId;
use reqwest::{Client, StatusCode};
use serde_json::Value;

/// How long a client keeps trying.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// All clients of one tenant.
pub struct Clients {
    http: Client,
    key: String,
    apis: Vec<SocketAddr>,
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
        let http = Client::builder().timeout(Duration::from_secs(20));
        Self {
            http: http.build().unwrap(),
            key: key.to_owned(),
            apis,
        }
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
                .header("Idempotency-Key", format!("client-{number}"));
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
