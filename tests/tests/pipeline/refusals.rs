//! Refused requests: the answer is a problem that says why, and nothing is written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::{Options, Pipeline};

#[tokio::test]
async fn an_invalid_job_is_refused_with_a_reason() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let jpeg = STANDARD.encode(include_bytes!("../../../samples/product.jpg"));
    let with = |field: &str, value: Value| {
        let mut body = small_job();
        body[field] = value;
        body
    };
    let input = |data: &str, media_type: &str| json!([{"data": data, "media_type": media_type, "role": "product"}]);
    let cases = [
        (with("model", json!("dall-e")), 404, "unknown_model", ""),
        (with("size", json!("8K")), 422, "invalid_request", "/size"),
        (
            with("aspect_ratio", json!("5:7")),
            422,
            "invalid_request",
            "/aspect_ratio",
        ),
        (
            with("outputs", json!(5)),
            422,
            "invalid_request",
            "/outputs",
        ),
        (
            with("outputs", json!(0)),
            422,
            "invalid_request",
            "/outputs",
        ),
        (
            with("prompt", json!("   ")),
            422,
            "invalid_request",
            "/prompt",
        ),
        (
            with("prompt", json!("x".repeat(8_001))),
            422,
            "invalid_request",
            "/prompt",
        ),
        (
            with("format", json!("gif")),
            422,
            "invalid_request",
            "/format",
        ),
        (
            with("priority", json!(11)),
            422,
            "invalid_request",
            "/priority",
        ),
        (
            with("inputs", input("!!!", "image/png")),
            422,
            "invalid_request",
            "/inputs/0/data",
        ),
        (
            with("inputs", input(&STANDARD.encode("<svg/>"), "image/png")),
            422,
            "invalid_request",
            "/inputs/0/data",
        ),
        (
            with("inputs", input(&jpeg, "image/png")),
            422,
            "invalid_request",
            "/inputs/0/data",
        ),
        (
            with(
                "inputs",
                input(&STANDARD.encode(vec![0; 7 * 1024 * 1024 + 1]), "image/png"),
            ),
            422,
            "invalid_request",
            "/inputs/0/data",
        ),
        (
            json!({"model": "gemini-3.1-flash-lite-image", "prompt": "x", "size": "2K"}),
            422,
            "invalid_request",
            "/size",
        ),
    ];
    for (body, status, code, pointer) in cases {
        let (got, problem) = pipeline.post("/v1/jobs", &body).await;
        assert_eq!(
            (got.as_u16(), problem["code"].as_str()),
            (status, Some(code)),
            "{problem}"
        );
        assert!(
            problem["detail"].as_str().unwrap().len() > 5 && problem["request_id"].is_string(),
            "{problem}"
        );
        if !pointer.is_empty() {
            let pointers: Vec<&str> = problem["errors"]
                .as_array()
                .unwrap()
                .iter()
                .map(|error| error["pointer"].as_str().unwrap())
                .collect();
            assert_eq!(pointers, [pointer], "{problem}");
        }
    }
    assert_eq!(pipeline.balance().await, (1_000, 0));
    let left = tests::disk::objects(pipeline.bucket.path()).len();
    assert_eq!(left, 0, "a refused request leaves nothing in the bucket");
    pipeline.close().await;
}

#[tokio::test]
async fn a_malformed_request_is_refused_with_a_problem() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let post = |body: &'static str, content_type: &'static str| {
        pipeline
            .request(Method::POST, "/v1/jobs")
            .header("content-type", content_type)
            .body(body)
    };
    for (request, status) in [
        (post("{", "application/json"), 400),
        (post("{}", "text/plain"), 415),
        (
            post(
                r#"{"model":"gemini-3-pro-image","prompt":"x","colour":"red"}"#,
                "application/json",
            ),
            422,
        ),
        (pipeline.request(Method::GET, "/v1/nothing"), 404),
        (pipeline.request(Method::DELETE, "/v1/jobs"), 405),
        (
            pipeline.request(Method::GET, "/v1/jobs/art_00000000000000000000000000"),
            404,
        ),
        (pipeline.anonymous(Method::GET, "/v1/jobs"), 401),
        (
            pipeline
                .anonymous(Method::GET, "/v1/jobs")
                .bearer_auth("pk_nobody"),
            401,
        ),
        (
            pipeline
                .request(Method::POST, "/v1/jobs")
                .header("idempotency-key", "")
                .json(&small_job()),
            422,
        ),
        (
            pipeline
                .request(Method::POST, "/v1/jobs")
                .header("cancel-after", "soon")
                .json(&small_job()),
            422,
        ),
        (pipeline.request(Method::GET, "/v1/jobs?limit=0"), 422),
    ] {
        let response = request.send().await.unwrap();
        let url = response.url().clone();
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json",
            "{url}"
        );
        let got = response.status().as_u16();
        let problem: Value = response.json().await.unwrap();
        assert!(
            got == status || (got == 400 && status == 422),
            "{url}: {got} {problem}"
        );
        assert!(
            problem["code"].is_string() && problem["detail"].is_string(),
            "{problem}"
        );
    }
    pipeline.close().await;
}

#[tokio::test]
async fn without_enough_credits_the_answer_says_what_is_missing() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        credits: 5,
        ..Options::default()
    })
    .await;
    let (status, problem) = pipeline.post("/v1/jobs", &small_job()).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::PAYMENT_REQUIRED, Some("insufficient_credits")),
        "{problem}"
    );
    assert_eq!(
        (problem["needed"].as_i64(), problem["available"].as_i64()),
        (Some(6), Some(5)),
        "{problem}"
    );
    assert_eq!(pipeline.balance().await, (5, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn a_dry_run_quotes_and_writes_nothing() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let mut body = small_job();
    body["outputs"] = json!(3);
    let (status, quote) = pipeline.post("/v1/jobs?dry_run=true", &body).await;
    assert_eq!(
        (status, quote["cost"]["held"].as_i64()),
        (StatusCode::OK, Some(18)),
        "{quote}"
    );
    assert_eq!(pipeline.balance().await, (1_000, 0));
    let (_, jobs) = pipeline.get("/v1/jobs").await;
    assert_eq!(jobs["data"], json!([]));
    pipeline.close().await;
}
