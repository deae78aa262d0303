//! Damaged and hostile files from a vendor: the job fails with a reason, the hold is released, and memory stays limited.
#![expect(clippy::print_stdout, reason = "reports the peak memory")]

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

/// The peak memory of this process, in MiB.
fn peak_mib() -> u64 {
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
        // Each file that is not an image counts as a failure of the lane, and makes it unavailable for this time.
        closed: Duration::from_millis(1),
        ..Options::default()
    })
    .await;
    let before = peak_mib();
    let (available, _) = pipeline.balance().await;
    let bombs: Vec<String> = fakes::hostile_file_names().collect();
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
    for name in fakes::heavy_file_names() {
        let id = pipeline.submit(&job(name)).await;
        let job = pipeline.ended_within(&id, Duration::from_mins(1)).await;
        assert_eq!(job["state"], "succeeded", "{name}: {job}");
    }
    let peak = peak_mib();
    println!(
        "{} bombs, {} heavy pictures: peak memory of the product and the fake {peak} MiB, {before} MiB before",
        bombs.len(),
        fakes::heavy_file_names().count(),
    );
    assert!(peak < 1_024, "{peak} MiB");
    pipeline.close().await;
}
