//! HTTP as clients and proxies use it: compression, headers, idempotency, downloads, links, and why a job waits.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::pipeline::small_job;
use tests::{Options, Pipeline};

/// Posts a body to `/v1/jobs` as JSON, with further headers.
async fn post(
    pipeline: &Pipeline,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Response {
    let mut all = HeaderMap::new();
    all.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        all.append(name, value.parse().unwrap());
    }
    let request = pipeline
        .request(Method::POST, "/v1/jobs")
        .headers(all)
        .body(body);
    request.send().await.unwrap()
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    (status, response.json().await.unwrap())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[tokio::test]
async fn a_body_may_be_compressed_and_a_bomb_is_refused() {
    let pipeline = Pipeline::start().await;
    let body = small_job().to_string();
    let send = async |coding: &str, body: Vec<u8>| {
        let headers = [
            ("content-encoding", coding),
            ("idempotency-key", "compressed"),
        ];
        read(post(&pipeline, &headers, body).await).await
    };
    let (status, job) = send("gzip", gzip(body.as_bytes())).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    assert_eq!(
        send("zstd", zstd(body.as_bytes())).await,
        (status, job.clone())
    );
    assert_eq!(
        send("identity", body.clone().into()).await.1["id"],
        job["id"]
    );
    for (coding, bytes, status, code) in [
        ("br", body.clone().into_bytes(), 415, "unsupported_encoding"),
        (
            "deflate",
            body.clone().into_bytes(),
            415,
            "unsupported_encoding",
        ),
        (
            "gzip, gzip",
            gzip(&gzip(body.as_bytes())),
            415,
            "unsupported_encoding",
        ),
        ("gzip", body.clone().into_bytes(), 400, "invalid_header"),
        ("gzip", gzip(&vec![b' '; 40_000_000]), 413, "body_too_large"),
        ("zstd", zstd(&vec![b' '; 40_000_000]), 413, "body_too_large"),
    ] {
        let (was, problem) = send(coding, bytes).await;
        assert_eq!(
            (was.as_u16(), &problem["code"]),
            (status, &json!(code)),
            "{coding}: {problem}"
        );
    }
    pipeline.ended(job["id"].as_str().unwrap()).await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_repeated_header_or_field_is_refused() {
    let pipeline = Pipeline::start().await;
    let body = small_job().to_string();
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let (status, problem) = read(post(&pipeline, &twice, body.clone()).await).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (400, &json!("invalid_header")),
        "{problem}"
    );
    for (body, pointer) in [
        (body.replacen('{', r#"{"prompt": "a bowl", "#, 1), "/prompt"),
        (
            body.replacen('{', r#"{"metadata": {"a": "1", "a": "2"}, "#, 1),
            "/metadata/a",
        ),
    ] {
        let (status, problem) = read(post(&pipeline, &[], body).await).await;
        assert_eq!(
            (status.as_u16(), &problem["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{problem}"
        );
    }
    pipeline.close().await;
}

#[tokio::test]
async fn a_quoted_key_is_the_same_and_a_repeat_waits() {
    let pipeline = Pipeline::start().await;
    pipeline.fake.faults().latency(400..=400);
    let body = small_job().to_string();
    let first = post(&pipeline, &[("idempotency-key", "abc")], body.clone()).await;
    assert_eq!(first.headers()["idempotency-key"], "abc");
    let (status, accepted) = read(first).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let headers = [
        ("idempotency-key", "\"abc\""),
        ("prefer", "respond-async"),
        ("prefer", "handling=lenient, wait=20;foo=\"a,b\""),
    ];
    for _ in 0..2 {
        let again = post(&pipeline, &headers, body.clone()).await;
        assert_eq!(again.headers()["idempotent-replayed"], "true");
        assert_eq!(
            again.headers()["preference-applied"],
            "respond-async, wait=20"
        );
        let (status, job) = read(again).await;
        assert_eq!(
            (status, &job["id"]),
            (StatusCode::OK, &accepted["id"]),
            "{job}"
        );
        assert_eq!(job["state"], "succeeded");
        assert_eq!(job["artifacts"].as_array().unwrap().len(), 3);
    }
    pipeline.close().await;
}

#[tokio::test]
async fn a_file_can_be_downloaded_in_parts() {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["name"] = json!("Größe 4/5 \"neu\"");
    let job = pipeline.ended(&pipeline.submit(&body).await).await;
    let url = job["artifacts"][0]["url"].as_str().unwrap();
    assert!(url.starts_with(&pipeline.url), "{url}");
    let whole = pipeline.download(url).await;
    let ask = async |method: Method, headers: &[(&'static str, &str)]| {
        let request = pipeline.anonymous(method, url);
        let request = headers.iter().fold(request, |request, &(name, value)| {
            request.header(name, value)
        });
        request.send().await.unwrap()
    };
    let head = ask(Method::HEAD, &[]).await;
    let (path, _) = url.split_once('?').unwrap();
    let (_, key) = path.split_once("/files/").unwrap();
    let tag = format!("\"{}\"", hex::encode(Sha256::digest(key)));
    for (name, value) in [
        ("etag", tag.as_str()),
        ("accept-ranges", "bytes"),
        ("content-type", "image/png"),
        ("x-content-type-options", "nosniff"),
        (
            "content-disposition",
            "attachment; filename=\"Gr__e 4-5 -neu.png\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%204-5%20-neu.png",
        ),
        ("content-length", &whole.len().to_string()),
    ] {
        assert_eq!(head.headers()[name], value, "{name}");
    }
    assert!(head.bytes().await.unwrap().is_empty());

    let (first, rest) = (
        ask(Method::GET, &[("range", "bytes=0-99")]).await,
        ask(Method::GET, &[("range", "bytes=100-"), ("if-range", &tag)]).await,
    );
    assert_eq!(
        (first.status(), rest.status()),
        (StatusCode::PARTIAL_CONTENT, StatusCode::PARTIAL_CONTENT)
    );
    assert_eq!(
        first.headers()["content-range"],
        format!("bytes 0-99/{}", whole.len()).as_str()
    );
    let joined = [first.bytes().await.unwrap(), rest.bytes().await.unwrap()].concat();
    assert_eq!(joined, whole);
    let had = ask(Method::GET, &[("if-none-match", &tag)]).await;
    assert_eq!(
        (had.status(), had.bytes().await.unwrap().len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    let behind = ask(Method::GET, &[("range", "bytes=999999999-")]).await;
    assert_eq!(
        behind.headers()["content-range"],
        format!("bytes */{}", whole.len()).as_str()
    );
    let (status, problem) = read(behind).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (416, &json!("range_not_satisfiable"))
    );

    // Ids are read in upper and lower case.
    let id = job["artifacts"][0]["id"].as_str().unwrap().to_uppercase();
    let (status, artifact) = pipeline.get(&format!("/v1/artifacts/{id}")).await;
    assert_eq!(
        (status, &artifact["id"]),
        (StatusCode::OK, &job["artifacts"][0]["id"])
    );
    // The signature covers the file name.
    let renamed = url.replace("name=Gr", "name=gr");
    let refused = pipeline
        .anonymous(Method::GET, &renamed)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    pipeline.close().await;
}

#[tokio::test]
async fn a_client_cannot_choose_the_host_of_links() {
    let poisoned = async |pipeline: &Pipeline, headers: &[(&str, &str)]| {
        let job = pipeline.ended(&pipeline.submit(&small_job()).await).await;
        let path = job["links"]["self"].as_str().unwrap();
        let request = pipeline.request(Method::GET, path);
        let request = headers.iter().fold(request, |request, &(name, value)| {
            request.header(name, value)
        });
        let (_, job) = read(request.send().await.unwrap()).await;
        job["artifacts"][0]["url"].as_str().unwrap().to_owned()
    };
    let said = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "studio.example"),
        ("host", "evil.example"),
    ];
    let nobody = Pipeline::start().await;
    assert!(poisoned(&nobody, &said).await.starts_with("/files/"));
    nobody.close().await;
    let behind = Pipeline::start_with(Options {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Options::default()
    })
    .await;
    assert!(
        poisoned(&behind, &said)
            .await
            .starts_with("https://studio.example/files/")
    );
    let said = [(
        "forwarded",
        "for=203.0.113.9;Proto=HTTPS;host=\"studio.example:8443\"",
    )];
    assert!(
        poisoned(&behind, &said)
            .await
            .starts_with("https://studio.example:8443/files/")
    );
    behind.close().await;
    let public = Pipeline::start_with(Options {
        public_url: Some("https://pictures.example/".to_owned()),
        ..Options::default()
    })
    .await;
    assert!(
        poisoned(&public, &said)
            .await
            .starts_with("https://pictures.example/files/")
    );
    public.close().await;
}

#[tokio::test]
async fn a_job_that_waits_says_why() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let waiting = async |id: &str| pipeline.job(id).await["waiting"].clone();
    let (first, second) = (
        pipeline.submit(&small_job()).await,
        pipeline.submit(&small_job()).await,
    );
    assert_eq!(waiting(&first).await["reason"], "turn");
    assert_eq!(
        waiting(&second).await["detail"],
        "One of your jobs comes first."
    );

    let mut later = small_job();
    let at = domain::clock::now() + Duration::from_hours(2);
    later["run_at"] = json!(
        at.format(&time::format_description::well_known::Rfc3339)
            .unwrap()
    );
    let later = pipeline.submit(&later).await;
    let planned = waiting(&later).await;
    assert_eq!(planned["reason"], "planned", "{planned}");
    assert_eq!(planned["retry_at"], pipeline.job(&later).await["run_after"]);

    let operate = async |path: &str, body: Value| {
        let request = pipeline
            .anonymous(Method::POST, path)
            .bearer_auth(tests::pipeline::OPERATOR_KEY);
        request.json(&body).send().await.unwrap()
    };
    let paused = operate(
        "/v1/admin/pauses",
        json!({"model": "gemini-nano-banana-2.1", "reason": "a secret"}),
    )
    .await;
    let (_, paused) = read(paused).await;
    let told = waiting(&first).await;
    assert_eq!(
        (&told["reason"], told.to_string().contains("secret")),
        (&json!("paused"), false),
        "{told}"
    );
    assert!(told["since"].is_string(), "{told}");
    let resume = format!("/v1/admin/pauses/{}/resume", paused["id"]);
    assert_eq!(
        operate(&resume, json!({"reason": "over"})).await.status(),
        StatusCode::NO_CONTENT
    );
    for id in [first, second, later] {
        let (_, job) = pipeline
            .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
            .await;
        assert_eq!(
            (&job["state"], &job["waiting"]),
            (&json!("canceled"), &Value::Null),
            "{job}"
        );
    }
    pipeline.close().await;
}
