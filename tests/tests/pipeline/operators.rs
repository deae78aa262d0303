//! What operators do: seen in one place, explained, and kept; and the books close.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::credits::Credits;
use common::id::JobId;
use common::operation::{Act, tenants};
use common::retention::{Purpose, Retention};
use common::{clock, database};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::pipeline::{OPERATOR_KEY, small_job};
use tests::{Options, Pipeline};
use time::format_description::well_known::Rfc3339;

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

/// Status and answer; an answer without a body is null.
async fn asked(
    pipeline: &Pipeline,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let mut request = pipeline.anonymous(method, path).bearer_auth(OPERATOR_KEY);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

async fn look(pipeline: &Pipeline, path: &str) -> Value {
    let (status, answer) = asked(pipeline, Method::GET, path, None).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

async fn order(pipeline: &Pipeline, path: &str, body: Value) -> (StatusCode, Value) {
    asked(pipeline, Method::POST, path, Some(body)).await
}

/// What was done by the api, oldest first.
async fn actions(pipeline: &Pipeline) -> Vec<String> {
    let done = look(pipeline, "/v1/admin/actions?limit=100").await;
    let done = done["data"].as_array().unwrap();
    let done = done.iter().filter(|done| done["by"] == "api");
    let words = done.map(|done| {
        assert_eq!(done["reason"], "a test");
        done["action"].as_str().unwrap().to_owned()
    });
    words.rev().collect()
}

#[tokio::test]
async fn only_operators_operate_and_they_say_why() {
    let pipeline = Pipeline::start().await;
    for key in [
        pipeline.key.as_str(),
        "a key for operators, in tests onlx",
        "",
    ] {
        for path in ["/v1/admin/jobs", "/v1/admin/actions", "/v1/admin/workers"] {
            let request = pipeline.anonymous(Method::GET, path).bearer_auth(key);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        }
    }
    let tenant = pipeline.tenant;
    for (path, body) in [
        ("/v1/admin/pauses".to_owned(), json!({"everything": true})),
        ("/v1/admin/pauses".to_owned(), json!({"reason": "a test"})),
        (
            "/v1/admin/pauses".to_owned(),
            json!({"reason": "a test", "model": "dall-e"}),
        ),
        ("/v1/admin/jobs/cancel".to_owned(), json!({"reason": " "})),
        (
            "/v1/admin/jobs/redrive".to_owned(),
            json!({"reason": "a test", "limit": 1001}),
        ),
        (
            format!("/v1/admin/tenants/{tenant}/freeze"),
            json!({"reason": "x".repeat(501)}),
        ),
        (
            format!("/v1/admin/tenants/{tenant}/adjust"),
            json!({"reason": "a test", "credits": 0}),
        ),
    ] {
        let (status, problem) = order(&pipeline, &path, body).await;
        assert_eq!(
            status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{path}: {problem}"
        );
    }
    let nobody = common::id::TenantId::new();
    let (status, _) = order(
        &pipeline,
        &format!("/v1/admin/tenants/{nobody}/freeze"),
        json!({"reason": "a test"}),
    )
    .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(actions(&pipeline).await, Vec::<String>::new());
    pipeline.close().await;
}

/// Act and record are one transaction: no act without a line, and no line of an act that was refused.
#[tokio::test]
async fn what_is_done_for_a_tenant_stands_on_record_or_is_not_done() {
    let pipeline = Pipeline::start().await;
    let tenant = pipeline.tenant;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, database::Role::Api, 1)
        .await
        .unwrap();
    let job = pipeline.submit(&small_job()).await;
    pipeline.ended(&job).await;
    let job: JobId = job.parse().unwrap();
    let act = Act {
        by: "anna on studio-1",
        reason: "a test",
    };
    let (credits, until) = (
        Credits::new(30).unwrap(),
        clock::now() + Duration::from_hours(1),
    );
    let (support, kept) = (Purpose::Support, Retention::default());

    // The record refuses an act without a reason.
    let no_reason = Act { reason: "", ..act };
    let refused = tenants::add(&pool, no_reason, "Acme").await.map(|_| ());
    assert!(matches!(refused, Err(tenants::Refusal::Database(_))));
    let (before, grants) = (pipeline.balance().await, "SELECT count(*) FROM grants");
    for refused in [
        tenants::grant(&pool, no_reason, tenant, "again", credits)
            .await
            .map(|_| ()),
        tenants::add_key(&pool, no_reason, tenant, "ci")
            .await
            .map(|_| ()),
        tenants::retain(&pool, no_reason, tenant, kept).await,
        tenants::hold(&pool, no_reason, (tenant, job), support, until)
            .await
            .map(|_| ()),
    ] {
        assert!(
            matches!(refused, Err(tenants::Refusal::Database(_))),
            "{refused:?}"
        );
    }
    let count = async |of: &'static str| -> i64 {
        sqlx::query_scalar(of)
            .fetch_one(&pipeline.reader)
            .await
            .unwrap()
    };
    assert_eq!((count(grants).await, pipeline.balance().await), (1, before));
    for empty in [
        "SELECT count(*) FROM retention",
        "SELECT count(*) FROM holds",
    ] {
        assert_eq!(count(empty).await, 0, "{empty}");
    }
    let keys = "SELECT count(*) FROM api_keys";
    assert_eq!(
        (
            count("SELECT count(*) FROM tenants").await,
            count(keys).await
        ),
        (1, 1)
    );

    let grant = tenants::grant(&pool, act, tenant, "again", credits)
        .await
        .unwrap();
    let key = tenants::add_key(&pool, act, tenant, "ci").await.unwrap();
    tenants::revoke_key(&pool, act, tenant, &key.id)
        .await
        .unwrap();
    tenants::retain(&pool, act, tenant, kept).await.unwrap();
    let hold = tenants::hold(&pool, act, (tenant, job), support, until)
        .await
        .unwrap();
    tenants::lift(&pool, act, tenant, hold).await.unwrap();
    // Done before, or nothing there to do it to.
    tenants::grant(&pool, act, tenant, "again", credits)
        .await
        .unwrap_err();
    tenants::revoke_key(&pool, act, tenant, &key.id)
        .await
        .unwrap_err();
    tenants::lift(&pool, act, tenant, hold).await.unwrap_err();
    let done = look(&pipeline, "/v1/admin/actions?limit=100").await;
    let done = done["data"].as_array().unwrap().iter().rev();
    let done: Vec<(&str, &Value)> = done
        .filter(|done| done["by"] == act.by && done["reason"] == act.reason)
        .map(|done| (done["action"].as_str().unwrap(), &done["subject"]))
        .collect();
    let until = until.format(&Rfc3339).unwrap();
    assert_eq!(
        done,
        [
            (
                "grant",
                &json!({"tenant": tenant, "credits": 30, "source": "again", "grant": grant})
            ),
            (
                "add_key",
                &json!({"tenant": tenant, "key": key.id, "name": "ci"})
            ),
            ("revoke_key", &json!({"tenant": tenant, "key": key.id})),
            ("retention", &json!({"tenant": tenant, "retention": kept})),
            (
                "hold",
                &json!({"tenant": tenant, "hold": hold, "job": job, "purpose": "support", "until": until})
            ),
            ("lift", &json!({"tenant": tenant, "hold": hold, "job": job})),
        ]
    );
    let story = look(&pipeline, &format!("/v1/admin/jobs/{job}")).await;
    assert!(
        story
            .to_string()
            .contains("hold by anna on studio-1: a test"),
        "{story}"
    );
    pool.close().await;
    pipeline.close().await;
}

#[tokio::test]
async fn what_is_paused_waits_and_what_is_drained_starts_nothing() {
    let pipeline = Pipeline::start().await;
    let model = small_job()["model"].clone();
    let tenant = json!(pipeline.tenant);
    let worker = pipeline
        .until(Duration::from_secs(5), async || {
            let workers = look(&pipeline, "/v1/admin/workers").await;
            let name = workers["data"][0]["name"].as_str()?;
            Some(json!(name))
        })
        .await;
    for scope in [
        json!({"model": model}),
        json!({"tenant": tenant}),
        json!({"everything": true}),
        json!({"worker": worker}),
    ] {
        let mut body = scope.clone();
        body["reason"] = json!("a test");
        let (status, paused) = order(&pipeline, "/v1/admin/pauses", body).await;
        assert_eq!(status, StatusCode::CREATED, "{paused}");
        let id = pipeline.submit(&small_job()).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(pipeline.job(&id).await["state"], "queued", "{scope}");
        let pauses = look(&pipeline, "/v1/admin/pauses").await;
        assert_eq!(pauses["data"].as_array().unwrap().len(), 1, "{pauses}");

        let resume = format!("/v1/admin/pauses/{}/resume", paused["id"]);
        let (status, _) = order(&pipeline, &resume, json!({"reason": "a test"})).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        let (status, _) = order(&pipeline, &resume, json!({"reason": "a test"})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(pipeline.ended(&id).await["state"], "succeeded", "{scope}");
    }
    // Another's pause holds nobody else up.
    let (other, _) = pipeline.add_tenant(0).await;
    let body = json!({"tenant": other, "model": model, "reason": "a test"});
    let (status, _) = order(&pipeline, "/v1/admin/pauses", body).await;
    assert_eq!(status, StatusCode::CREATED);
    let id = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    assert_eq!(
        actions(&pipeline).await,
        [
            "pause", "resume", "pause", "resume", "pause", "resume", "drain", "resume", "pause"
        ]
    );
    pipeline.close().await;
}

#[tokio::test]
async fn a_failed_job_is_done_once_more_and_charged_only_for_what_it_delivers() {
    let pipeline = Pipeline::start().await;
    let (before, _) = pipeline.balance().await;
    let mut body = small_job();
    // The second request of these words is a good one.
    body["prompt"] = json!("[[fault:invalid*1]] a bottle");
    body["name"] = json!("the bottle");
    body["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    let failed = pipeline.submit(&body).await;
    assert_eq!(pipeline.ended(&failed).await["state"], "failed");
    let good = pipeline.submit(&small_job()).await;
    let price = pipeline.ended(&good).await["cost"]["captured"]
        .as_i64()
        .unwrap();

    let only = json!({"reason": "a test", "state": "failed", "dry_run": true});
    let (_, which) = order(&pipeline, "/v1/admin/jobs/redrive", only).await;
    assert_eq!(which["data"][0]["job"], json!(failed), "{which}");
    let again = json!({"reason": "a test", "ids": [failed, good], "state": "failed"});
    let (status, made) = order(&pipeline, "/v1/admin/jobs/redrive", again.clone()).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let made = made["data"].as_array().unwrap().clone();
    assert_eq!(made.len(), 1, "only what failed");
    let new = made[0]["new"].as_str().unwrap();
    let job = pipeline.ended(new).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["name"], "the bottle");
    let (_, twice) = order(&pipeline, "/v1/admin/jobs/redrive", again).await;
    assert_eq!(twice["data"][0]["new"], json!(new));
    assert!(twice["data"][0]["skipped"].is_string(), "{twice}");
    assert_eq!(pipeline.balance().await, (before - 2 * price, 0));

    let seen = look(&pipeline, &format!("/v1/admin/jobs/{new}")).await;
    assert_eq!(seen["redrive_of"], json!(failed));
    assert_eq!(seen["tenant"], json!(pipeline.tenant));
    let told = look(&pipeline, &format!("/v1/admin/jobs/{failed}")).await;
    let kinds: Vec<&str> = told["story"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["of"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "job", "transfer", "job", "call", "call", "transfer", "job", "operator", "job"
        ],
        "{told:#}"
    );
    assert!(!told.to_string().contains("a bottle"), "no prompt");
    let listed = look(&pipeline, "/v1/admin/jobs?outcome=bad_request").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    pipeline.close().await;
}

#[tokio::test]
async fn an_operator_ends_jobs_freezes_a_tenant_and_sets_its_credits_right() {
    let pipeline = Pipeline::start().await;
    let tenant = pipeline.tenant;
    let (before, _) = pipeline.balance().await;
    let pause = json!({"reason": "a test", "everything": true});
    let (_, paused) = order(&pipeline, "/v1/admin/pauses", pause).await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(pipeline.submit(&small_job()).await);
    }
    let cancel = json!({"reason": "a test", "tenant": tenant, "limit": 2});
    let (_, canceled) = order(&pipeline, "/v1/admin/jobs/cancel", cancel.clone()).await;
    assert_eq!(canceled["has_more"], true, "{canceled}");
    let (_, canceled) = order(&pipeline, "/v1/admin/jobs/cancel", cancel).await;
    assert_eq!(canceled["data"].as_array().unwrap().len(), 1);
    for id in &jobs {
        assert_eq!(pipeline.job(id).await["state"], "canceled");
    }
    assert_eq!(pipeline.balance().await, (before, 0));
    let resume = format!("/v1/admin/pauses/{}/resume", paused["id"]);
    order(&pipeline, &resume, json!({"reason": "a test"})).await;

    let path = |word: &str| format!("/v1/admin/tenants/{tenant}/{word}");
    let reason = json!({"reason": "a test"});
    order(&pipeline, &path("freeze"), reason.clone()).await;
    let (status, problem) = pipeline.post("/v1/jobs", &small_job()).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    order(&pipeline, &path("unfreeze"), reason).await;
    let id = pipeline.submit(&small_job()).await;
    let job = pipeline.ended(&id).await;
    let left = before - job["cost"]["captured"].as_i64().unwrap();

    for (credits, status) in [
        (100, StatusCode::NO_CONTENT),
        (-150, StatusCode::NO_CONTENT),
        (-100_000, StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let body = json!({"reason": "a test", "credits": credits});
        let (answered, problem) = order(&pipeline, &path("adjust"), body).await;
        assert_eq!(answered, status, "{problem}");
    }
    assert_eq!(pipeline.balance().await, (left - 50, 0));
    let (_, statement) = pipeline.get("/v1/credits/transfers?limit=2").await;
    assert_eq!(statement["data"][0]["kind"], "adjust", "{statement}");
    assert_eq!(
        actions(&pipeline).await,
        [
            "pause", "cancel", "cancel", "cancel", "resume", "freeze", "unfreeze", "adjust",
            "adjust"
        ]
    );
    pipeline.close().await;
}

#[tokio::test]
async fn the_operators_key_is_compared_exactly() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let (cut, longer) = (&OPERATOR_KEY[1..], format!("{OPERATOR_KEY}x"));
    for (shown, status) in [
        (format!("Bearer {OPERATOR_KEY}"), StatusCode::OK),
        (format!("bearer {OPERATOR_KEY}"), StatusCode::OK),
        (format!("Bearer  {OPERATOR_KEY}"), StatusCode::UNAUTHORIZED),
        (format!("Bearer {cut}"), StatusCode::UNAUTHORIZED),
        (format!("Bearer {longer}"), StatusCode::UNAUTHORIZED),
        ("Bearer ".to_owned(), StatusCode::UNAUTHORIZED),
        ("Bearer    ".to_owned(), StatusCode::UNAUTHORIZED),
    ] {
        let answer = pipeline
            .anonymous(Method::GET, "/v1/admin/pauses")
            .header("authorization", &shown)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{shown:?}");
    }
    pipeline.close().await;
}
