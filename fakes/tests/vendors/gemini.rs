//! The Gemini Developer API, where it differs from Vertex AI.

use super::{every_common_fault_is_played, size, start};
use base64::{Engine, prelude::BASE64_STANDARD};
use fakes::Fake;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

const PRO: &str = "gemini-3-pro-image";

fn call(fake: &Fake, http: &Client, model: &str, body: &Value) -> RequestBuilder {
    let url = format!("{}/v1beta/models/{model}:generateContent", fake.base_url());
    http.post(url).json(body)
}

fn request(prompt: &str) -> Value {
    json!({
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "4:5", "imageSize": "1K"}, "seed": 7},
    })
}

async fn ask(fake: &Fake, http: &Client, body: &Value) -> (u16, Value) {
    let call = call(fake, http, PRO, body).header("x-goog-api-key", "key");
    let response = call.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_good_reply_lacks_the_fields_of_vertex() {
    let (fake, http) = start().await;
    let (status, reply) = ask(&fake, &http, &request("A cup")).await;
    assert_eq!(status, 200);
    let part = &reply["candidates"][0]["content"]["parts"][1]["inlineData"];
    assert_eq!(part["mimeType"], "image/png");
    let bytes = BASE64_STANDARD
        .decode(part["data"].as_str().unwrap())
        .unwrap();
    assert_eq!(size(&bytes), (928, 1152));
    assert_eq!(
        image::guess_format(&bytes).unwrap(),
        image::ImageFormat::Png
    );
    assert!(reply["createTime"].is_null() && reply["responseId"].is_string());
    assert_eq!(reply["usageMetadata"]["candidatesTokenCount"], 1120);
    assert!(reply["usageMetadata"]["trafficType"].is_null());

    let calls = fake.journal().calls();
    assert_eq!((calls[0].vendor, calls[0].creates), ("gemini", true));
    assert_eq!(
        (calls[0].model.as_str(), calls[0].outcome.as_deref()),
        (PRO, Some("ok"))
    );
}

#[tokio::test]
async fn only_api_keys_are_accepted() {
    let (fake, http) = start().await;
    let body = request("A cup");
    for call in [
        call(&fake, &http, PRO, &body),
        call(&fake, &http, PRO, &body).header("x-goog-api-key", ""),
        call(&fake, &http, PRO, &body).bearer_auth("token"),
    ] {
        let response = call.send().await.unwrap();
        assert_eq!(response.status(), 403);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["status"], "PERMISSION_DENIED");
    }
    let retired = call(&fake, &http, "imagen-3", &body).header("x-goog-api-key", "key");
    let response = retired.send().await.unwrap();
    assert_eq!(response.status(), 404);
    let error: Value = response.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("models/imagen-3 is not found for API version v1beta"));
}

#[tokio::test]
async fn fields_of_vertex_alone_are_refused() {
    let (fake, http) = start().await;
    for (field, value) in [
        ("/labels", json!({"job": "job_1"})),
        (
            "/generationConfig/imageConfig/personGeneration",
            json!("ALLOW_ALL"),
        ),
        ("/generationConfig/imageConfig/prominentPeople", json!("X")),
        (
            "/generationConfig/imageConfig/imageOutputOptions",
            json!({"mimeType": "image/jpeg"}),
        ),
    ] {
        let (parent, name) = field.rsplit_once('/').unwrap();
        let mut body = request("A cup");
        body.pointer_mut(parent).unwrap()[name] = value;
        let (status, reply) = ask(&fake, &http, &body).await;
        let error = &reply["error"];
        assert_eq!(
            (status, &error["status"]),
            (400, &json!("INVALID_ARGUMENT"))
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("Unknown name \"{name}\"")),
            "{message}"
        );
    }
}

#[tokio::test]
async fn an_exceeded_quota_is_named_with_a_retry_hint() {
    let (fake, http) = start().await;
    let body = request("A cup [[fault:throttle*1]] [[fault:throttle:46*1]] [[fault:no_quota*1]]");
    let mut replies = Vec::new();
    for _ in 0..3 {
        let (status, reply) = ask(&fake, &http, &body).await;
        assert_eq!(
            (status, &reply["error"]["status"]),
            (429, &json!("RESOURCE_EXHAUSTED"))
        );
        replies.push(reply["error"].clone());
    }
    let detail = |reply: usize, kind: &str| {
        let details = replies[reply]["details"].as_array().unwrap();
        let found = details
            .iter()
            .find(|detail| detail["@type"].as_str().unwrap().ends_with(kind));
        found.unwrap().clone()
    };
    let quota = |reply| detail(reply, "QuotaFailure")["violations"][0].clone();
    assert_eq!(detail(0, "RetryInfo")["retryDelay"], "1s");
    assert_eq!(detail(1, "RetryInfo")["retryDelay"], "46s");
    assert_eq!(
        quota(1)["quotaId"],
        "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    );
    assert_eq!(quota(1)["quotaDimensions"]["model"], PRO);
    assert!(detail(1, "Help")["links"][0]["url"].is_string());
    assert_eq!(
        quota(2)["quotaId"],
        "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
    );
    assert!(replies[2]["message"].as_str().unwrap().contains("limit: 0"));
}

#[tokio::test]
async fn refusals_are_as_at_vertex_without_a_message() {
    let (fake, http) = start().await;
    let (_, blocked) = ask(&fake, &http, &request("Something forbidden")).await;
    assert_eq!(
        blocked["promptFeedback"],
        json!({"blockReason": "PROHIBITED_CONTENT"})
    );
    let (_, filtered) = ask(&fake, &http, &request("An unsafe picture")).await;
    assert_eq!(filtered["candidates"][0]["finishReason"], "IMAGE_SAFETY");
}

#[tokio::test]
async fn every_fault_is_played() {
    let (fake, http) = start().await;
    every_common_fault_is_played(&fake, |prompt| {
        call(&fake, &http, PRO, &request(&prompt)).header("x-goog-api-key", "key")
    })
    .await;
    for (word, status) in [
        ("failed_precondition", 400),
        ("text_only", 200),
        ("only_thought", 200),
        ("no_image", 200),
        ("finish:IMAGE_RECITATION", 200),
        ("block:OTHER", 200),
    ] {
        let body = request(&format!("A cup [[fault:{word}]]"));
        assert_eq!(ask(&fake, &http, &body).await.0, status, "{word}");
    }
    for word in [
        "error:server_error",
        "interaction:failed",
        "content_blocked",
        "gone",
    ] {
        let body = request(&format!("A cup [[fault:{word}]]"));
        let (status, reply) = ask(&fake, &http, &body).await;
        let message = reply["error"]["message"].as_str().unwrap();
        assert_eq!(status, 400);
        assert!(message.contains("cannot play"), "{message}");
    }
}
