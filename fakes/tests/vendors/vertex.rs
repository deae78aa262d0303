//! Vertex AI: valid and invalid requests, images, and failures.

use super::{every_common_fault_is_played, size};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE},
};
use fakes::{Fake, Fault, Latency, Options, Switches};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PRO: &str = "gemini-3-pro-image";

struct Caller {
    fake: Fake,
    http: reqwest::Client,
}

impl Caller {
    async fn new() -> Self {
        let fake = Fake::start(Options::default()).await.unwrap();
        let http = reqwest::Client::builder().build().unwrap();
        Self { fake, http }
    }

    fn url(&self, model: &str) -> String {
        format!(
            "{}/v1/projects/p/locations/global/publishers/google/models/{model}:generateContent",
            self.fake.base_url()
        )
    }

    async fn send(&self, model: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        let request = self.http.post(self.url(model)).bearer_auth("token");
        request.json(body).send().await
    }

    async fn ask(&self, model: &str, body: &Value) -> (u16, Value) {
        let response = self.send(model, body).await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

fn request(prompt: &str, image: Value) -> Value {
    json!({
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"responseModalities": ["TEXT", "IMAGE"], "imageConfig": image, "seed": 7},
        "labels": {"job": "job_1", "call": "call_1"},
    })
}

/// The bytes of the result: the last image that is not a thought.
fn picture(reply: &Value) -> Vec<u8> {
    let parts = reply["candidates"][0]["content"]["parts"]
        .as_array()
        .unwrap();
    let part = parts
        .iter()
        .rev()
        .find(|part| part["thought"] != true && !part["inlineData"].is_null())
        .unwrap();
    let data = part["inlineData"]["data"].as_str().unwrap();
    BASE64_STANDARD.decode(data).unwrap()
}

#[tokio::test]
async fn every_ratio_has_its_exact_size() {
    let caller = Caller::new().await;
    for (ratio, width, height) in [
        ("1:1", 1024, 1024),
        ("2:3", 848, 1264),
        ("3:2", 1264, 848),
        ("3:4", 896, 1200),
        ("4:3", 1200, 896),
        ("4:5", 928, 1152),
        ("5:4", 1152, 928),
        ("9:16", 768, 1376),
        ("16:9", 1376, 768),
        ("21:9", 1584, 672),
        ("1:4", 512, 2048),
        ("8:1", 3072, 384),
    ] {
        let body = request("A cup", json!({"aspectRatio": ratio, "imageSize": "1K"}));
        let (status, reply) = caller.ask("gemini-3.1-flash-image", &body).await;
        assert_eq!(
            (status, size(&picture(&reply))),
            (200, (width, height)),
            "{ratio}"
        );
    }
    let body = request("A cup", json!({"aspectRatio": "4:5", "imageSize": "2K"}));
    let (_, reply) = caller.ask(PRO, &body).await;
    assert_eq!(size(&picture(&reply)), (1856, 2304));
    let body = request("A cup", json!({"aspectRatio": "4:5"}));
    let (_, reply) = caller.ask("gemini-2.5-flash-image", &body).await;
    assert_eq!(size(&picture(&reply)), (896, 1152));
}

#[tokio::test]
async fn a_good_reply_has_thoughts_signature_and_usage() {
    let caller = Caller::new().await;
    let output = json!({"imageSize": "1K", "imageOutputOptions": {"mimeType": "image/jpeg", "compressionQuality": 80}});
    let (status, reply) = caller.ask(PRO, &request("A cup on linen", output)).await;
    assert_eq!(status, 200);
    let candidate = &reply["candidates"][0];
    assert_eq!(candidate["finishReason"], "STOP");
    let parts = candidate["content"]["parts"].as_array().unwrap();
    assert_eq!(parts[0]["thought"], true);
    let last = parts.last().unwrap();
    assert_eq!(last["inlineData"]["mimeType"], "image/jpeg");
    assert!(last["thoughtSignature"].is_string());
    assert_eq!(
        image::guess_format(&picture(&reply)).unwrap(),
        image::ImageFormat::Jpeg
    );
    let usage = &reply["usageMetadata"];
    assert_eq!(usage["candidatesTokenCount"], 1120);
    assert_eq!(usage["totalTokenCount"], 4 + 240 + 1120);
    assert_eq!(usage["trafficType"], "ON_DEMAND");
    assert_eq!(reply["modelVersion"], PRO);
    assert!(reply["responseId"].is_string() && reply["createTime"].is_string());
}

#[tokio::test]
async fn the_same_request_draws_the_same_picture() {
    let caller = Caller::new().await;
    let seeded = request("A cup", json!({}));
    let (_, first) = caller.ask(PRO, &seeded).await;
    let mut relabelled = seeded.clone();
    relabelled["labels"]["call"] = "call_2".into();
    let (_, second) = caller.ask(PRO, &relabelled).await;
    assert_eq!(picture(&first), picture(&second));
    assert_ne!(first["responseId"], second["responseId"]);

    let mut unseeded = relabelled.clone();
    unseeded["generationConfig"]
        .as_object_mut()
        .unwrap()
        .remove("seed");
    let (_, third) = caller.ask(PRO, &unseeded).await;
    unseeded["labels"]["call"] = "call_3".into();
    let (_, fourth) = caller.ask(PRO, &unseeded).await;
    assert_ne!(
        picture(&third),
        picture(&fourth),
        "without a seed each output differs"
    );
}

#[tokio::test]
async fn photos_are_drawn_and_decide_a_missing_ratio() {
    let caller = Caller::new().await;
    let photo = image::RgbImage::from_fn(320, 180, |x, y| {
        let inside = (100..220).contains(&x) && (30..150).contains(&y);
        image::Rgb(if inside {
            [200, 20, 30]
        } else {
            [250, 250, 250]
        })
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    photo.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    // Google's Python client writes URL-safe base64, ours standard base64. The protocol accepts both.
    let data = BASE64_URL_SAFE.encode(bytes.into_inner());
    let mut body = request("A red box", json!({}));
    let parts = body["contents"][0]["parts"].as_array_mut().unwrap();
    parts.push(json!({"text": "Product photo:"}));
    parts.push(json!({"inlineData": {"mimeType": "image/png", "data": data}}));
    let (status, reply) = caller.ask(PRO, &body).await;
    assert_eq!(status, 200);
    let drawn = image::load_from_memory(&picture(&reply)).unwrap().to_rgb8();
    assert_eq!(drawn.dimensions(), (1376, 768));
    assert!(
        drawn
            .pixels()
            .filter(|pixel| pixel.0 == [200, 20, 30])
            .count()
            > 20_000
    );

    let journal = caller.fake.journal();
    let call = &journal.calls()[0];
    let described = &call.body["contents"][0]["parts"][2]["inlineData"]["data"];
    assert!(described["bytes"].as_u64().unwrap() > 100);
    let raw: Value = serde_json::from_slice(&journal.raw_body(call.number).unwrap()).unwrap();
    assert_eq!(raw, body);
}

#[tokio::test]
async fn photos_of_any_shape_are_drawn() {
    let caller = Caller::new().await;
    for (width, height) in [
        (1, 1),
        (1, 4000),
        (30, 4999),
        (4999, 75),
        (7, 7),
        (333, 777),
    ] {
        let photo = image::RgbImage::from_fn(width, height, |x, y| {
            let inside = x > width / 3 && y > height / 2;
            image::Rgb(if inside { [9, 20, 30] } else { [250, 250, 250] })
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        photo.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let data = BASE64_STANDARD.encode(bytes.into_inner());
        let mut body = request("A shape", json!({"aspectRatio": "1:1"}));
        let parts = body["contents"][0]["parts"].as_array_mut().unwrap();
        for caption in ["Product photo:", "Style reference:"] {
            parts.push(json!({"text": caption}));
            parts.push(json!({"inlineData": {"mimeType": "image/png", "data": data}}));
        }
        assert_eq!(caller.ask(PRO, &body).await.0, 200, "{width} by {height}");
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_in_the_words_of_google() {
    let caller = Caller::new().await;
    let refused = |patch: fn(&mut Value)| {
        let mut body = request("A cup", json!({"imageSize": "1K"}));
        patch(&mut body);
        body
    };
    for (body, words) in [
        (
            refused(|body| body["prompt"] = "A cup".into()),
            "Unknown name \"prompt\": Cannot find field.",
        ),
        (
            refused(|body| body["generationConfig"]["imageConfig"]["size"] = "1K".into()),
            "Unknown name \"size\" at 'generation_config.image_config': Cannot find field.",
        ),
        (
            refused(|body| body["generationConfig"]["imageConfig"]["prominentPeople"] = "X".into()),
            "Unknown name \"prominentPeople\"",
        ),
        (
            refused(|body| body["generationConfig"]["seed"] = "seven".into()),
            "Invalid value at 'generation_config.seed' (TYPE_INT32), \"seven\"",
        ),
        (
            refused(|body| body["generationConfig"]["responseModalities"] = json!(["PICTURE"])),
            "Invalid value at 'generation_config.response_modalities[0]'",
        ),
        (
            refused(|body| body["generationConfig"]["imageConfig"]["imageSize"] = "1k".into()),
            "Image size 1k",
        ),
        (
            refused(|body| body["generationConfig"]["imageConfig"]["imageSize"] = "512".into()),
            "Image size 512",
        ),
        (
            refused(|body| body["generationConfig"]["imageConfig"]["aspectRatio"] = "1:8".into()),
            "aspect_ratio",
        ),
        (
            refused(|body| body["labels"]["job"] = "Job 1".into()),
            "Invalid label value",
        ),
        (
            refused(|body| body["labels"]["1job"] = "a".into()),
            "Invalid label key",
        ),
        (
            refused(|body| body["contents"] = json!([])),
            "at least one content",
        ),
        (
            refused(|body| body["contents"][0]["role"] = "owner".into()),
            "valid role",
        ),
        (
            refused(|body| {
                let blob = json!({"inlineData": {"mimeType": "image/png", "data": "AAAA"}});
                body["contents"][0]["parts"] = vec![blob; 15].into();
            }),
            "exceeds the limit of 14",
        ),
        (
            refused(|body| {
                let blob = json!({"inlineData": {"mimeType": "image/png", "data": "AAAA"}});
                body["contents"][0]["parts"] = json!([{"text": "A cup"}, blob]);
            }),
            "Provided image is not valid.",
        ),
        (
            refused(|body| body["contents"][0]["parts"][0]["text"] = "[[fault:thunder]]".into()),
            "thunder",
        ),
    ] {
        let (status, reply) = caller.ask(PRO, &body).await;
        let error = &reply["error"];
        assert_eq!(
            (status, &error["status"]),
            (400, &json!("INVALID_ARGUMENT")),
            "{words}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn other_paths_and_credentials_are_refused() {
    let caller = Caller::new().await;
    let body = request("A cup", json!({}));
    let unsigned = caller
        .http
        .post(caller.url(PRO))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(unsigned.status(), 401);
    let error: Value = unsigned.json().await.unwrap();
    assert_eq!(error["error"]["status"], "UNAUTHENTICATED");

    for retired in ["gemini-3-pro-image-preview", "imagen-4.0-generate-001"] {
        let (status, reply) = caller.ask(retired, &body).await;
        assert_eq!(
            (status, &reply["error"]["status"]),
            (404, &json!("NOT_FOUND"))
        );
        assert!(
            reply["error"]["message"]
                .as_str()
                .unwrap()
                .contains(retired)
        );
    }
    let wrong_method = caller
        .http
        .get(caller.url(PRO))
        .bearer_auth("t")
        .send()
        .await
        .unwrap();
    assert_eq!(wrong_method.status(), 404);
    let wrong_verb = caller.url(PRO).replace("generateContent", "draw");
    let wrong_verb = caller
        .http
        .post(wrong_verb)
        .bearer_auth("t")
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(wrong_verb.status(), 404);
}

#[tokio::test]
async fn refusals_are_200_without_a_picture() {
    let caller = Caller::new().await;
    let (status, blocked) = caller
        .ask(PRO, &request("Something Forbidden!", json!({})))
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        blocked["promptFeedback"]["blockReason"],
        "PROHIBITED_CONTENT"
    );
    assert!(blocked["candidates"].is_null());

    let (status, unsafe_one) = caller
        .ask(PRO, &request("An unsafe picture", json!({})))
        .await;
    assert_eq!(status, 200);
    let candidate = &unsafe_one["candidates"][0];
    assert_eq!(candidate["finishReason"], "IMAGE_SAFETY");
    assert!(candidate["finishMessage"].is_string() && candidate["content"]["parts"].is_null());
    assert_eq!(unsafe_one["usageMetadata"]["thoughtsTokenCount"], 240);
    assert!(unsafe_one["usageMetadata"]["candidatesTokenCount"].is_null());

    let mut words_only = request("A cup", json!({}));
    words_only["generationConfig"]["responseModalities"] = json!(["TEXT"]);
    let (_, reply) = caller.ask(PRO, &words_only).await;
    let parts = reply["candidates"][0]["content"]["parts"]
        .as_array()
        .unwrap();
    assert!(parts.iter().all(|part| part["inlineData"].is_null()));
}

#[tokio::test]
async fn a_marker_with_a_count_fails_the_first_calls() {
    let caller = Caller::new().await;
    let body = request("A cup [[fault:throttle*2]] [[fault:internal*1]]", json!({}));
    let mut met = Vec::new();
    for _ in 0..4 {
        met.push(caller.ask(PRO, &body).await.0);
    }
    assert_eq!(met, [429, 429, 500, 200]);
    let (_, other) = caller
        .ask(PRO, &request("A jug [[fault:throttle*1]]", json!({})))
        .await;
    assert_eq!(
        other,
        json!({"error": {"code": 429, "message": "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.", "status": "RESOURCE_EXHAUSTED"}})
    );
}

#[tokio::test]
async fn each_queued_fault_is_for_one_call() {
    let caller = Caller::new().await;
    let words = [
        "status:503",
        "finish:IMAGE_RECITATION",
        "max_tokens",
        "unknown_reason",
        "no_image",
        "block:JAILBREAK",
        "text_only",
        "empty",
        "only_thought",
        "wrong_size",
        "denied",
    ];
    let switches = json!({"next": words});
    let url = format!("{}/__fake/faults", caller.fake.base_url());
    let put = caller.http.put(&url).json(&switches).send().await.unwrap();
    assert_eq!(put.status(), 200);
    let body = request("A cup", json!({}));
    let mut replies = Vec::new();
    for _ in words {
        replies.push(caller.ask(PRO, &body).await);
    }
    assert_eq!(
        (replies[0].0, &replies[0].1["error"]["status"]),
        (503, &json!("UNAVAILABLE"))
    );
    let reason = |index: usize| replies[index].1["candidates"][0]["finishReason"].clone();
    assert_eq!(reason(1), "IMAGE_RECITATION");
    assert_eq!(reason(2), "MAX_TOKENS");
    assert_eq!(reason(3), "A_REASON_FROM_THE_FUTURE");
    assert_eq!(reason(4), "NO_IMAGE");
    assert_eq!(replies[5].1["promptFeedback"]["blockReason"], "JAILBREAK");
    assert_eq!(reason(6), "STOP");
    assert_eq!(replies[7].1, json!({}));
    let parts = replies[8].1["candidates"][0]["content"]["parts"]
        .as_array()
        .unwrap();
    assert_eq!(parts.last().unwrap()["thought"], true);
    assert_eq!(size(&picture(&replies[9].1)), (960, 960));
    assert_eq!(replies[10].0, 403);
    assert_eq!(caller.ask(PRO, &body).await.0, 200);

    let wrong = caller
        .http
        .put(&url)
        .json(&json!({"next": ["thunder"]}))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 422);
    let shown: Value = caller
        .http
        .get(&url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(shown["next"], json!([]));
}

#[tokio::test]
async fn every_fault_is_played() {
    let caller = Caller::new().await;
    every_common_fault_is_played(&caller.fake, |prompt| {
        let call = caller.http.post(caller.url(PRO)).bearer_auth("token");
        call.json(&request(&prompt, json!({})))
    })
    .await;
    for word in [
        "error:server_error",
        "interaction:failed",
        "content_blocked",
        "content_filtered",
        "poll:unavailable",
        "gone",
    ] {
        let prompt = format!("A cup [[fault:{word}]]");
        let (status, reply) = caller.ask(PRO, &request(&prompt, json!({}))).await;
        let message = reply["error"]["message"].as_str().unwrap();
        assert_eq!(
            (status, message),
            (
                400,
                format!("The fake cannot play the fault '{word}' as vertex.").as_str()
            )
        );
    }
    caller.fake.faults().push("gone".parse().unwrap());
    let (status, _) = caller.ask(PRO, &request("A cup", json!({}))).await;
    assert_eq!(status, 400, "nor does it come from the queue");
}

#[tokio::test]
async fn a_retry_hint_is_in_the_header() {
    let caller = Caller::new().await;
    let body = request(
        "A cup [[fault:throttle:7*1]] [[fault:no_quota*1]]",
        json!({}),
    );
    let throttled = caller.send(PRO, &body).await.unwrap();
    assert_eq!(throttled.headers()["retry-after"], "7");
    let (status, spent) = caller.ask(PRO, &body).await;
    assert_eq!(status, 429);
    assert!(
        spent["error"]["message"]
            .as_str()
            .unwrap()
            .contains("limit: 0")
    );
}

#[tokio::test]
async fn each_fault_of_the_bytes_is_played() {
    let caller = Caller::new().await;
    let faults = caller.fake.faults();
    for word in ["not_json", "cut", "bad_base64", "bad_picture", "wrong_type"] {
        faults.push(word.parse().unwrap());
    }
    let body = request("A cup", json!({}));
    let page = caller.send(PRO, &body).await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.json::<Value>().await.is_err());
    let cut = caller.send(PRO, &body).await.unwrap();
    assert_eq!(cut.status(), 200, "the head arrives");
    assert!(cut.bytes().await.is_err(), "the body does not");
    let data = |reply: &Value| {
        let parts = reply["candidates"][0]["content"]["parts"]
            .as_array()
            .unwrap();
        parts.last().unwrap()["inlineData"]["data"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (_, bad) = caller.ask(PRO, &body).await;
    assert!(BASE64_STANDARD.decode(data(&bad)).is_err());
    let (_, bad) = caller.ask(PRO, &body).await;
    assert!(image::guess_format(&picture(&bad)).is_err());
    let (_, bad) = caller.ask(PRO, &body).await;
    assert_eq!(
        image::guess_format(&picture(&bad)).unwrap(),
        image::ImageFormat::Jpeg
    );
}

#[tokio::test]
async fn a_rate_applies_to_about_that_share() {
    let caller = Caller::new().await;
    caller
        .fake
        .faults()
        .rate(0.5, [Fault::Status(429), Fault::Status(503)]);
    let mut body = request("A cup", json!({}));
    body["generationConfig"]["responseModalities"] = json!(["TEXT"]);
    for _ in 0..200 {
        caller.send(PRO, &body).await.unwrap();
    }
    let outcomes = caller.fake.journal().outcomes();
    assert!((75..125).contains(&outcomes["text"]), "{outcomes:?}");
    assert!(
        outcomes["throttle"] > 25 && outcomes["unavailable"] > 25,
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_hanging_call_ends_with_the_fake() {
    let caller = Caller::new().await;
    let journal = caller.fake.journal();
    caller.fake.faults().push(Fault::Hang);
    let body = request("A cup", json!({}));
    let patience = Duration::from_millis(200);
    assert!(
        tokio::time::timeout(patience, caller.send(PRO, &body))
            .await
            .is_err()
    );
    assert_eq!(journal.outcomes()["open"], 1);

    caller.fake.faults().push(Fault::Hang);
    let request = caller
        .http
        .post(caller.url(PRO))
        .bearer_auth("t")
        .json(&body)
        .send();
    let stop = async {
        tokio::time::sleep(patience).await;
        caller.fake.stop().await;
    };
    let (hung, ()) = tokio::join!(request, stop);
    assert_eq!(hung.unwrap().status(), 503);
}

#[tokio::test]
async fn latency_is_applied() {
    let switches = Switches {
        latency_ms: Latency { min: 120, max: 140 },
        ..Switches::default()
    };
    let caller = Caller::new().await;
    caller.fake.faults().set(switches);
    let started = Instant::now();
    caller
        .ask(PRO, &request("Something forbidden", json!({})))
        .await;
    assert!(started.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn the_journal_has_each_call() {
    let caller = Caller::new().await;
    let (_, reply) = caller.ask(PRO, &request("A cup", json!({}))).await;
    caller.ask("imagen-3", &request("A cup", json!({}))).await;
    caller.ask(PRO, &request("Forbidden", json!({}))).await;
    let journal = caller.fake.journal();
    assert_eq!(journal.count(), 3);
    let calls = journal.labelled("job", "job_1");
    let outcomes: Vec<_> = calls
        .iter()
        .map(|call| call.outcome.as_deref().unwrap())
        .collect();
    assert_eq!(
        outcomes,
        ["ok", "refused_request", "block:PROHIBITED_CONTENT"]
    );
    assert_eq!(calls[0].status, Some(200));
    assert!(calls[0].answered_us >= Some(calls[0].received_us));
    let sha256 = calls[0].picture_sha256.as_deref().unwrap();
    assert_eq!((sha256.len(), picture(&reply).is_empty()), (64, false));

    let url = format!("{}/__fake/journal", caller.fake.base_url());
    let latest = caller
        .http
        .get(format!("{url}?last=1"))
        .send()
        .await
        .unwrap();
    let shown: Value = latest.json().await.unwrap();
    assert_eq!(
        (&shown["count"], shown["calls"].as_array().unwrap().len()),
        (&json!(3), 1)
    );
    caller.http.delete(&url).send().await.unwrap();
    assert_eq!(journal.count(), 0);
}
