//! Limits of what a tenant may use without paying: abandoned calls, and stored files.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::config::UnbilledLimits;
use common::settlement::{self, SettlementResult};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Executor;
use storage::database::{self, DatabaseRole};
use tests::pipeline::{OPERATOR_KEY, small_job};
use tests::{Options, Pipeline};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

/// A job whose call takes so long that it is still under way during the test.
fn slow_job() -> Value {
    let mut body = small_job();
    body["prompt"] = json!("[[fault:late:4000]] a bottle");
    body
}

fn job_with_photo() -> Value {
    let mut body = small_job();
    body["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    body
}

async fn start(unbilled_limits: UnbilledLimits) -> Pipeline {
    Pipeline::start_with(Options {
        slots: 16,
        unbilled_limits,
        ..Options::default()
    })
    .await
}

/// Submits slow jobs and waits until each has its call under way.
async fn running(pipeline: &Pipeline, jobs: usize) -> Vec<String> {
    let before = pipeline.fake.journal().count();
    let mut ids = Vec::new();
    for _ in 0..jobs {
        ids.push(pipeline.submit(&slow_job()).await);
    }
    pipeline
        .until(
            "every job is at the provider",
            Duration::from_secs(20),
            async || (pipeline.fake.journal().count() == before + jobs).then_some(()),
        )
        .await;
    ids
}

async fn number(pipeline: &Pipeline, query: &'static str) -> i64 {
    sqlx::query_scalar(query)
        .fetch_one(&pipeline.reader)
        .await
        .unwrap()
}

async fn operate(pipeline: &Pipeline, path: &str, body: Value) -> Value {
    let request = pipeline.anonymous(Method::POST, path);
    let request = request.bearer_auth(OPERATOR_KEY).json(&body);
    request.send().await.unwrap().json().await.unwrap()
}

/// A sample of `/metrics/billing`.
async fn metric(pipeline: &Pipeline, sample: &str) -> i64 {
    let url = format!("{}/metrics/billing", pipeline.metrics_url);
    let text = pipeline.anonymous(Method::GET, &url).send().await.unwrap();
    let text = text.text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(sample));
    value.expect("it is exported").trim().parse().unwrap()
}

/// Twelve calls under way and twelve cancellations at once: the allowed number succeeds; the other jobs are delivered and charged.
#[tokio::test]
async fn abandoned_calls_per_hour_are_limited() {
    let pipeline = start(UnbilledLimits {
        cancel_allowance: 3,
        ..UnbilledLimits::default()
    })
    .await;
    let (before, _) = pipeline.balance().await;
    let jobs = running(&pipeline, 12).await;
    assert!(pipeline.job(&jobs[0]).await["links"]["cancel"].is_string());
    let cancels = jobs.iter().map(|id| {
        let request = pipeline.request(Method::POST, &format!("/v1/jobs/{id}/cancel"));
        async { request.send().await.unwrap() }
    });
    let (mut canceled, mut refused) = (0_i64, Vec::new());
    for (answer, id) in futures::future::join_all(cancels)
        .await
        .into_iter()
        .zip(&jobs)
    {
        match answer.status() {
            StatusCode::OK => canceled += 1,
            status => {
                assert_eq!(status, StatusCode::CONFLICT);
                let retry_after = answer.headers()["retry-after"].to_str().unwrap();
                let seconds: u64 = retry_after.parse().unwrap();
                assert!((3_000..=3_600).contains(&seconds), "{seconds}");
                let problem: Value = answer.json().await.unwrap();
                assert_eq!(problem["code"], "cancel_allowance_used", "{problem}");
                assert_eq!(problem["abandoned"], 3, "{problem}");
                refused.push(id);
            }
        }
    }
    assert_eq!((canceled, refused.len()), (3, 9));
    let shown = pipeline.job(refused[0]).await;
    assert_eq!(shown["state"], "running", "{shown}");
    assert_eq!(shown["links"]["cancel"], Value::Null, "{shown}");
    let (_, listed) = pipeline.get("/v1/jobs?state=running").await;
    assert_eq!(listed["data"][0]["links"]["cancel"], Value::Null);

    // A deadline that is shorter than a call may take would abandon more.
    let hurry = pipeline
        .request(Method::POST, "/v1/jobs")
        .json(&small_job());
    let hurry = hurry.header("Cancel-After", "1s").send().await.unwrap();
    assert_eq!(hurry.status(), StatusCode::CONFLICT);
    assert!(hurry.headers().contains_key("retry-after"));
    let problem: Value = hurry.json().await.unwrap();
    assert_eq!(problem["code"], "cancel_allowance_used", "{problem}");
    let least = problem["least"].as_u64().unwrap();
    let patient = pipeline
        .request(Method::POST, "/v1/jobs")
        .json(&small_job());
    let patient = patient.header("Cancel-After", least.to_string());
    assert_eq!(patient.send().await.unwrap().status(), StatusCode::ACCEPTED);

    // Jobs whose calls have not begun can be canceled as before, and operators have no limit.
    let pause = json!({"everything": true, "reason": "a test"});
    let pause = operate(&pipeline, "/v1/admin/pauses", pause).await;
    for _ in 0..5 {
        let id = pipeline.submit(&small_job()).await;
        let (status, job) = pipeline
            .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
            .await;
        assert_eq!(status, StatusCode::OK, "{job}");
    }
    let resume = format!("/v1/admin/pauses/{}/resume", pause["id"]);
    let resume = pipeline.anonymous(Method::POST, &resume);
    let resume = resume
        .bearer_auth(OPERATOR_KEY)
        .json(&json!({"reason": "a test"}));
    assert_eq!(
        resume.send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );

    let mut charged = 0;
    for id in refused {
        let job = pipeline.ended(id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        charged += job["cost"]["captured"].as_i64().unwrap();
    }
    pipeline.drained(Duration::from_secs(20)).await;
    let price = charged / 9;
    assert!(price > 0);
    // The nine refused jobs were charged, and the one with the long deadline.
    assert_eq!(pipeline.balance().await, (before - charged - price, 0));

    let ids = running(&pipeline, 1).await;
    let end = json!({"ids": ids, "reason": "a test"});
    let ended = operate(&pipeline, "/v1/admin/jobs/cancel", end).await;
    assert_eq!(ended["data"][0]["skipped"], Value::Null, "{ended}");
    let counted = "SELECT count(*) FROM abandoned_calls";
    assert_eq!(number(&pipeline, counted).await, 3);

    // Metrics have the cost of abandoned calls, and the limit for alerts.
    let cost =
        "SELECT sum(cost_micros)::bigint FROM abandoned_calls a JOIN calls c ON c.id = a.call_id";
    let cost = number(&pipeline, cost).await;
    assert!(cost > 0);
    for of in ["all", "one_tenant"] {
        let sample = format!("platen_abandoned_cost_usd_micros{{of=\"{of}\"}}");
        assert_eq!(metric(&pipeline, &sample).await, cost);
    }
    let limit = metric(&pipeline, "platen_abandoned_cost_limit_usd_micros ").await;
    assert_eq!(limit, 5_000_000);
    pipeline.close().await;
}

/// Four jobs have a call under way when their deadline passes. One call may be abandoned, so one job expires, and the deadlines of the
/// others are moved.
#[tokio::test]
async fn deadlines_abandon_no_more_calls_than_allowed() {
    let pipeline = start(UnbilledLimits {
        cancel_allowance: 1,
        ..UnbilledLimits::default()
    })
    .await;
    let jobs = running(&pipeline, 4).await;
    let mut owner = pipeline.owner().await;
    let passed = "UPDATE jobs SET deadline = clock_timestamp() - interval '1 second'";
    owner.execute(passed).await.unwrap();
    let mut states = Vec::new();
    for id in &jobs {
        let job = pipeline.ended(id).await;
        states.push(job["state"].as_str().unwrap().to_owned());
    }
    states.sort();
    assert_eq!(states, ["expired", "succeeded", "succeeded", "succeeded"]);
    let counted = "SELECT count(*) FROM abandoned_calls";
    assert_eq!(number(&pipeline, counted).await, 1);

    // A deadline is moved only once. A call that takes longer than its model may is not the tenant's fault, so it is not counted.
    let mut body = slow_job();
    body["prompt"] = json!("[[fault:late:8000]] a bottle");
    let id = pipeline.submit(&body).await;
    let begun = "SELECT count(*) FROM calls WHERE ended_at IS NULL";
    pipeline
        .until("one call has begun", Duration::from_secs(20), async || {
            (number(&pipeline, begun).await == 1).then_some(())
        })
        .await;
    owner.execute("UPDATE jobs SET deadline = clock_timestamp() - interval '1 second' WHERE finished_at IS NULL").await.unwrap();
    let extended = "SELECT count(*) FROM jobs WHERE extended AND finished_at IS NULL AND deadline > clock_timestamp()";
    pipeline
        .until(
            "one deadline was extended",
            Duration::from_secs(20),
            async || (number(&pipeline, extended).await == 1).then_some(()),
        )
        .await;
    // A worker that found the job before its deadline was moved leaves it alone.
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, DatabaseRole::Worker, 1)
        .await
        .unwrap();
    let job = (pipeline.tenant, id.parse().unwrap());
    let expired = settlement::expire(&pool, job, 1, |_| Duration::ZERO).await;
    assert_eq!(expired.unwrap(), SettlementResult::NotFound);
    pool.close().await;
    owner.execute("UPDATE jobs SET deadline = clock_timestamp() - interval '1 second' WHERE finished_at IS NULL").await.unwrap();
    assert_eq!(pipeline.ended(&id).await["state"], "expired");
    assert_eq!(number(&pipeline, counted).await, 1);
    pipeline.close().await;
}

/// Inputs of jobs that delivered nothing are deleted after a time, whatever retention the tenant has set; those of other jobs are not.
#[tokio::test]
async fn inputs_of_undelivered_jobs_are_deleted_after_a_time() {
    let pipeline = start(UnbilledLimits {
        undelivered_inputs: Some(Duration::ZERO),
        ..UnbilledLimits::default()
    })
    .await;
    let mut failed = job_with_photo();
    failed["prompt"] = json!("[[fault:invalid]] a bottle");
    let failed = pipeline.submit(&failed).await;
    assert_eq!(pipeline.ended(&failed).await["state"], "failed");
    let delivered = pipeline.submit(&job_with_photo()).await;
    assert_eq!(pipeline.ended(&delivered).await["state"], "succeeded");
    let pause = json!({"everything": true, "reason": "a test"});
    let pause = operate(&pipeline, "/v1/admin/pauses", pause).await;
    let canceled = pipeline.submit(&job_with_photo()).await;
    let (_, before) = pipeline.get("/v1/storage").await;
    pipeline
        .post(&format!("/v1/jobs/{canceled}/cancel"), &json!({}))
        .await;
    for id in [&failed, &canceled] {
        let receipts = pipeline
            .until(
                "there is a receipt for the inputs",
                Duration::from_secs(20),
                async || {
                    let (_, receipts) = pipeline.get(&format!("/v1/receipts?job={id}")).await;
                    let gone = receipts["data"].as_array().unwrap().clone();
                    (!gone.is_empty()).then_some(gone)
                },
            )
            .await;
        assert_eq!(receipts[0]["class"], "input", "{receipts:?}");
    }
    // Deleted files do not count towards the storage limit.
    let (_, after) = pipeline.get("/v1/storage").await;
    assert!(
        after["bytes"].as_i64() < before["bytes"].as_i64(),
        "{before} {after}"
    );
    let (_, kept) = pipeline.get(&format!("/v1/receipts?job={delivered}")).await;
    assert_eq!(kept["data"], json!([]));
    let listed = "SELECT count(*) FROM undelivered_inputs";
    assert_eq!(number(&pipeline, listed).await, 0);
    let resume = format!("/v1/admin/pauses/{}/resume", pause["id"]);
    let resume = pipeline.anonymous(Method::POST, &resume);
    resume
        .bearer_auth(OPERATOR_KEY)
        .json(&json!({"reason": "a test"}))
        .send()
        .await
        .unwrap();
    pipeline.close().await;
}

async fn upload(pipeline: &Pipeline, key: &str) -> (StatusCode, Value) {
    let request = pipeline.anonymous(Method::POST, "/v1/uploads");
    let answer = request.bearer_auth(key).body(PHOTO).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Uploads of a tenant that never paid are deleted after a time.
#[tokio::test]
async fn uploads_of_unpaid_tenants_are_deleted_after_a_time() {
    let pipeline = start(UnbilledLimits {
        uploads: Some(Duration::ZERO),
        ..UnbilledLimits::default()
    })
    .await;
    let paid = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&paid).await["state"], "succeeded");
    let (_, never_paid) = pipeline.add_tenant(100).await;
    let (status, kept) = upload(&pipeline, &pipeline.key).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, lost) = upload(&pipeline, &never_paid).await;
    assert_eq!(status, StatusCode::CREATED);
    let path = |upload: &Value| format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
    pipeline
        .until("the upload is gone", Duration::from_secs(20), async || {
            let request = pipeline.anonymous(Method::GET, &path(&lost));
            let answer = request.bearer_auth(&never_paid).send().await.unwrap();
            (answer.status() == StatusCode::GONE).then_some(())
        })
        .await;
    let (status, _) = pipeline.get(&path(&kept)).await;
    assert_eq!(status, StatusCode::OK);
    pipeline.close().await;
}

/// A tenant cannot store more than its limit. A refused file leaves nothing behind, and a deleted file makes room.
#[tokio::test]
async fn a_tenant_cannot_exceed_its_storage_limit() {
    let size = {
        let pipeline = start(UnbilledLimits::default()).await;
        let (_, kept) = upload(&pipeline, &pipeline.key).await;
        pipeline.close().await;
        kept["bytes"].as_i64().unwrap()
    };
    let pipeline = start(UnbilledLimits {
        storage: Some(size * 2 - 1),
        ..UnbilledLimits::default()
    })
    .await;
    let (status, kept) = upload(&pipeline, &pipeline.key).await;
    assert_eq!(status, StatusCode::CREATED, "{kept}");
    let (status, problem) = upload(&pipeline, &pipeline.key).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(problem["code"], "storage_full", "{problem}");
    assert_eq!(
        (problem["stored"].as_i64(), problem["needed"].as_i64()),
        (Some(size), Some(size))
    );
    let (status, problem) = pipeline.post("/v1/jobs", &job_with_photo()).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(problem["code"], "storage_full", "{problem}");
    let (_, told) = pipeline.get("/v1/storage").await;
    assert_eq!(told, json!({"bytes": size, "limit": size * 2 - 1}));
    assert_eq!(metric(&pipeline, "platen_storage_bytes ").await, size);
    let (nobodys, seen) = pipeline.deep(Duration::ZERO).await;
    assert_eq!(nobodys, [], "{seen:?}");

    // Another tenant has its own limit. Artifacts count towards the limit.
    let (_, another) = pipeline.add_tenant(0).await;
    assert_eq!(upload(&pipeline, &another).await.0, StatusCode::CREATED);
    let path = format!("/v1/uploads/{}", kept["id"].as_str().unwrap());
    let deleted = pipeline
        .request(Method::DELETE, &path)
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    pipeline
        .until("nothing is stored", Duration::from_secs(20), async || {
            let (_, told) = pipeline.get("/v1/storage").await;
            (told["bytes"] == 0).then_some(())
        })
        .await;
    let job = pipeline.submit(&job_with_photo()).await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
    let (_, told) = pipeline.get("/v1/storage").await;
    assert!(told["bytes"].as_i64().unwrap() > size, "{told}");
    pipeline.close().await;
}

/// The files of a tenant from before storage was counted are counted by a worker; its old inputs of jobs that delivered nothing are
/// listed for deletion.
#[tokio::test]
async fn files_from_before_storage_counting_are_counted() {
    let mut pipeline = start(UnbilledLimits::default()).await;
    assert_eq!(
        upload(&pipeline, &pipeline.key).await.0,
        StatusCode::CREATED
    );
    let mut failed = job_with_photo();
    failed["prompt"] = json!("[[fault:invalid]] a bottle");
    for body in [&failed, &job_with_photo()] {
        let id = pipeline.submit(body).await;
        pipeline.ended(&id).await;
    }
    let (_, before) = pipeline.get("/v1/storage").await;
    pipeline.stop_workers().await;
    let mut owner = pipeline.owner().await;
    let as_before = "SET session_replication_role = replica; DELETE FROM storage_lines; DELETE FROM undelivered_inputs;
        UPDATE storage_totals SET bytes = NULL; SET session_replication_role = origin";
    owner.execute(as_before).await.unwrap();
    let (_, unknown) = pipeline.get("/v1/storage").await;
    assert_eq!(unknown["bytes"], Value::Null, "{unknown}");
    // While the sum is not known, nothing is refused; later it is counted with the rest.
    let (_, more) = upload(&pipeline, &pipeline.key).await;
    pipeline.start_worker().await;
    let counted = pipeline
        .until(
            "the bytes stored are told",
            Duration::from_secs(20),
            async || {
                let (_, told) = pipeline.get("/v1/storage").await;
                told["bytes"].as_i64()
            },
        )
        .await;
    assert_eq!(
        counted,
        before["bytes"].as_i64().unwrap() + more["bytes"].as_i64().unwrap()
    );
    let listed = "SELECT count(*) FROM undelivered_inputs";
    assert_eq!(number(&pipeline, listed).await, 1);
    pipeline.close().await;
}
