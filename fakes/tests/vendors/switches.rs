//! The switches that all vendors share.

use super::start;
use base64::{Engine, prelude::BASE64_STANDARD};
use fakes::{AdmissionLimit, Fake, Fault, Switches};
use reqwest::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn generate(fake: &Fake, http: &Client) -> (u16, Value) {
    let body = json!({"model": "gpt-image-2", "prompt": "A cup", "size": "1024x1024"});
    let call = http
        .post(format!("{}/v1/images/generations", fake.base_url()))
        .bearer_auth("key");
    let response = call.json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn calls_beyond_the_limit_are_throttled_first() {
    let (fake, http) = start().await;
    let faults = fake.faults();
    faults.set(Switches {
        admit: Some(AdmissionLimit {
            per_second: 0.1,
            burst: 2.0,
        }),
        rate: 1.0,
        among: vec![Fault::Status(503)],
        ..Switches::default()
    });
    let mut met = Vec::new();
    for _ in 0..5 {
        met.push(generate(&fake, &http).await.0);
    }
    assert_eq!(met, [503, 503, 429, 429, 429]);
    let outcomes = fake.journal().outcomes();
    assert_eq!((outcomes["unavailable"], outcomes["throttle"]), (2, 3));

    faults.latency(2000..=2000);
    let started = Instant::now();
    let call = http
        .post(format!("{}/v1/images/generations", fake.base_url()))
        .bearer_auth("key");
    let response = call
        .json(&json!({"model": "gpt-image-2", "prompt": "A cup"}))
        .send()
        .await
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "at once");
    let wait: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((8..=10).contains(&wait), "{wait}");

    faults.clear();
    faults.push(Fault::Status(500));
    faults.admit(0.1, 0.0);
    assert_eq!(generate(&fake, &http).await.0, 429);
    assert_eq!(
        faults.get().next.len(),
        1,
        "who is not let in meets nothing else"
    );
}

#[tokio::test]
async fn the_admission_limit_refills() {
    let (fake, http) = start().await;
    fake.faults().plain(true);
    fake.faults().admit(20.0, 1.0);
    let started = Instant::now();
    let mut admitted = 0;
    while started.elapsed() < Duration::from_secs(1) {
        admitted += u32::from(generate(&fake, &http).await.0 == 200);
    }
    assert!((12..=22).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn plain_pictures_have_their_size_and_are_drawn_once() {
    let (fake, http) = start().await;
    fake.faults().plain(true);
    let picture = |reply: &Value| {
        let data = reply["data"][0]["b64_json"].as_str().unwrap();
        BASE64_STANDARD.decode(data).unwrap()
    };
    let (_, first) = generate(&fake, &http).await;
    let (_, second) = generate(&fake, &http).await;
    assert_eq!(super::size(&picture(&first)), (1024, 1024));
    assert_eq!(picture(&first), picture(&second));
    assert!(picture(&first).len() < 64 * 1024);
    fake.faults().push(Fault::WrongSize);
    let (_, small) = generate(&fake, &http).await;
    assert_eq!(super::size(&picture(&small)), (960, 960));
}

#[tokio::test]
async fn some_calls_are_slow() {
    let (fake, http) = start().await;
    fake.faults().set(Switches {
        slow_share: 0.5,
        slow_ms: 150,
        plain: true,
        ..Switches::default()
    });
    let mut slow = 0;
    for _ in 0..40 {
        let started = Instant::now();
        generate(&fake, &http).await;
        slow += u32::from(started.elapsed() >= Duration::from_millis(150));
    }
    assert!((8..=32).contains(&slow), "{slow}");
}

#[tokio::test]
async fn switches_read_back_as_written() {
    let (fake, http) = start().await;
    let url = format!("{}/__fake/faults", fake.base_url());
    let switches = json!({
        "admit": {"per_second": 2.5, "burst": 5.0},
        "latency_ms": {"min": 1, "max": 2},
        "slow_share": 0.1,
        "slow_ms": 900,
        "next": ["throttle:7", "late:20", "error:moderation_blocked", "poll:unavailable"],
        "rate": 0.25,
        "among": ["interaction:failed"],
        "plain": true,
        "grain": false,
    });
    let put = http.put(&url).json(&switches).send().await.unwrap();
    assert_eq!(put.status(), 200);
    assert_eq!(put.json::<Value>().await.unwrap(), switches);
}
