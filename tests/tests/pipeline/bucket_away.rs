//! The bucket is unavailable: paid results wait, nothing more is bought, and the ledger stays
//! consistent.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fakes::{Fake, Fault};
use futures::future::join_all;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::s3::{self, Mood, S3};
use tests::wait::until_called_once;
use tests::{Options, Pipeline, models, processes};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

struct Case {
    _folder: tempfile::TempDir,
    s3: S3,
    pipeline: Pipeline,
}

impl Case {
    async fn start() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let s3 = S3::start(folder.path()).await;
        let pipeline = Pipeline::start_with(Options {
            bucket: Some(s3.address()),
            ..options
        })
        .await;
        Self {
            _folder: folder,
            s3,
            pipeline,
        }
    }

    fn calls(&self) -> usize {
        self.pipeline.fake.journal().count()
    }

    /// Waits until a result waits for the bucket.
    async fn until_a_result_waits(&self) {
        let within = Duration::from_secs(15);
        let look =
            async || (metric(&self.pipeline, "platen_spool_bytes").await > 0.0).then_some(());
        self.pipeline
            .until("a result waits in the spool", within, look)
            .await;
    }

    async fn state(&self, id: &str) -> String {
        self.pipeline.job(id).await["state"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    async fn close(self) {
        self.pipeline.close().await;
    }
}

async fn metric(pipeline: &Pipeline, name: &str) -> f64 {
    let metrics = pipeline.anonymous(Method::GET, &format!("{}/metrics", pipeline.metrics_url));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"))
        .parse()
        .unwrap()
}

async fn outcomes(pipeline: &Pipeline) -> Vec<String> {
    sqlx::query_scalar("SELECT outcome FROM calls ORDER BY id")
        .fetch_all(&pipeline.reader)
        .await
        .unwrap()
}

fn slow_job() -> Value {
    let mut body = small_job();
    body["prompt"] = json!("a bottle [[fault:late:1500]]");
    body
}

/// However the bucket fails: one call per image, no further job starts, and all goes on by itself.
async fn a_paid_result_waits(mood: Mood) {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    let first = pipeline.submit(&slow_job()).await;
    until_called_once(&case.pipeline.fake, Duration::from_secs(10)).await;
    case.s3.set_mood(mood);
    case.until_a_result_waits().await;
    assert!(metric(pipeline, "platen_bucket_unavailable").await > 0.0);
    let later = join_all((0..5).map(|_| async { pipeline.submit(&small_job()).await })).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        case.calls(),
        1,
        "nothing is bought while it could not be stored"
    );
    assert_eq!(case.state(&first).await, "running");
    for id in &later {
        let job = pipeline.job(id).await;
        assert_eq!(
            (job["state"].as_str(), job["attempts"].as_i64()),
            (Some("queued"), Some(0)),
            "{job}"
        );
    }

    case.s3.set_mood(Mood::Well);
    let first = pipeline.ended(&first).await;
    assert_eq!(
        (first["state"].as_str(), first["attempts"].as_i64()),
        (Some("succeeded"), Some(1)),
        "{first}"
    );
    for id in &later {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    assert_eq!(case.calls(), 6);
    assert!(
        outcomes(pipeline)
            .await
            .iter()
            .all(|outcome| outcome == "ok")
    );
    assert!(metric(pipeline, "platen_spool_bytes").await < 1.0);
    assert!(metric(pipeline, "platen_bucket_unavailable").await < 1.0);
    assert_eq!(pipeline.balance().await.1, 0);
    case.close().await;
}

#[tokio::test]
async fn a_paid_result_waits_while_the_bucket_answers_503() {
    Box::pin(a_paid_result_waits(Mood::Refuses)).await;
}

#[tokio::test]
async fn a_paid_result_waits_while_the_bucket_refuses_writes() {
    Box::pin(a_paid_result_waits(Mood::Full)).await;
}

#[tokio::test]
async fn a_paid_result_waits_while_the_bucket_hangs() {
    Box::pin(a_paid_result_waits(Mood::Hangs)).await;
}

/// F17: each write succeeds, and its reply is lost.
#[tokio::test]
async fn a_paid_result_waits_while_the_buckets_replies_are_lost() {
    Box::pin(a_paid_result_waits(Mood::SwallowsReplies)).await;
}

#[tokio::test]
async fn a_paid_result_waits_while_the_bucket_alters_bytes() {
    Box::pin(a_paid_result_waits(Mood::Garbles)).await;
}

#[tokio::test]
async fn a_paid_result_waits_while_bytes_change_on_the_way() {
    Box::pin(a_paid_result_waits(Mood::ReceivesOtherBytes)).await;
}

#[tokio::test]
async fn a_job_whose_result_waits_past_its_deadline_is_released() {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    case.s3.set_mood(Mood::Full);
    let request = pipeline
        .request(Method::POST, "/v1/jobs")
        .header("Cancel-After", "4s");
    let accepted = request.json(&small_job()).send().await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let accepted: Value = accepted.json().await.unwrap();
    case.until_a_result_waits().await;
    let ended = pipeline.ended(accepted["id"].as_str().unwrap()).await;
    assert_eq!(
        (ended["state"].as_str(), ended["cost"]["captured"].as_i64()),
        (Some("expired"), Some(0)),
        "{ended}"
    );
    assert_eq!(pipeline.balance().await, (1_000, 0));
    assert_eq!(outcomes(pipeline).await, ["unknown"]);
    let billing = pipeline.anonymous(
        Method::GET,
        &format!("{}/metrics/billing", pipeline.metrics_url),
    );
    let billing = billing.send().await.unwrap().text().await.unwrap();
    let cost = billing.lines().find(|line| {
        line.starts_with("platen_provider_cost_usd_micros_total") && line.contains("unknown")
    });
    let micros: i64 = cost.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(micros > 0, "{billing}");
    // The result that waited is dropped, and the worker starts jobs again by itself.
    let gone = async || (metric(pipeline, "platen_spool_bytes").await < 1.0).then_some(());
    pipeline
        .until("the spool is empty", Duration::from_secs(10), gone)
        .await;
    case.s3.set_mood(Mood::Well);
    let next = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&next).await["state"], "succeeded");
    assert_eq!(case.calls(), 2);
    case.close().await;
}

/// Inputs are stored before the job is admitted, so the submit fails with 503.
#[tokio::test]
async fn a_job_with_inputs_is_refused_and_leaves_nothing() {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    let mut body = small_job();
    body["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    let submit = async || {
        let request = pipeline.request(Method::POST, "/v1/jobs");
        let request = request.header("Idempotency-Key", "one").json(&body);
        let response = request.send().await.unwrap();
        let retry_after = response.headers().get(header::RETRY_AFTER).is_some();
        (
            response.status(),
            retry_after,
            response.json::<Value>().await.unwrap(),
        )
    };
    case.s3.set_mood(Mood::Refuses);
    let (status, retry_after, body) = submit().await;
    assert_eq!(
        (status, retry_after),
        (StatusCode::SERVICE_UNAVAILABLE, true),
        "{body}"
    );
    assert_eq!(pipeline.balance().await, (1_000, 0));
    case.s3.set_mood(Mood::Well);
    let (status, _, job) = submit().await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    let ended = pipeline.ended(job["id"].as_str().unwrap()).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(case.calls(), 1);
    case.close().await;
}

#[tokio::test]
async fn a_canceled_job_frees_its_place_in_the_spool() {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    case.s3.set_mood(Mood::Full);
    let id = pipeline.submit(&small_job()).await;
    case.until_a_result_waits().await;
    let (status, _) = pipeline
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    let gone = async || (metric(pipeline, "platen_spool_bytes").await < 1.0).then_some(());
    pipeline
        .until("the spool is empty", Duration::from_secs(10), gone)
        .await;
    assert_eq!(pipeline.balance().await, (1_000, 0));
    assert_eq!(
        (case.calls(), outcomes(pipeline).await),
        (1, vec!["unknown".to_owned()])
    );
    case.close().await;
}

/// One image is stored and another waits: the first is delivered in time.
#[tokio::test]
async fn stored_outputs_are_delivered_while_others_wait() {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    pipeline.fake.faults().push(Fault::Late(2_000));
    let mut body = small_job();
    body["outputs"] = json!(2);
    let request = pipeline
        .request(Method::POST, "/v1/jobs")
        .header("Cancel-After", "16s");
    let accepted: Value = request
        .json(&body)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    // The first output.
    let stored = async || (case.s3.puts() == 3).then_some(());
    pipeline
        .until("three files are stored", Duration::from_secs(10), stored)
        .await;
    case.s3.set_mood(Mood::Full);
    let ended = pipeline.ended(accepted["id"].as_str().unwrap()).await;
    assert_eq!(
        (
            ended["state"].as_str(),
            ended["cost"]["captured"].as_i64(),
            ended["cost"]["released"].as_i64()
        ),
        (Some("partial"), Some(6), Some(6)),
        "{ended}"
    );
    assert_eq!((case.calls(), pipeline.balance().await), (2, (994, 0)));
    case.close().await;
}

#[tokio::test]
async fn a_result_the_full_spool_refuses_is_lost_and_rebought() {
    let case = Case::with(Options {
        spool: 0,
        ..Options::default()
    })
    .await;
    let pipeline = &case.pipeline;
    case.s3.set_mood(Mood::Full);
    let id = pipeline.submit(&small_job()).await;
    let lost = async || (metric(pipeline, "platen_spool_refused_total").await > 0.0).then_some(());
    pipeline
        .until("the spool refused a result", Duration::from_secs(15), lost)
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        case.calls(),
        1,
        "not bought again before it could be stored"
    );
    assert_eq!(pipeline.job(&id).await["state"], "queued");
    case.s3.set_mood(Mood::Well);
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    assert_eq!(
        (case.calls(), outcomes(pipeline).await),
        (2, vec!["internal".to_owned(), "ok".to_owned()])
    );
    case.close().await;
}

/// Without memory for results that wait, they wait on disk, as far as there is space, and are stored by themselves.
#[tokio::test]
async fn a_result_the_full_memory_refuses_waits_on_disk() {
    let case = Case::with(Options {
        spool: 0,
        spool_disk: 100_000_000,
        ..Options::default()
    })
    .await;
    let pipeline = &case.pipeline;
    let id = pipeline.submit(&slow_job()).await;
    until_called_once(&case.pipeline.fake, Duration::from_secs(10)).await;
    case.s3.set_mood(Mood::Full);
    case.until_a_result_waits().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(case.state(&id).await, "running");
    case.s3.set_mood(Mood::Well);
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    assert_eq!(
        (case.calls(), outcomes(pipeline).await),
        (1, vec!["ok".to_owned()])
    );
    assert!(metric(pipeline, "platen_spool_bytes").await < 1.0);
    case.close().await;
}

/// A stop waits for results that wait; the bucket is still probed.
#[tokio::test]
async fn a_stopping_worker_stores_what_waits_for_the_bucket() {
    let mut case = Case::start().await;
    let id = case.pipeline.submit(&slow_job()).await;
    until_called_once(&case.pipeline.fake, Duration::from_secs(10)).await;
    case.s3.set_mood(Mood::Refuses);
    case.until_a_result_waits().await;
    let back = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        case.s3.set_mood(Mood::Well);
    };
    tokio::join!(case.pipeline.stop_workers(), back);
    let ended = case.pipeline.job(&id).await;
    assert_eq!(
        (ended["state"].as_str(), ended["attempts"].as_i64()),
        (Some("succeeded"), Some(1)),
        "{ended}"
    );
    assert_eq!(case.calls(), 1);
    case.close().await;
}

/// The limit holds whatever was running, and each call has an outcome.
#[tokio::test]
async fn the_spool_never_exceeds_its_limit() {
    const SPOOL_BYTES: u32 = 1_200_000;
    let case = Case::with(Options {
        spool: SPOOL_BYTES as usize,
        ..Options::default()
    })
    .await;
    let pipeline = &case.pipeline;
    pipeline.fake.faults().latency(1_000..=1_000);
    let ids = join_all((0..8).map(|_| async { pipeline.submit(&small_job()).await })).await;
    pipeline
        .until(
            "the provider was called eight times",
            Duration::from_secs(10),
            async || (case.calls() == 8).then_some(()),
        )
        .await;
    case.s3.set_mood(Mood::Full);
    let refused = async || metric(pipeline, "platen_spool_refused_total").await;
    let decided = async || {
        let ended: i64 =
            sqlx::query_scalar("SELECT count(*) FROM calls WHERE ended_at IS NOT NULL")
                .fetch_one(&pipeline.reader)
                .await
                .unwrap();
        (ended > 0).then_some(())
    };
    pipeline
        .until("the first call has ended", Duration::from_secs(15), decided)
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let waiting = metric(pipeline, "platen_spool_bytes").await;
    assert!(
        waiting > 0.0 && waiting <= f64::from(SPOOL_BYTES),
        "{waiting} bytes wait"
    );
    assert_eq!(case.calls(), 8, "nothing is bought meanwhile");
    case.s3.set_mood(Mood::Well);
    for id in &ids {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    let outcomes = outcomes(pipeline).await;
    let lost = outcomes
        .iter()
        .filter(|outcome| *outcome == "internal")
        .count();
    assert_eq!((case.calls(), outcomes.len()), (8 + lost, 8 + lost));
    assert!((1..8).contains(&lost), "{lost} were lost");
    assert!((refused().await - f64::from(u32::try_from(lost).unwrap())).abs() < 0.5);
    case.close().await;
}

/// The provider keeps the image of an operation, so it is polled again and not bought again.
#[tokio::test]
async fn an_operation_is_polled_again_after_a_bucket_outage() {
    let case = Case::with(Options {
        spool: 0,
        ..Options::default()
    })
    .await;
    let pipeline = &case.pipeline;
    case.s3.set_mood(Mood::Full);
    let body =
        json!({"model": "gemini-nano-banana-2.1-background", "prompt": "a bottle", "size": "1K"});
    let id = pipeline.submit(&body).await;
    let refused =
        async || (metric(pipeline, "platen_spool_refused_total").await > 0.0).then_some(());
    pipeline
        .until(
            "the spool refused a result",
            Duration::from_secs(15),
            refused,
        )
        .await;
    case.s3.set_mood(Mood::Well);
    let ended = pipeline.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(
        (case.calls(), outcomes(pipeline).await),
        (1, vec!["ok".to_owned()])
    );
    case.close().await;
}

/// The bucket is probed before the first job is claimed.
#[tokio::test]
async fn a_worker_without_its_bucket_claims_nothing() {
    let mut case = Case::with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    // A port that was free a moment ago, so nothing listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let there = case
        .pipeline
        .config
        .bucket
        .replace(s3::address(&format!("http://{gone}"), ""));
    case.pipeline.start_worker().await;
    let pipeline = &case.pipeline;
    let ids = join_all((0..20).map(|_| async { pipeline.submit(&small_job()).await })).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(case.calls(), 0);
    for id in &ids {
        assert_eq!(case.pipeline.job(id).await["attempts"], 0);
    }
    case.pipeline.config.bucket = there;
    case.pipeline.start_worker().await;
    let began = Instant::now();
    for id in &ids {
        let job = case.pipeline.ended(id).await;
        assert_eq!(
            (job["state"].as_str(), job["attempts"].as_i64()),
            (Some("succeeded"), Some(1)),
            "{job}"
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "the other worker does not delay the jobs"
    );
    assert_eq!(case.calls(), 20);
    case.close().await;
}

/// A result that waits in memory is lost with its worker: one call is wasted, and ends as possibly
/// billed.
#[tokio::test]
async fn a_worker_killed_while_a_result_waits_wastes_one_call() {
    let fake = Fake::start(fakes::Options::default()).await.unwrap();
    let models = models::shipped();
    models::openai_played_by(&models, &fake.base_url());
    let case = Case::with(Options {
        workers: 0,
        models: Some(models.path().to_owned()),
        ..Options::default()
    })
    .await;
    let pipeline = &case.pipeline;
    let endpoint = case.s3.endpoint();
    let of_s3 = s3::variables(&endpoint);
    let mut environment = vec![
        ("PLATEN_PROVIDERS", "openai"),
        ("OPENAI_API_KEY", "a key"),
        ("PLATEN_LEASE_SECONDS", "3"),
    ];
    environment.extend(of_s3.iter().map(|(name, value)| (*name, value.as_str())));
    let mut first = processes::worker(&pipeline.config, &environment);
    let body = json!({"model": "gpt-image-2.5-sunburst", "prompt": "a bottle [[fault:late:1500]]", "size": "1K"});
    let id = pipeline.submit(&body).await;
    let within = Duration::from_secs(20);
    until_called_once(&fake, within).await;
    case.s3.set_mood(Mood::Full);
    let before = case.s3.puts();
    // The first write and three retries; then the result waits until the bucket is available.
    pipeline
        .until("the write was tried four times", within, async || {
            (case.s3.puts() >= before + 4).then_some(())
        })
        .await;
    first.kill().await.unwrap();
    case.s3.set_mood(Mood::Well);
    let mut second = processes::worker(&pipeline.config, &environment);
    let ended = pipeline.ended_within(&id, Duration::from_mins(1)).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(fake.journal().count(), 2, "calls");
    assert_eq!(outcomes(pipeline).await, ["unknown", "ok"]);
    second.kill().await.unwrap();
    case.close().await;
}
