//! Correct clients: every request has an idempotency key, and is repeated until it is answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stage::Stage;

/// How long a client waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// The time between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(400);
const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

/// What a client asks for: one job.
#[derive(Clone, Debug)]
struct Wish {
    /// The idempotency key. It also stands in the prompt, so that the provider's journal tells which wish a call is for.
    key: String,
    tenant: usize,
    body: Value,
    /// The deadline of the job.
    cancel_after: &'static str,
    /// How long after it was accepted the job is canceled.
    cancel: Option<Duration>,
    /// How long after it was accepted the submit is repeated.
    repeat: Option<Duration>,
}

/// What the clients remember.
#[derive(Default)]
pub struct Memory {
    accepted: Mutex<Vec<Accepted>>,
    /// Requests, including repeated ones.
    pub requests: AtomicUsize,
    /// Requests that were never answered.
    pub unanswered: AtomicUsize,
    /// Jobs that were canceled.
    pub canceled: AtomicUsize,
    /// Submits that were repeated although they had been answered.
    pub repeated: AtomicUsize,
}

/// A submit that was accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Its idempotency key.
    pub key: String,
    /// The id of the job.
    pub job: String,
    /// Whether the job may reach its deadline.
    pub deadline_is_near: bool,
    /// Whether the client cancels the job.
    pub was_canceled: bool,
}

impl Memory {
    /// All submits that were accepted.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.lock().clone()
    }

    /// How many submits were accepted.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Accepted>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Submits `rate` jobs a second until `stop` is cancelled. Returns when every request has been answered.
pub async fn submit(
    stage: &Arc<Stage>,
    memory: &Arc<Memory>,
    seed: u64,
    rate: f64,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let client = Client::builder().timeout(REQUEST_TIMEOUT).build()?;
    let mut dice = StdRng::seed_from_u64(seed);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let tasks = TaskTracker::new();
    for number in 0_u64.. {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            break;
        }
        let one = WishClient {
            client: client.clone(),
            stage: Arc::clone(stage),
            memory: Arc::clone(memory),
            wish: wish(&mut dice, number),
            stop: stop.clone(),
        };
        tasks.spawn(async move {
            if let Err(error) = one.run().await {
                one.stage
                    .diary
                    .violation(format!("the client of {}: {error:#}", one.wish.key));
            }
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// A random wish: mostly for one image of a model that answers at once. Sometimes for more images, of a model that works in
/// the background, with a photo, with a prompt that is refused, or with a near deadline.
fn wish(dice: &mut StdRng, number: u64) -> Wish {
    let mut chance = |share: f64| dice.random_range(0.0..1.0) < share;
    let model = if chance(0.15) {
        "gemini-nano-banana-2.1-background"
    } else {
        "gemini-nano-banana-2.1"
    };
    let refused = if chance(0.02) { " forbidden" } else { "" };
    let (photo, hurry, cancel, repeat) = (chance(0.04), chance(0.02), chance(0.06), chance(0.08));
    let outputs = [1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4][dice.random_range(0..11)];
    let key = format!("wish-{number}");
    let mut body = json!({
        "model": model, "prompt": format!("a bottle on slate, {key}.{refused}"), "size": "1K", "aspect_ratio": "1:1", "outputs": outputs,
    });
    if photo {
        body["inputs"] = json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    }
    let mut later = |most: f64| Duration::from_secs_f64(dice.random_range(0.0..most));
    Wish {
        key,
        tenant: usize::try_from(number).unwrap_or(0) % 4,
        body,
        cancel_after: if hurry { "20s" } else { "24h" },
        cancel: cancel.then(|| later(3.0)),
        repeat: repeat.then(|| later(40.0)),
    }
}

/// The client of one wish.
struct WishClient {
    client: Client,
    stage: Arc<Stage>,
    memory: Arc<Memory>,
    wish: Wish,
    stop: CancellationToken,
}

impl WishClient {
    async fn run(&self) -> anyhow::Result<()> {
        let (status, answer) = self
            .ask("/v1/jobs", &self.wish.key, &self.wish.body)
            .await?;
        anyhow::ensure!(
            status == StatusCode::ACCEPTED,
            "a submit was answered {status}: {}",
            text(&answer)
        );
        let job: Value = serde_json::from_slice(&answer)?;
        let job = job["id"]
            .as_str()
            .context("an accepted job has no id")?
            .to_owned();
        self.memory.lock().push(Accepted {
            key: self.wish.key.clone(),
            job: job.clone(),
            deadline_is_near: self.wish.cancel_after != "24h",
            was_canceled: self.wish.cancel.is_some(),
        });
        if let Some(after) = self.wish.cancel {
            tokio::time::sleep(after).await;
            let path = format!("/v1/jobs/{job}/cancel");
            let (status, answer) = self
                .ask(&path, &format!("cancel-{job}"), &Value::Null)
                .await?;
            anyhow::ensure!(
                matches!(status, StatusCode::OK | StatusCode::CONFLICT),
                "a cancellation was answered {status}: {}",
                text(&answer)
            );
            self.memory
                .canceled
                .fetch_add(usize::from(status == StatusCode::OK), Ordering::Relaxed);
        }
        if let Some(after) = self.wish.repeat {
            self.stop
                .run_until_cancelled(tokio::time::sleep(after))
                .await;
            let again = self
                .ask("/v1/jobs", &self.wish.key, &self.wish.body)
                .await?;
            self.memory.repeated.fetch_add(1, Ordering::Relaxed);
            self.stage
                .diary
                .demand(again.0 == StatusCode::ACCEPTED && again.1 == answer, || {
                    format!(
                        "I11: {} was repeated and answered {}: {}, not {}",
                        self.wish.key,
                        again.0,
                        text(&again.1),
                        text(&answer)
                    )
                });
        }
        Ok(())
    }

    /// Sends a request to one api after the other until one answers.
    async fn ask(
        &self,
        path: &str,
        key: &str,
        body: &Value,
    ) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let proxies = self.stage.api_proxies.iter();
        let mut proxies = proxies.cycle().skip(self.wish.tenant);
        loop {
            let proxy = proxies.next().context("there is no api")?;
            self.memory.requests.fetch_add(1, Ordering::Relaxed);
            let request = self
                .client
                .post(format!("http://{}{path}", proxy.address()))
                .bearer_auth(&self.stage.keys[self.wish.tenant])
                .header("Idempotency-Key", key)
                .header("Cancel-After", self.wish.cancel_after);
            let request = if body.is_null() {
                request
            } else {
                request.json(body)
            };
            let answered = async {
                let response: Response = request.send().await?;
                let status = response.status();
                Ok::<_, reqwest::Error>((status, response.bytes().await?.to_vec()))
            };
            match answered.await {
                Ok((StatusCode::SERVICE_UNAVAILABLE, _)) => {}
                Ok(answer) => return Ok(answer),
                Err(_) => {
                    self.memory.unanswered.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(400).collect()
}
