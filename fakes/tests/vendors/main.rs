//! Tests the fake vendors over HTTP, with one file for each.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]
#![expect(clippy::needless_pass_by_value, reason = "`json!` reads best in place")]

mod gemini;
mod interactions;
mod openai;
mod switches;
mod vertex;

use fakes::{Fake, Options};
use reqwest::{Client, RequestBuilder};
use std::time::{Duration, Instant};

/// How long to wait for an answer. Long enough for a good one, short enough for faults that never answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1500);

async fn start() -> (Fake, Client) {
    let fake = Fake::start(Options::default()).await.unwrap();
    (fake, Client::builder().build().unwrap())
}

fn size(bytes: &[u8]) -> (u32, u32) {
    let picture = image::load_from_memory(bytes).unwrap();
    (picture.width(), picture.height())
}

/// What a caller gets.
#[derive(Debug, PartialEq)]
enum Seen {
    /// A whole reply with this status.
    Whole(u16),
    /// This status, then a body that breaks off.
    Broken(u16),
    /// This status, then a body that does not end in time.
    Endless(u16),
    /// This status, then more than 80 MiB.
    Oversized(u16),
    /// The connection ended before the status.
    Reset,
    /// No status in time.
    Nothing,
}

async fn see(call: RequestBuilder) -> Seen {
    let mut response = match tokio::time::timeout(RESPONSE_TIMEOUT, call.send()).await {
        Err(_) => return Seen::Nothing,
        Ok(Err(error)) => {
            assert!(error.is_request(), "{error:?}");
            return Seen::Reset;
        }
        Ok(Ok(response)) => response,
    };
    let status = response.status().as_u16();
    let mut received = 0;
    let body = async {
        loop {
            match response.chunk().await {
                Ok(None) => return Seen::Whole(status),
                Err(_) => return Seen::Broken(status),
                Ok(Some(chunk)) => received += chunk.len(),
            }
            if received > 80 * 1024 * 1024 {
                return Seen::Oversized(status);
            }
        }
    };
    let seen = tokio::time::timeout(RESPONSE_TIMEOUT * 4, body).await;
    seen.unwrap_or(Seen::Endless(status))
}

/// Tries all faults that every vendor plays. `call` makes a request with a prompt.
async fn every_common_fault_is_played(fake: &Fake, call: impl Fn(String) -> RequestBuilder) {
    for (word, expected) in [
        ("throttle", Seen::Whole(429)),
        ("throttle:7", Seen::Whole(429)),
        ("no_quota", Seen::Whole(429)),
        ("invalid", Seen::Whole(400)),
        ("unauthenticated", Seen::Whole(401)),
        ("denied", Seen::Whole(403)),
        ("not_found", Seen::Whole(404)),
        ("internal", Seen::Whole(500)),
        ("unavailable", Seen::Whole(503)),
        ("deadline", Seen::Whole(504)),
        ("status:418", Seen::Whole(418)),
        ("status:502", Seen::Whole(502)),
        ("empty", Seen::Whole(200)),
        ("wrong_type", Seen::Whole(200)),
        ("wrong_size", Seen::Whole(200)),
        ("bad_base64", Seen::Whole(200)),
        ("bad_picture", Seen::Whole(200)),
        ("not_json", Seen::Whole(200)),
        ("cut", Seen::Broken(200)),
        ("oversized", Seen::Oversized(200)),
        ("reset", Seen::Reset),
        ("hang", Seen::Nothing),
        ("never", Seen::Nothing),
    ] {
        let seen = see(call(format!("A cup [[fault:{word}]]"))).await;
        assert_eq!(seen, expected, "{word}");
        let calls = fake.journal().calls();
        let call = calls.last().unwrap();
        match seen {
            Seen::Nothing => assert_eq!(call.outcome, None, "{word}"),
            _ => assert_eq!(call.outcome.as_deref(), Some(word)),
        }
    }
    let (stalled, trickled) = tokio::join!(
        see(call("A cup [[fault:stall]]".to_owned())),
        see(call("A cup [[fault:trickle]]".to_owned())),
    );
    assert_eq!(
        (stalled, trickled),
        (Seen::Endless(200), Seen::Endless(200))
    );

    let started = Instant::now();
    let late = see(call("A cup [[fault:late:300]]".to_owned())).await;
    assert_eq!(late, Seen::Whole(200));
    assert!(started.elapsed() >= Duration::from_millis(300));
    let unknown = see(call("A cup [[fault:thunder]]".to_owned())).await;
    assert_eq!(unknown, Seen::Whole(400));
}
