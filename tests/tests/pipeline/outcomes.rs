//! How a job ends for each kind of answer of the provider.

use fakes::Fault;
use serde_json::json;
use tests::Pipeline;
use tests::pipeline::small_job;

async fn ends(prompt: &str, state: &str, class: &str, calls: usize) {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["prompt"] = json!(prompt);
    let job = pipeline.ended(&pipeline.submit(&body).await).await;
    assert_eq!(
        (job["state"].as_str(), job["outcome"]["class"].as_str()),
        (Some(state), Some(class)),
        "{job}"
    );
    assert!(
        job["outcome"]["reason"].as_str().unwrap().len() > 5,
        "{job}"
    );
    assert_eq!(pipeline.fake.journal().count(), calls, "calls");
    let charged = if state == "succeeded" { 6 } else { 0 };
    assert_eq!(pipeline.balance().await, (1_000 - charged, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn a_refused_prompt_releases_the_hold() {
    ends("something forbidden", "failed", "refused_prompt", 1).await;
}

#[tokio::test]
async fn a_refused_picture_releases_the_hold() {
    ends("an unsafe picture", "failed", "refused", 1).await;
}

#[tokio::test]
async fn a_throttled_call_is_made_again_and_counts_for_nothing() {
    ends("a bottle [[fault:throttle*5]]", "succeeded", "ok", 6).await;
}

#[tokio::test]
async fn a_fault_is_survived_twice_and_no_more() {
    ends("a bottle [[fault:unavailable*2]]", "succeeded", "ok", 3).await;
    ends(
        "a bottle [[fault:unavailable*3]]",
        "failed",
        "provider_fault",
        3,
    )
    .await;
}

#[tokio::test]
async fn a_bad_request_is_not_repeated() {
    ends("a bottle [[fault:invalid*1]]", "failed", "bad_request", 1).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_bought_again() {
    ends("a bottle [[fault:cut*1]]", "succeeded", "ok", 2).await;
}

#[tokio::test]
async fn an_answer_that_is_no_json_or_no_picture_is_bought_again() {
    ends("a bottle [[fault:not_json*1]]", "succeeded", "ok", 2).await;
    ends("a bottle [[fault:no_image*1]]", "succeeded", "ok", 2).await;
}

#[tokio::test]
async fn what_was_delivered_is_charged_and_the_rest_released() {
    let pipeline = Pipeline::start().await;
    pipeline.fake.faults().push(Fault::Status(400));
    let mut body = small_job();
    body["outputs"] = json!(3);
    let job = pipeline.ended(&pipeline.submit(&body).await).await;
    assert_eq!(
        (job["state"].as_str(), job["delivered"].as_i64()),
        (Some("partial"), Some(2)),
        "{job}"
    );
    assert_eq!(
        (
            job["cost"]["captured"].as_i64(),
            job["cost"]["released"].as_i64()
        ),
        (Some(12), Some(6))
    );
    assert_eq!(pipeline.balance().await, (988, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn a_stored_picture_is_never_bought_again() {
    let pipeline = Pipeline::start().await;
    // One of three outputs fails first. The second attempt adopts the two that were stored.
    pipeline.fake.faults().push(Fault::Status(503));
    let mut body = small_job();
    body["outputs"] = json!(3);
    let job = pipeline.ended(&pipeline.submit(&body).await).await;
    assert_eq!(
        (job["state"].as_str(), job["attempts"].as_i64()),
        (Some("succeeded"), Some(2)),
        "{job}"
    );
    assert_eq!(pipeline.fake.journal().count(), 4);
    pipeline.close().await;
}
