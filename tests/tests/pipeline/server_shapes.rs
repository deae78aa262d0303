//! OpenAI's answers as other servers write them: images that were paid for are accepted, and errors keep their meaning.

use serde_json::{Value, json};
use tests::Pipeline;
use tests::pipeline::{OPERATOR_KEY, small_job};

async fn ended(pipeline: &Pipeline, model: &str, fault: &str) -> Value {
    let mut body = small_job();
    body["model"] = json!(model);
    body["prompt"] = json!(format!("a bottle [[fault:{fault}]]"));
    pipeline.ended(&pipeline.submit(&body).await).await
}

/// The outcome class, the captured and the released credits.
fn end(job: &Value) -> (&str, Option<i64>, Option<i64>) {
    let cost = |field: &str| job["cost"][field].as_i64();
    let class = job["outcome"]["class"].as_str();
    (
        class.unwrap_or_default(),
        cost("captured"),
        cost("released"),
    )
}

#[tokio::test]
async fn every_shape_of_answer_is_accepted_by_one_call() {
    let pipeline = Pipeline::start().await;
    for (calls, shape) in (1..).zip([
        "empty_beside_address",
        "null_beside_address",
        "data_address",
        "data_address_in_b64_json",
        "lines",
        "unescaped_lines",
        "url_safe",
        "unpadded",
        "escaped_slashes",
        "object",
        "list",
        "byte_order_mark",
        "trailing",
    ]) {
        let job = ended(&pipeline, "gpt-image-2", &format!("shape:{shape}")).await;
        let held = job["cost"]["held"].as_i64();
        assert_eq!(end(&job), ("ok", held, Some(0)), "{shape}: {job}");
        assert_eq!(pipeline.fake.journal().count(), calls, "{shape}");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn an_error_with_status_200_is_treated_as_an_error() {
    let pipeline = Pipeline::start().await;
    let before = pipeline.balance().await;
    for (code, class, calls) in [
        ("content_policy_violation", "refused_prompt", 1),
        // Its type is OpenAI's `invalid_request_error`.
        ("a_word_from_the_future", "bad_request", 1),
        ("server_error", "provider_fault", 3),
        // It makes the lane unavailable.
        ("insufficient_quota", "config", 1),
    ] {
        let before = pipeline.fake.journal().count();
        let job = ended(&pipeline, "gpt-image-2", &format!("error_200:{code}")).await;
        let held = job["cost"]["held"].as_i64();
        assert_eq!(end(&job), (class, Some(0), held), "{code}: {job}");
        assert_eq!(pipeline.fake.journal().count() - before, calls, "{code}");
        if class == "refused_prompt" {
            let reason = job["outcome"]["reason"].as_str().unwrap();
            assert!(
                reason.contains("The model said: Your request was rejected"),
                "{reason}"
            );
        }
    }
    assert_eq!(pipeline.balance().await, before);
    pipeline.close().await;
}

#[tokio::test]
async fn a_long_error_keeps_its_code_and_its_text() {
    let pipeline = Pipeline::start().await;
    let job = ended(&pipeline, "gpt-image-2", "long_error:moderation_blocked").await;
    let held = job["cost"]["held"].as_i64();
    assert_eq!(end(&job), ("refused_prompt", Some(0), held), "{job}");
    let reason = job["outcome"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("The model said: Your request was rejected by the safety system."),
        "{reason}"
    );
    assert!(reason.ends_with("… Nothing was charged."), "{reason}");
    assert!(reason.chars().count() < 1_000, "{reason}");
    assert!(!reason.contains(['\u{202E}', '\u{7}', '\n']), "{reason:?}");
    pipeline.close().await;
}

#[tokio::test]
async fn customer_and_operator_see_what_was_wrong() {
    let pipeline = Pipeline::start().await;
    for (model, fault, wrong) in [
        (
            "gpt-image-2",
            "bad_picture",
            "the file is not a PNG, JPEG or WebP image",
        ),
        ("gpt-image-2", "bad_base64", "the image is not valid base64"),
        (
            "gemini-nano-banana-2.1",
            "bad_base64",
            "the image is not valid base64",
        ),
        ("gemini-nano-banana-2.1", "wrong_size", "too small"),
    ] {
        let job = ended(&pipeline, model, fault).await;
        assert_eq!(end(&job).0, "provider_invalid", "{job}");
        let reason = job["outcome"]["reason"].as_str().unwrap();
        assert!(
            reason.contains("What was wrong: ") && reason.contains(wrong),
            "{reason}"
        );
        let path = format!("/v1/admin/jobs/{}", job["id"].as_str().unwrap());
        let request = pipeline.anonymous(reqwest::Method::GET, &path);
        let job: Value = (request.bearer_auth(OPERATOR_KEY).send().await.unwrap())
            .json()
            .await
            .unwrap();
        let story = job["story"].to_string();
        assert_eq!(story.matches(wrong).count(), 2, "{story}");
    }
    pipeline.close().await;
}
