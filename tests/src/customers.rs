//! Customers who do everything a customer can, all the time, and record each wrong answer.
//!
//! They send nothing again: if a client had to repeat a request, the request failed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a job may take until it counts as stuck.
const JOB_TIMEOUT: Duration = Duration::from_mins(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const PHOTO: &[u8] = include_bytes!("../../samples/product.jpg");

/// All customers, with the key of one tenant.
pub struct Customers {
    http: Client,
    key: String,
    model: &'static str,
    apis: Mutex<Vec<SocketAddr>>,
    noted: Mutex<Noted>,
}

/// What they recorded.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// How many requests were sent to each route.
    pub requests: BTreeMap<String, usize>,
    /// How many jobs ended in each state.
    pub jobs: BTreeMap<String, usize>,
    /// What was wrong, one line for each customer.
    pub failures: Vec<String>,
}

impl Customers {
    /// Customers with the key of a tenant, who use one model and these apis.
    pub fn new(key: &str, model: &'static str, apis: Vec<SocketAddr>) -> Self {
        let http = Client::builder().timeout(REQUEST_TIMEOUT);
        Self {
            http: http.build().unwrap(),
            key: key.to_owned(),
            model,
            apis: Mutex::new(apis),
            noted: Mutex::default(),
        }
    }

    /// Uses these apis from now on, as a load balancer would.
    pub fn go_to(&self, apis: Vec<SocketAddr>) {
        *self.apis.lock().unwrap_or_else(PoisonError::into_inner) = apis;
    }

    /// What was recorded so far.
    pub fn noted(&self) -> Noted {
        self.note().clone()
    }

    /// Lets `rate` customers come each second until `enough` is cancelled. Returns when each of them has finished.
    pub async fn come(self: Arc<Self>, rate: f64, enough: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        let visits = TaskTracker::new();
        for number in 0_usize.. {
            if enough.run_until_cancelled(ticks.tick()).await.is_none() {
                break;
            }
            let customers = Arc::clone(&self);
            visits.spawn(async move {
                if let Err(error) = customers.visit(number).await {
                    let failure = format!("customer {number}: {error:#}");
                    customers.note().failures.push(failure);
                }
            });
        }
        visits.close();
        visits.wait().await;
    }

    /// One customer. Some upload a photo first, some ask for two images, some cancel.
    async fn visit(&self, number: usize) -> anyhow::Result<()> {
        let (with_photo, cancels) = (number % 4 == 1, number % 5 == 3);
        let mut body = json!({
            "model": self.model, "prompt": format!("a bottle, number {number}"), "size": "1K", "outputs": 1 + usize::from(number % 7 == 2), "name": format!("bottle {number}"),
        });
        let mut upload = None;
        if with_photo {
            let request = self.ask(Method::POST, "/v1/uploads").body(PHOTO);
            let kept = self.answered("POST /v1/uploads", request, &[201]).await?;
            let id = kept["id"]
                .as_str()
                .context("an upload has an id")?
                .to_owned();
            self.read("/v1/uploads?limit=5", "GET /v1/uploads").await?;
            self.read(&format!("/v1/uploads/{id}"), "GET /v1/uploads/{id}")
                .await?;
            body["inputs"] = json!([{"upload": id, "role": "product"}]);
            upload = Some(id);
        }

        let submit = || {
            let key = format!("visit-{number}");
            let request = self
                .ask(Method::POST, "/v1/jobs")
                .header("Idempotency-Key", key);
            self.answered("POST /v1/jobs", request.json(&body), &[202])
        };
        let job = submit().await?;
        let id = job["id"].as_str().context("a job has an id")?.to_owned();
        ensure!(
            submit().await?["id"] == job["id"],
            "a repeated submit made another job"
        );
        for (path, route) in [
            ("/v1/jobs?limit=5", "GET /v1/jobs"),
            ("/v1/credits", "GET /v1/credits"),
            ("/v1/credits/transfers?limit=5", "GET /v1/credits/transfers"),
            ("/v1/retention", "GET /v1/retention"),
        ] {
            self.read(path, route).await?;
        }
        if cancels {
            let request = self.ask(Method::POST, &format!("/v1/jobs/{id}/cancel"));
            // The job may have ended already.
            self.answered("POST /v1/jobs/{id}/cancel", request, &[200, 409])
                .await?;
        }
        let job = self.ended(&id).await?;
        let state = job["state"].as_str().unwrap_or_default().to_owned();
        ensure!(
            state == "succeeded" || cancels && state == "canceled",
            "{id} is {state}: {}",
            job["reason"]
        );
        *self.note().jobs.entry(state).or_default() += 1;
        if let Some(artifact) = job["artifacts"][0]["id"].as_str() {
            self.read(
                &format!("/v1/artifacts/{artifact}"),
                "GET /v1/artifacts/{id}",
            )
            .await?;
        }
        if let Some(upload) = upload {
            let request = self.ask(Method::DELETE, &format!("/v1/uploads/{upload}"));
            self.answered("DELETE /v1/uploads/{id}", request, &[204])
                .await?;
            self.read("/v1/receipts?limit=5", "GET /v1/receipts")
                .await?;
        }
        Ok(())
    }

    async fn ended(&self, id: &str) -> anyhow::Result<Value> {
        let asked = Instant::now();
        while asked.elapsed() < JOB_TIMEOUT {
            let job = self
                .read(&format!("/v1/jobs/{id}"), "GET /v1/jobs/{id}")
                .await?;
            if !matches!(job["state"].as_str(), Some("queued" | "running")) {
                return Ok(job);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        anyhow::bail!("{id} had not ended after {JOB_TIMEOUT:?}")
    }

    async fn read(&self, path: &str, route: &str) -> anyhow::Result<Value> {
        self.answered(route, self.ask(Method::GET, path), &[200])
            .await
    }

    /// A request to the next api.
    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let asked: usize = self.note().requests.values().sum();
        let apis = self.apis.lock().unwrap_or_else(PoisonError::into_inner);
        let api = apis[asked % apis.len()];
        let request = self.http.request(method, format!("http://{api}{path}"));
        request.bearer_auth(&self.key)
    }

    /// Sends a request and returns the body of the answer, whose status must be one of `expected`.
    async fn answered(
        &self,
        route: &str,
        request: RequestBuilder,
        expected: &[u16],
    ) -> anyhow::Result<Value> {
        *self.note().requests.entry(route.to_owned()).or_default() += 1;
        let answer = request.send().await.with_context(|| route.to_owned())?;
        let status = answer.status();
        let body = answer.bytes().await.with_context(|| route.to_owned())?;
        ensure!(
            expected.contains(&status.as_u16()),
            "{route} was answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).with_context(|| format!("{route} was not answered in JSON"))
    }

    fn note(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
