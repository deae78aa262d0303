//! What operators do: seen in one place, explained, and kept; and the books close.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::people::operator::once::{self, OperatorRequest};
use common::people::operator::{self, tenants};
use domain::api_key::KeyTerms;
use domain::clock;
use domain::credits::Credits;
use domain::id::JobId;
use domain::idempotency::{self, Request};
use domain::operator::Actor;
use domain::permission::{Permission, Permissions};
use domain::retention::{Purpose, Retention};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgPool};
use storage::database;
use storage::jobs::Search;
use tests::pipeline::{OPERATOR_KEY, small_job};
use tests::{Options, Pipeline};
use time::OffsetDateTime;
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
    let nobody = domain::id::TenantId::new();
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

/// The record refuses an act without a reason, and nothing is done.
async fn nothing_is_done_without_a_reason(pipeline: &Pipeline, pool: &PgPool, job: JobId) {
    let tenant = pipeline.tenant;
    let no_reason = Actor {
        by: "anna on studio-1",
        reason: "",
    };
    let (credits, until) = (
        Credits::new(30).unwrap(),
        clock::now() + Duration::from_hours(1),
    );
    let (support, kept) = (Purpose::Support, Retention::default());
    let refused = tenants::add(pool, no_reason, "Acme").await.map(|_| ());
    assert!(matches!(refused, Err(tenants::TenantError::Database(_))));
    let (before, grants) = (pipeline.balance().await, "SELECT count(*) FROM grants");
    for refused in [
        tenants::grant(pool, no_reason, tenant, "again", credits)
            .await
            .map(|_| ()),
        tenants::add_key(pool, no_reason, tenant, &KeyTerms::named("ci"))
            .await
            .map(|_| ()),
        tenants::set_retention(pool, no_reason, tenant, kept).await,
        tenants::add_legal_hold(pool, no_reason, (tenant, job), support, until)
            .await
            .map(|_| ()),
    ] {
        assert!(
            matches!(refused, Err(tenants::TenantError::Database(_))),
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
}

/// Act and record are one transaction: no act without a line, and no line of an act that was refused.
#[tokio::test]
async fn what_is_done_for_a_tenant_stands_on_record_or_is_not_done() {
    let pipeline = Pipeline::start().await;
    let tenant = pipeline.tenant;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, database::DatabaseRole::Api, 1)
        .await
        .unwrap();
    let job = pipeline.submit(&small_job()).await;
    pipeline.ended(&job).await;
    let job: JobId = job.parse().unwrap();
    let act = Actor {
        by: "anna on studio-1",
        reason: "a test",
    };
    let (credits, until) = (
        Credits::new(30).unwrap(),
        clock::now() + Duration::from_hours(1),
    );
    let (support, kept) = (Purpose::Support, Retention::default());

    nothing_is_done_without_a_reason(&pipeline, &pool, job).await;
    let grant = tenants::grant(&pool, act, tenant, "again", credits)
        .await
        .unwrap();
    let terms = KeyTerms::with_scopes("ci", Permissions::from_iter([Permission::JobsRead]));
    let key = tenants::add_key(&pool, act, tenant, &terms).await.unwrap();
    tenants::revoke_key(&pool, act, tenant, &key.id)
        .await
        .unwrap();
    tenants::set_retention(&pool, act, tenant, kept)
        .await
        .unwrap();
    let hold = tenants::add_legal_hold(&pool, act, (tenant, job), support, until)
        .await
        .unwrap();
    tenants::remove_legal_hold(&pool, act, tenant, hold)
        .await
        .unwrap();
    // Done before, or nothing there to do it to.
    tenants::grant(&pool, act, tenant, "again", credits)
        .await
        .unwrap_err();
    tenants::revoke_key(&pool, act, tenant, &key.id)
        .await
        .unwrap_err();
    tenants::remove_legal_hold(&pool, act, tenant, hold)
        .await
        .unwrap_err();
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
                &json!({"tenant": tenant, "key": key.id, "name": "ci", "scopes": ["jobs:read"]})
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
        .until("a worker has a job", Duration::from_secs(5), async || {
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
            "job", "transfer", "job", "call", "call", "transfer", "job", "job", "operator"
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

/// Sends a POST with a key: status, whether it was answered before, and the answer byte for byte.
async fn keyed(
    pipeline: &Pipeline,
    key: &str,
    path: &str,
    body: &Value,
) -> (StatusCode, bool, Vec<u8>) {
    let request = pipeline.anonymous(Method::POST, path);
    let request = request.bearer_auth(OPERATOR_KEY).json(body);
    let answer = request.header("Idempotency-Key", key).send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers());
    assert_eq!(headers.contains_key("idempotency-key"), status.is_success());
    let replayed = headers.contains_key("idempotent-replayed");
    (status, replayed, answer.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn what_an_operator_repeats_with_a_key_is_done_once() {
    let pipeline = Pipeline::start().await;
    let tenant = pipeline.tenant;
    let mut body = small_job();
    body["prompt"] = json!("[[fault:invalid*1]] a bottle");
    let failed = pipeline.submit(&body).await;
    assert_eq!(pipeline.ended(&failed).await["state"], "failed");
    let (before, _) = pipeline.balance().await;
    let of_tenant = |word: &str| format!("/v1/admin/tenants/{tenant}/{word}");
    let why = |mut body: Value| {
        body["reason"] = json!("a test");
        body
    };
    let orders = [
        ("adjust", of_tenant("adjust"), why(json!({"credits": 24}))),
        ("freeze", of_tenant("freeze"), why(json!({}))),
        ("unfreeze", of_tenant("unfreeze"), why(json!({}))),
        (
            "pause",
            "/v1/admin/pauses".to_owned(),
            why(json!({"everything": true})),
        ),
        (
            "resume",
            "/v1/admin/pauses/1/resume".to_owned(),
            why(json!({})),
        ),
        (
            "redrive",
            "/v1/admin/jobs/redrive".to_owned(),
            why(json!({"ids": [failed]})),
        ),
    ];
    for (key, path, body) in &orders {
        let (status, replayed, first) = keyed(&pipeline, key, path, body).await;
        assert!(status.is_success() && !replayed, "{key}: {status}");
        let (again, replayed, second) = keyed(&pipeline, key, path, body).await;
        assert_eq!((again, replayed, &second), (status, true, &first), "{key}");
        let mut other = body.clone();
        other["reason"] = json!("another");
        let (status, _, problem) = keyed(&pipeline, key, path, &other).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{key}");
        let problem = String::from_utf8(problem).unwrap();
        assert!(
            problem.contains("idempotency_key_reused"),
            "{key}: {problem}"
        );
    }
    pipeline.drained(Duration::from_secs(20)).await;
    let (after, _) = pipeline.balance().await;
    assert!(
        after < before + 24,
        "the job that was done once more is charged"
    );

    // A cancellation by filter, repeated, is for the jobs of the first, and not for those that came meanwhile.
    keyed(&pipeline, "pause-again", "/v1/admin/pauses", &orders[3].2).await;
    let first = pipeline.submit(&small_job()).await;
    let cancel = why(json!({"tenant": tenant}));
    let (_, replayed, one) = keyed(&pipeline, "end", "/v1/admin/jobs/cancel", &cancel).await;
    assert!(!replayed && String::from_utf8_lossy(&one).contains(&first));
    let second = pipeline.submit(&small_job()).await;
    let (_, replayed, two) = keyed(&pipeline, "end", "/v1/admin/jobs/cancel", &cancel).await;
    assert!(replayed);
    assert_eq!(one, two);
    assert_eq!(pipeline.job(&second).await["state"], "queued");
    keyed(&pipeline, "end-the-rest", "/v1/admin/jobs/cancel", &cancel).await;

    // Side by side it is one, whoever comes first.
    let (before, _) = pipeline.balance().await;
    let gift = why(json!({"credits": 7}));
    let path = of_tenant("adjust");
    let gifts = (0..8).map(|_| keyed(&pipeline, "a-gift", &path, &gift));
    let answers = futures::future::join_all(gifts).await;
    assert!(
        answers
            .iter()
            .all(|(status, ..)| *status == StatusCode::NO_CONTENT)
    );
    assert_eq!(
        answers.iter().filter(|(_, replayed, _)| !replayed).count(),
        1
    );
    assert_eq!(pipeline.balance().await, (before + 7, 0));
    assert_eq!(
        actions(&pipeline).await,
        [
            "adjust", "freeze", "unfreeze", "pause", "resume", "redrive", "pause", "cancel",
            "cancel", "adjust"
        ]
    );
    pipeline.close().await;
}

/// A request for many jobs that broke off after the first goes on with the same jobs, and says of each that it is done.
#[tokio::test]
async fn a_request_for_many_jobs_that_broke_off_goes_on_with_the_same() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, database::DatabaseRole::Api, 2)
        .await
        .unwrap();
    let mut chosen = Vec::new();
    for _ in 0..2 {
        let id = pipeline.submit(&small_job()).await;
        chosen.push(id.parse::<JobId>().unwrap());
    }
    let body = json!({"reason": "a test", "tenant": pipeline.tenant});
    let request = Request {
        key: "broken".to_owned(),
        hash: idempotency::request_hash(
            "POST",
            "/v1/admin/jobs/cancel",
            body.to_string().as_bytes(),
        ),
    };
    let once::BulkStart::New(choosing) = once::begin_many(&pool, &request).await.unwrap() else {
        panic!("it is new");
    };
    once::choose(choosing, &request, &chosen, true)
        .await
        .unwrap();
    let order = OperatorRequest {
        actor: Actor {
            by: "api",
            reason: "a test",
        },
        request: &request,
    };
    let search = Search {
        ids: Some(chosen.clone()),
        ..Search::default()
    };
    let jobs = storage::jobs::search(&pipeline.reader, &search, 2)
        .await
        .unwrap();
    operator::cancel(&pool, order, &jobs[0]).await.unwrap();
    let later = pipeline.submit(&small_job()).await;

    let (status, replayed, answer) =
        keyed(&pipeline, "broken", "/v1/admin/jobs/cancel", &body).await;
    assert_eq!((status, replayed), (StatusCode::OK, false));
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["has_more"], true, "{answer}");
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 2, "{answer}");
    assert!(data.iter().all(|job| job["skipped"].is_null()), "{answer}");
    assert_eq!(pipeline.job(&later).await["state"], "queued");
    assert_eq!(actions(&pipeline).await, ["cancel", "cancel"]);
    let rest = json!({"reason": "a test"});
    keyed(&pipeline, "rest", "/v1/admin/jobs/cancel", &rest).await;
    pool.close().await;
    pipeline.close().await;
}

#[tokio::test]
async fn jobs_are_found_by_the_time_of_their_submit() {
    let pipeline = Pipeline::start().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job: JobId = pipeline.submit(&small_job()).await.parse().unwrap();
        let at = sqlx::query_scalar("SELECT created_at FROM jobs WHERE id = $1");
        let at: OffsetDateTime = at.bind(job).fetch_one(&pipeline.reader).await.unwrap();
        jobs.push((job, at));
    }
    let [(first, _), (second, second_at), (third, third_at)] = jobs[..] else {
        panic!("three were submitted");
    };
    let found = async |since: Option<OffsetDateTime>, before: Option<OffsetDateTime>, after| {
        let search = Search {
            since,
            before,
            after,
            ..Search::default()
        };
        let found = storage::jobs::search(&pipeline.reader, &search, 10).await;
        let ids = found.unwrap().into_iter().map(|job| job.id);
        ids.collect::<Vec<JobId>>()
    };
    let long = time::Duration::hours(2);
    let (before_all, after_all) = (second_at - long, second_at + long);
    assert_eq!(found(Some(second_at), None, None).await, [third, second]);
    assert_eq!(found(None, Some(second_at), None).await, [first]);
    assert_eq!(found(Some(second_at), Some(third_at), None).await, [second]);
    assert_eq!(found(None, Some(third_at), Some(second)).await, [first]);
    assert_eq!(
        found(Some(before_all), Some(after_all), None).await,
        [third, second, first]
    );
    assert!(found(Some(after_all), None, None).await.is_empty());
    assert!(found(None, Some(before_all), None).await.is_empty());
    for (job, _) in jobs {
        pipeline.ended(&job.to_string()).await;
    }
    pipeline.close().await;
}

/// Redrives side by side: one makes the job, the others name it, record nothing, and leave no copy of an input behind.
#[tokio::test]
async fn of_redrives_side_by_side_one_happens_and_the_others_leave_nothing() {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["prompt"] = json!("[[fault:invalid*1]] a bottle");
    body["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    let failed = pipeline.submit(&body).await;
    assert_eq!(pipeline.ended(&failed).await["state"], "failed");
    let redrive = json!({"reason": "a test", "ids": [failed]});
    let redrives = (0..8).map(|_| order(&pipeline, "/v1/admin/jobs/redrive", redrive.clone()));
    let answers = futures::future::join_all(redrives).await;
    let outcomes: Vec<Value> = answers
        .into_iter()
        .map(|(status, answer)| {
            assert_eq!(status, StatusCode::OK, "{answer}");
            answer["data"][0].clone()
        })
        .collect();
    let done: Vec<&Value> = outcomes
        .iter()
        .filter(|one| one["skipped"].is_null())
        .collect();
    assert_eq!(done.len(), 1, "{outcomes:?}");
    let new = done[0]["new"].as_str().unwrap();
    assert!(outcomes.iter().all(|one| one["new"] == new), "{outcomes:?}");
    assert_eq!(pipeline.ended(new).await["state"], "succeeded");
    assert_eq!(actions(&pipeline).await, ["redrive"]);
    let (nobodys, seen) = pipeline.deep(Duration::ZERO).await;
    assert_eq!(nobodys, [], "{seen:?}");
    pipeline.close().await;
}

/// What cannot be counted is not given: a job that holds credits can always be ended.
#[tokio::test]
async fn no_wallet_comes_near_to_what_cannot_be_counted() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let path = format!("/v1/admin/tenants/{}/adjust", pipeline.tenant);
    let job = pipeline.submit(&small_job()).await;
    for (credits, expected) in [
        (i64::MAX, StatusCode::UNPROCESSABLE_ENTITY),
        (-i64::MAX, StatusCode::UNPROCESSABLE_ENTITY),
        (1_000_000_000_001, StatusCode::UNPROCESSABLE_ENTITY),
        (1_000_000_000_000, StatusCode::NO_CONTENT),
        (-1_000_000_000_000, StatusCode::NO_CONTENT),
    ] {
        let body = json!({"reason": "a test", "credits": credits});
        let (status, problem) = order(&pipeline, &path, body).await;
        assert_eq!(status, expected, "{credits}: {problem}");
    }
    // And so says the database, to whoever writes; but not to what makes a wallet no larger.
    let mut owner = pipeline.owner().await;
    for refused in [
        "INSERT INTO grants (id, tenant_id, source_type, source_id, amount, remaining)
         SELECT gen_random_uuid(), tenant_id, 'promo', 'x', 1000000000001, 1000000000001 FROM wallets",
        "UPDATE wallets SET available = 1000000000000001",
        "INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
         SELECT tenant_id, 99, 'a', 'b', 1000000000001, 'adjust', 'x', now(), sha256('x') FROM wallets",
    ] {
        let says = owner.execute(refused).await.unwrap_err().to_string();
        assert!(says.contains("bounded"), "{refused}: {says}");
    }
    let mut older = owner.begin().await.unwrap();
    let large = "SET LOCAL session_replication_role = replica; UPDATE wallets SET available = 9000000000000000000; SET LOCAL session_replication_role = origin";
    older.execute(large).await.unwrap();
    let settled = "UPDATE wallets SET available = available + held, held = 0";
    older.execute(settled).await.unwrap();
    older.rollback().await.unwrap();
    owner.close().await.unwrap();
    let cancel = format!("/v1/jobs/{job}/cancel");
    assert_eq!(pipeline.post(&cancel, &json!({})).await.0, StatusCode::OK);
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
