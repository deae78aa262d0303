//! The bucket is away: what was paid for waits, nothing more is bought, and the books close.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fakes::{Fake, Fault};
use futures::future::join_all;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::s3::{self, Mood, S3};
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

    /// Until a picture waits for the bucket.
    async fn waits(&self) {
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

/// However a store fails: one call for each picture, no further job started, and all goes on by itself.
async fn what_was_paid_for_waits(mood: Mood) {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    let first = pipeline.submit(&slow_job()).await;
    let called = async || (case.calls() == 1).then_some(());
    pipeline
        .until(
            "the provider was called once",
            Duration::from_secs(10),
            called,
        )
        .await;
    case.s3.set_mood(mood);
    case.waits().await;
    assert!(metric(pipeline, "platen_bucket_unavailable").await > 0.0);
    let later = join_all((0..5).map(|_| async { pipeline.submit(&small_job()).await })).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        case.calls(),
        1,
        "nothing is bought that could not be stored"
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
async fn what_was_paid_for_waits_while_the_store_answers_503() {
    what_was_paid_for_waits(Mood::Refuses).await;
}

#[tokio::test]
async fn what_was_paid_for_waits_while_the_store_takes_no_writes() {
    what_was_paid_for_waits(Mood::Full).await;
}

#[tokio::test]
async fn what_was_paid_for_waits_while_the_store_hangs() {
    what_was_paid_for_waits(Mood::Hangs).await;
}

/// F17: each write is done, and nobody hears of it.
#[tokio::test]
async fn what_was_paid_for_waits_while_the_stores_replies_are_lost() {
    what_was_paid_for_waits(Mood::SwallowsReplies).await;
}

#[tokio::test]
async fn what_was_paid_for_waits_while_the_store_garbles_what_it_is_given() {
    what_was_paid_for_waits(Mood::Garbles).await;
}

#[tokio::test]
async fn a_job_whose_picture_waits_past_its_deadline_is_released_and_the_loss_metered() {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    case.s3.set_mood(Mood::Full);
    let request = pipeline
        .request(Method::POST, "/v1/jobs")
        .header("Cancel-After", "4s");
    let accepted = request.json(&small_job()).send().await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let accepted: Value = accepted.json().await.unwrap();
    case.waits().await;
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
    // What waited has made room, and the worker takes up work again by itself.
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

/// Inputs go into the bucket before there is a job.
#[tokio::test]
async fn a_job_with_inputs_is_told_later_and_leaves_nothing() {
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
async fn a_canceled_job_takes_its_picture_out_of_the_wait() {
    let case = Case::start().await;
    let pipeline = &case.pipeline;
    case.s3.set_mood(Mood::Full);
    let id = pipeline.submit(&small_job()).await;
    case.waits().await;
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

/// One picture is stored, another waits: the one is delivered in time.
#[tokio::test]
async fn what_is_stored_is_delivered_though_the_rest_waits() {
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
async fn what_finds_no_room_to_wait_is_lost_told_and_bought_once_more() {
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
        "not bought again before there is a place for it"
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

/// A stop waits for what waits: the bucket is looked for as before.
#[tokio::test]
async fn a_worker_that_is_stopped_while_a_picture_waits_stores_it_when_the_bucket_is_back() {
    let mut case = Case::start().await;
    let id = case.pipeline.submit(&slow_job()).await;
    let called = async || (case.calls() == 1).then_some(());
    case.pipeline
        .until(
            "the provider was called once",
            Duration::from_secs(10),
            called,
        )
        .await;
    case.s3.set_mood(Mood::Refuses);
    case.waits().await;
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

/// The ceiling holds whatever was under way, and each call is accounted for.
#[tokio::test]
async fn no_more_waits_than_there_is_room_for() {
    const ROOM: u32 = 1_200_000;
    let case = Case::with(Options {
        spool: ROOM as usize,
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
        waiting > 0.0 && waiting <= f64::from(ROOM),
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

/// A provider that works in the background keeps its picture: it is asked for again, and not bought again.
#[tokio::test]
async fn a_handle_outlives_a_bucket_that_is_away() {
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

/// It is found out before the first call, not by it.
#[tokio::test]
async fn a_worker_that_starts_without_its_bucket_buys_nothing_and_takes_nothing_from_others() {
    let mut case = Case::with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    // Nobody listens on a port that was free a moment ago.
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
        "as if it were not there"
    );
    assert_eq!(case.calls(), 20);
    case.close().await;
}

/// What waits in memory dies with its worker: one call is wasted, and told as possibly billed.
#[tokio::test]
async fn a_worker_that_is_killed_while_a_picture_waits_wastes_one_call() {
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
    pipeline
        .until("the provider was called once", within, async || {
            (fake.journal().count() == 1).then_some(())
        })
        .await;
    case.s3.set_mood(Mood::Full);
    let before = case.s3.puts();
    // A write and its three repetitions: then it waits until the bucket is seen to be back.
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
