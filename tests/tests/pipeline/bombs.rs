//! Whatever a vendor sends in place of a picture ends in words and a release, and costs no more memory than pictures do.
#![expect(clippy::print_stdout, reason = "says what it took")]

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::{Options, Pipeline};

fn job(name: &str) -> Value {
    let mut body = small_job();
    body["prompt"] = json!(format!("[[fault:bomb:{name}]] a bottle"));
    body
}

/// The most this process has taken, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let digits = line.trim_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_in_words_and_a_release() {
    let pipeline = Pipeline::start_with(Options {
        // What is no picture is a strike, and closes the lane again and again.
        closed: Duration::from_millis(1),
        ..Options::default()
    })
    .await;
    let before = peak();
    let (available, _) = pipeline.balance().await;
    let bombs: Vec<String> = fakes::bombs().collect();
    assert!(bombs.len() >= 40, "{}", bombs.len());
    let ended = bombs.iter().map(async |name| {
        let id = pipeline.submit(&job(name)).await;
        pipeline.ended_within(&id, Duration::from_mins(3)).await
    });
    for (name, job) in bombs.iter().zip(join_all(ended).await) {
        assert_eq!(job["state"], "failed", "{name}: {job}");
        assert_eq!(job["outcome"]["class"], "provider_invalid", "{name}: {job}");
        assert_eq!(job["cost"]["released"], job["cost"]["held"], "{name}");
        assert_eq!(job["artifacts"], json!([]), "{name}");
    }
    assert_eq!(pipeline.balance().await, (available, 0));
    for name in fakes::valid_but_heavy() {
        let id = pipeline.submit(&job(name)).await;
        let job = pipeline.ended_within(&id, Duration::from_mins(1)).await;
        assert_eq!(job["state"], "succeeded", "{name}: {job}");
    }
    let took = peak();
    println!(
        "{} bombs, {} pictures with a burden: the whole product and the vendor took {took} MiB at most, {before} before",
        bombs.len(),
        fakes::valid_but_heavy().count(),
    );
    assert!(took < 1_024, "{took} MiB");
    pipeline.close().await;
}
