//! From HTTP to settled credit.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::generation::image::{MediaType, Pixels};
use imaging::inspect;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::{Options, Pipeline};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

#[tokio::test]
async fn a_product_photo_becomes_a_picture_of_exactly_the_asked_size() {
    let pipeline = Pipeline::start().await;
    let id = pipeline
        .submit(&json!({
            "model": "gemini-3-pro-image",
            "prompt": "the bottle on wet slate, soft window light",
            "art_direction": "calm, natural, no text",
            "inputs": [{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}],
            "aspect_ratio": "4:5", "size": "2K", "format": "png", "seed": 7,
            "name": "hero shot", "metadata": {"sku": "A-1"},
        }))
        .await;
    let job = pipeline.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(
        job["cost"],
        json!({"unit_price": 24, "price_version": "2026-05-28", "held": 24, "captured": 24, "released": 0, "refunded": 0})
    );
    assert_eq!(
        (job["name"].as_str(), job["metadata"]["sku"].as_str()),
        (Some("hero shot"), Some("A-1"))
    );
    assert_eq!(pipeline.balance().await, (976, 0));

    let rendition = artifact(&job, "rendition");
    assert_eq!(
        (rendition["width"].as_u64(), rendition["height"].as_u64()),
        (Some(1856), Some(2304))
    );
    assert_eq!(rendition["synthetic"], true);
    let bytes = pipeline.download(rendition["url"].as_str().unwrap()).await;
    assert_eq!(
        inspect(&bytes),
        Ok((
            MediaType::Png,
            Pixels {
                width: 1856,
                height: 2304
            }
        ))
    );

    let calls = pipeline.fake.journal().calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].labels["job"], id);
    pipeline.close().await;
}

#[tokio::test]
async fn every_format_and_size_is_what_it_says() {
    let pipeline = Pipeline::start().await;
    for (format, media_type, size, ratio, width, height) in [
        ("jpeg", MediaType::Jpeg, "1K", "16:9", 1376, 768),
        ("webp", MediaType::Webp, "1K", "1:1", 1024, 1024),
        ("png", MediaType::Png, "1K", "9:16", 768, 1376),
    ] {
        let mut body = small_job();
        (body["format"], body["size"], body["aspect_ratio"]) =
            (json!(format), json!(size), json!(ratio));
        let job = pipeline.ended(&pipeline.submit(&body).await).await;
        let bytes = pipeline
            .download(artifact(&job, "rendition")["url"].as_str().unwrap())
            .await;
        assert_eq!(
            inspect(&bytes),
            Ok((media_type, Pixels { width, height })),
            "{format} {size} {ratio}"
        );
    }
    pipeline.close().await;
}

#[tokio::test]
async fn four_outputs_are_four_calls_and_four_prices() {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["outputs"] = json!(4);
    let job = pipeline.ended(&pipeline.submit(&body).await).await;
    assert_eq!(
        (job["state"].as_str(), job["delivered"].as_i64()),
        (Some("succeeded"), Some(4)),
        "{job}"
    );
    assert_eq!(job["cost"]["captured"], 24);
    assert_eq!(pipeline.fake.journal().count(), 4);
    assert_eq!(pipeline.balance().await, (976, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn whoever_prefers_to_wait_gets_the_finished_job() {
    let pipeline = Pipeline::start().await;
    let response = pipeline
        .request(Method::POST, "/v1/jobs")
        .header("prefer", "wait=30")
        .json(&small_job())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["preference-applied"], "wait=30");
    let job: Value = response.json().await.unwrap();
    assert_eq!(job["state"], "succeeded", "{job}");
    pipeline.close().await;
}

#[tokio::test]
async fn the_list_shows_the_newest_first_and_continues_where_it_stopped() {
    let pipeline = Pipeline::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(pipeline.submit(&small_job()).await);
    }
    ids.reverse();
    let listed = |page: &Value| -> Vec<String> {
        page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, first) = pipeline.get("/v1/jobs?limit=2").await;
    assert_eq!(
        (listed(&first), first["has_more"].as_bool()),
        (ids[..2].to_vec(), Some(true))
    );
    let (_, second) = pipeline
        .get(&format!("/v1/jobs?limit=2&starting_after={}", ids[1]))
        .await;
    assert_eq!(
        (listed(&second), second["has_more"].as_bool()),
        (ids[2..].to_vec(), Some(false))
    );
    for id in &ids {
        pipeline.ended(id).await;
    }
    let (_, none) = pipeline.get("/v1/jobs?state=failed").await;
    assert!(listed(&none).is_empty());
    pipeline.close().await;
}

#[tokio::test]
async fn a_job_canceled_while_it_waits_or_runs_costs_nothing() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let waiting = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.balance().await, (994, 6));
    let (status, job) = pipeline
        .post(&format!("/v1/jobs/{waiting}/cancel"), &json!({}))
        .await;
    assert_eq!(
        (status, job["state"].as_str()),
        (StatusCode::OK, Some("canceled")),
        "{job}"
    );
    assert_eq!(pipeline.balance().await, (1_000, 0));

    pipeline.fake.faults().latency(1_500..=1_500);
    pipeline.start_worker().await;
    let running = pipeline.submit(&small_job()).await;
    pipeline
        .until(
            "the job is running",
            std::time::Duration::from_secs(5),
            async || (pipeline.job(&running).await["state"] == "running").then_some(()),
        )
        .await;
    let (status, _) = pipeline
        .post(&format!("/v1/jobs/{running}/cancel"), &json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(pipeline.balance().await, (1_000, 0));
    let (status, problem) = pipeline
        .post(&format!("/v1/jobs/{running}/cancel"), &json!({}))
        .await;
    assert_eq!(
        (status, problem["state"].as_str()),
        (StatusCode::OK, Some("canceled")),
        "canceling twice is canceling once"
    );
    pipeline.close().await;
}

#[tokio::test]
async fn a_job_past_its_deadline_is_given_back() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let response = pipeline
        .request(Method::POST, "/v1/jobs")
        .header("cancel-after", "1s")
        .json(&small_job())
        .send()
        .await
        .unwrap();
    let job: Value = response.json().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    pipeline.start_worker().await;
    let job = pipeline.ended(job["id"].as_str().unwrap()).await;
    assert_eq!(
        (job["state"].as_str(), job["cost"]["released"].as_i64()),
        (Some("expired"), Some(6)),
        "{job}"
    );
    assert_eq!(pipeline.balance().await, (1_000, 0));
    pipeline.close().await;
}

fn artifact<'a>(job: &'a Value, role: &str) -> &'a Value {
    job["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|artifact| artifact["role"] == role)
        .unwrap()
}
