//! Attacks by one tenant on another: A attacks, and B is a customer with few requests.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::stage::{Attacked, Caller, Stage, WITHOUT_RATES, answer};
use super::{Case, Outcome};
use crate::figures::percentile;
use crate::pipeline::small_job;

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");
/// How many requests of B are measured.
const REQUESTS: usize = 200;
/// Under load, the 95th percentile of B may be twice the one without load, and this much more.
const REQUEST_MARGIN: Duration = Duration::from_millis(50);
const UPLOAD_MARGIN: Duration = Duration::from_millis(500);
/// After this time the load of A is complete.
const WARM_UP: Duration = Duration::from_secs(1);
/// Milliseconds that the fake takes for an image: where the time of B's own jobs is measured, and else.
const FAST: RangeInclusive<u64> = 20..=50;
const USUAL: RangeInclusive<u64> = 100..=300;
/// How many calls of a model may be abandoned by cancels in an hour.
const CANCEL_ALLOWANCE: usize = 20;

/// The attacks of one tenant on another, in the order in which `make attack` tries them.
pub const CASES: &[Case] = &[
    Case {
        row: "D.1",
        says: "250 submits of A at the same time, while B reads its credits",
        attack: |stage| Box::pin(submits(stage)),
    },
    Case {
        row: "D.1",
        says: "2,500 requests of A at two addresses that wait for jobs, while B reads its credits",
        attack: |stage| Box::pin(waiters(stage)),
    },
    Case {
        row: "D.1",
        says: "20 uploads of A at the same time, without credits, while B uploads",
        attack: |stage| Box::pin(uploads(stage)),
    },
    Case {
        row: "D.2",
        says: "prompts of A that fail at the provider, while B uses the same model",
        attack: |stage| Box::pin(failing_prompts(stage)),
    },
    Case {
        row: "D.2",
        says: "slow jobs of A, while B uses another provider and the same",
        attack: |stage| Box::pin(slow_jobs(stage)),
    },
    Case {
        row: "D.3",
        says: "A cancels its running jobs, for 20 seconds",
        attack: |stage| Box::pin(cancels(stage)),
    },
    Case {
        row: "D.4",
        says: "A submits jobs with inputs and cancels them, beyond its storage",
        attack: |stage| Box::pin(growth(stage)),
    },
    Case {
        row: "D.5",
        says: "4,000 requests with bad keys",
        attack: |stage| Box::pin(bad_keys(stage)),
    },
];

/// Requests that A sends all the time, many at once, until the load ends.
struct Load {
    enough: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    at_once: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// Starts `at_once` loops that send requests. `ask` sends one, and returns whether it was accepted.
    fn start<F>(at_once: usize, ask: impl Fn(usize) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<bool>> + Send,
    {
        let (enough, accepted) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut set = JoinSet::new();
        for number in 0..at_once {
            let (enough, accepted, ask) = (Arc::clone(&enough), Arc::clone(&accepted), ask.clone());
            set.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    if ask(number).await? {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    } else {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                Ok(())
            });
        }
        Self {
            enough,
            accepted,
            at_once: set,
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Ends the load, and returns how many requests were accepted.
    async fn end(mut self) -> anyhow::Result<usize> {
        self.enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.at_once.join_next().await {
            ended??;
        }
        Ok(self.accepted())
    }
}

/// Clients of A at several addresses, so that the limit on one address does not protect B.
async fn crowd(stage: &Stage, attacked: &Attacked, credits: i64) -> anyhow::Result<Vec<Caller>> {
    let first = stage.tenant(attacked, 10, credits).await?;
    let others = (11..50).map(|host| first.at(host));
    let others: Vec<Caller> = others.collect::<anyhow::Result<_>>()?;
    Ok([vec![first], others].concat())
}

/// Compares how long B's requests took without and with load.
fn judge(mut quiet: Vec<Duration>, mut loaded: Vec<Duration>, margin: Duration) -> Outcome {
    quiet.sort_unstable();
    loaded.sort_unstable();
    let (before, under) = (percentile(&quiet, 95), percentile(&loaded, 95));
    let most = before * 2 + margin;
    ensure!(
        under <= most,
        "B's p95 is {} ms without load and {} ms under load, at most {} ms ({} requests)",
        before.as_millis(),
        under.as_millis(),
        most.as_millis(),
        loaded.len()
    );
    Ok(format!(
        "B's p95 {} ms without load, {} ms under load, {} requests",
        before.as_millis(),
        under.as_millis(),
        loaded.len()
    ))
}

/// Measures requests of B, first alone and then while A's load runs, and compares them. `noun` names A's requests.
async fn compare(
    stage: &Stage,
    attacked: Attacked,
    measure: impl AsyncFn() -> anyhow::Result<Vec<Duration>>,
    start_load: impl FnOnce() -> Load,
    margin: Duration,
    noun: &str,
) -> Outcome {
    let quiet = measure().await?;
    let load = start_load();
    tokio::time::sleep(WARM_UP).await;
    let loaded = measure().await?;
    let accepted = load.end().await?;
    stage.cancel_open_jobs().await?;
    ensure!(accepted > 0, "none of A's {noun} was accepted");
    let says = judge(quiet, loaded, margin)?;
    let held = attacked.held().await?;
    Ok(format!("{says}; {accepted} {noun} of A; {held}"))
}

async fn submits(stage: &Stage) -> Outcome {
    let attacked = stage.api_alone(WITHOUT_RATES).await?;
    let crowd = crowd(stage, &attacked, 100_000_000).await?;
    let b = stage.tenant(&attacked, 3, 100).await?;
    let measure = async || b.asks("/v1/credits", REQUESTS).await;
    let load = || {
        Load::start(250, move |number| {
            let caller = crowd[number % crowd.len()].clone();
            async move {
                let (status, _) = caller.post("/v1/jobs", &small_job()).await?;
                Ok(status == StatusCode::ACCEPTED)
            }
        })
    };
    compare(stage, attacked, measure, load, REQUEST_MARGIN, "submits").await
}

async fn waiters(stage: &Stage) -> Outcome {
    let attacked = stage.api_alone(WITHOUT_RATES).await?;
    // A request beyond the limit of its address is refused and tried again. With enough addresses A could take every
    // connection; docs/security.md says so.
    let crowd = crowd(stage, &attacked, 100_000_000).await?;
    let crowd: Vec<Caller> = crowd.into_iter().take(2).collect();
    let b = stage.tenant(&attacked, 3, 100).await?;
    let measure = async || b.asks("/v1/credits", REQUESTS).await;
    let load = || {
        Load::start(2_500, move |number| {
            let caller = crowd[number % crowd.len()].clone();
            async move {
                let request = caller.request(Method::POST, "/v1/jobs");
                let request = request.header("Prefer", "wait=5").json(&small_job());
                let Ok(answer) = request.send().await else {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    return Ok(false);
                };
                Ok(answer.status() == StatusCode::ACCEPTED)
            }
        })
    };
    compare(stage, attacked, measure, load, REQUEST_MARGIN, "waits").await
}

async fn uploads(stage: &Stage) -> Outcome {
    let attacked = stage.api_alone(WITHOUT_RATES).await?;
    let crowd = crowd(stage, &attacked, 0).await?;
    let b = stage.tenant(&attacked, 3, 0).await?;
    let measure = async || send_photos(&b, REQUESTS).await;
    let load = || {
        Load::start(20, move |number| {
            let caller = crowd[number % crowd.len()].clone();
            async move {
                let request = caller.request(Method::POST, "/v1/uploads").body(PHOTO);
                Ok(request.send().await?.status() == StatusCode::CREATED)
            }
        })
    };
    compare(stage, attacked, measure, load, UPLOAD_MARGIN, "uploads").await
}

/// Uploads a photo `times` times, one after the other, and returns how long each took.
async fn send_photos(caller: &Caller, times: usize) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..times {
        let asked = Instant::now();
        let request = caller.request(Method::POST, "/v1/uploads").body(PHOTO);
        let (status, body) = answer(request).await?;
        ensure!(status == StatusCode::CREATED, "{status} {body}");
        took.push(asked.elapsed());
    }
    Ok(took)
}

/// Submits `times` jobs, each after the one before has ended, and returns how long each waited until it started.
async fn starts(
    stage: &Stage,
    caller: &Caller,
    job: &Value,
    times: usize,
) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..times {
        let (status, job) = caller.post("/v1/jobs", job).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status} {job}");
        let id: domain::id::JobId = job["id"].as_str().unwrap_or_default().parse()?;
        let asked = Instant::now();
        let mut started = None;
        loop {
            let (start, ended): (Option<f64>, bool) = sqlx::query_as(
                "SELECT extract(epoch FROM started_at - created_at)::float8, finished_at IS NOT NULL FROM jobs WHERE id = $1",
            )
            .bind(id.0)
            .fetch_one(&stage.real.pipeline.reader)
            .await?;
            started = started.or(start);
            if ended {
                break;
            }
            ensure!(
                asked.elapsed() < Duration::from_secs(30),
                "a job of B's did not end in 30 s"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let started = Duration::from_secs_f64(started.context("it ended unstarted")?);
        took.push(started);
    }
    Ok(took)
}

async fn failing_prompts(stage: &Stage) -> Outcome {
    let attacked = stage.processes(WITHOUT_RATES).await?;
    let a = stage.tenant(&attacked, 2, 1_000_000).await?;
    let b = stage.tenant(&attacked, 3, 1_000_000).await?;
    stage.real.fake.faults().latency(FAST);
    let quiet = starts(stage, &b, &small_job(), REQUESTS / 2).await?;
    let load = Load::start(8, move |number| {
        let a = a.clone();
        async move {
            let mut job = small_job();
            job["prompt"] = json!(format!("number {number} [[fault:internal]]"));
            let (status, _) = a.post("/v1/jobs", &job).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(status == StatusCode::ACCEPTED)
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let loaded = starts(stage, &b, &small_job(), REQUESTS).await;
    let accepted = load.end().await?;
    stage.real.fake.faults().latency(USUAL);
    stage.cancel_open_jobs().await?;
    let says = judge(quiet, loaded?, REQUEST_MARGIN)?;
    let held = attacked.held().await?;
    Ok(format!("{says}; {accepted} jobs of A; {held}"))
}

async fn slow_jobs(stage: &Stage) -> Outcome {
    let two_providers: &[(&str, &str)] = &[
        ("PLATEN_PROVIDERS", "vertex,openai"),
        ("OPENAI_API_KEY", "a key"),
    ];
    let attacked = stage
        .processes(&[WITHOUT_RATES, two_providers].concat())
        .await?;
    let a = stage.tenant(&attacked, 2, 100_000_000).await?;
    let b = stage.tenant(&attacked, 3, 1_000_000).await?;
    stage.real.fake.faults().latency(FAST);
    let elsewhere = json!({"model": "gpt-image-2", "prompt": "a bottle", "size": "1K"});
    let quiet = starts(stage, &b, &elsewhere, REQUESTS / 2).await?;
    let quiet_here = starts(stage, &b, &small_job(), REQUESTS / 2).await?;
    let load = Load::start(32, move |number| {
        let a = a.clone();
        async move {
            let mut job = small_job();
            job["prompt"] = json!(format!("number {number} [[fault:late:10000]]"));
            let (status, _) = a.post("/v1/jobs", &job).await?;
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok(status == StatusCode::ACCEPTED)
        }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let loaded = starts(stage, &b, &elsewhere, REQUESTS).await;
    let loaded_here = starts(stage, &b, &small_job(), REQUESTS).await;
    let accepted = load.end().await?;
    stage.real.fake.faults().latency(USUAL);
    stage.cancel_open_jobs().await?;
    let there = judge(quiet, loaded?, REQUEST_MARGIN).context("at another provider")?;
    let here = judge(quiet_here, loaded_here?, REQUEST_MARGIN).context("at the same provider")?;
    let held = attacked.held().await?;
    Ok(format!(
        "at another provider {there}; at the same {here}; {accepted} slow jobs of A; {held}"
    ))
}

async fn cancels(stage: &Stage) -> Outcome {
    let attacked = stage.processes(WITHOUT_RATES).await?;
    let a = stage.tenant(&attacked, 2, 1_000_000).await?;
    let before = stage.real.fake.journal().count();
    let mut refused = 0;
    let began = Instant::now();
    let mut free = 0;
    while began.elapsed() < Duration::from_secs(20) {
        let mut job = small_job();
        job["prompt"] = json!("a bottle [[fault:late:2000]]");
        let (status, job) = a.post("/v1/jobs", &job).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status} {job}");
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap_or_default());
        while a.get(&path).await?.1["state"] == "queued" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        match a.post(&format!("{path}/cancel"), &json!({})).await? {
            (StatusCode::OK, _) => free += 1,
            (StatusCode::CONFLICT, body) => {
                ensure!(body["code"] == "cancel_allowance_used", "{body}");
                refused += 1;
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(
        stage.real.pipeline.drained(Duration::from_mins(1)).await,
        "jobs are open"
    );
    let calls = stage.real.fake.journal().count() - before;
    ensure!(
        free <= CANCEL_ALLOWANCE + 2,
        "{free} running jobs were canceled free of charge, of {calls} calls"
    );
    let held = attacked.held().await?;
    Ok(format!(
        "{free} canceled free of charge, {refused} refused and delivered, {calls} calls; {held}"
    ))
}

async fn growth(stage: &Stage) -> Outcome {
    use base64::Engine;
    let more = [WITHOUT_RATES, &[("PLATEN_TENANT_STORAGE_MB", "5")]].concat();
    let attacked = stage.api_alone(&more).await?;
    let a = stage.tenant(&attacked, 2, 1_000_000).await?;
    let photo = base64::engine::general_purpose::STANDARD.encode(PHOTO);
    let mut job = small_job();
    job["inputs"] = json!([{"data": photo, "media_type": "image/jpeg", "role": "product"}]);
    let mut kept = 0;
    let refusal = loop {
        let (status, answer) = a.post("/v1/jobs", &job).await?;
        if status != StatusCode::ACCEPTED {
            break (status, answer);
        }
        let id = answer["id"].as_str().unwrap_or_default().to_owned();
        let (status, answer) = a.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await?;
        ensure!(status == StatusCode::OK, "{status} {answer}");
        kept += 1;
        ensure!(kept < 2_000, "nothing limits what a tenant stores");
    };
    ensure!(
        refusal.1["code"] == "storage_full",
        "{} {}",
        refusal.0,
        refusal.1
    );
    let held = attacked.held().await?;
    Ok(format!("refused after {kept} jobs' inputs; {held}"))
}

async fn bad_keys(stage: &Stage) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let b = stage.tenant(&attacked, 3, 100).await?;
    let forger = stage
        .tenant(&attacked, 2, 0)
        .await?
        .with_key("pk_not_a_key_of_anybody");
    let load = Load::start(20, move |_| {
        let forger = forger.clone();
        async move {
            let answer = forger.request(Method::GET, "/v1/credits").send().await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED => Ok(true),
                StatusCode::TOO_MANY_REQUESTS => {
                    ensure!(
                        answer.headers().contains_key("Retry-After"),
                        "no Retry-After"
                    );
                    Ok(false)
                }
                status => anyhow::bail!("a bad key was answered {status}"),
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let took = b.asks("/v1/credits", 20).await;
    let tried = load.end().await?;
    took.context("B is not served")?;
    ensure!(tried < 2_000, "{tried} bad keys were tried in five seconds");
    let log = std::fs::read_to_string(attacked.api.log())?;
    let lines = log.lines().filter(|line| line.contains("key")).count();
    ensure!(
        (1..=60).contains(&lines),
        "{lines} log lines are about bad keys"
    );
    let held = attacked.held().await?;
    Ok(format!(
        "{tried} bad keys were checked, {lines} log lines are about them; {held}"
    ))
}
