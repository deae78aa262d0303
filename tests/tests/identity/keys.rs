//! How often a provider is asked for its keys, and what is done while it does not answer.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::people::identity::{CacheTiming, Refusal, TokenError};
use futures::future::join_all;
use serde_json::json;

use super::{Project, refusal, verifier};

/// A good token under the name of another key. Its signature is not made anew.
fn renamed(token: &str, kid: &str) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    let header = json!({"alg": "RS256", "kid": kid, "typ": "JWT"}).to_string();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
}

/// Waits until this many requests for keys came, and demands that there are no more.
async fn requested(project: &Project, count: usize) {
    let until = Instant::now() + Duration::from_secs(10);
    while project.provider.key_requests() < count && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(project.provider.key_requests(), count);
}

/// Times that are short enough for a test.
fn short() -> CacheTiming {
    CacheTiming {
        fetch_interval: Duration::from_millis(300),
        retry_interval: Duration::from_millis(300),
        ..CacheTiming::default()
    }
}

#[tokio::test]
async fn ten_thousand_unknown_keys_cause_one_fetch() {
    let project = Project::start().await;
    let token = project.token();
    let tokens: Vec<String> = (0..10_000)
        .map(|n| renamed(&token, &format!("unknown-{n}")))
        .collect();

    // All at once, before any key is known.
    let results = join_all(tokens.iter().map(|token| project.verify(token))).await;
    for result in results {
        assert_eq!(refusal(result), Some(Refusal::UnknownKey));
    }
    assert_eq!(project.provider.key_requests(), 1);

    // One after another, after a key was known. Good tokens are served meanwhile.
    let began = Instant::now();
    for (n, forged) in tokens.iter().enumerate() {
        assert_eq!(
            refusal(project.verify(forged).await),
            Some(Refusal::UnknownKey)
        );
        if n % 1_000 == 0 {
            assert_eq!(refusal(project.verify(&token).await), None);
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "the minute is not over"
    );
    assert_eq!(project.provider.key_requests(), 1);
}

#[tokio::test]
async fn a_lasting_flood_causes_one_fetch_an_interval() {
    let project = Project::start_with(short()).await;
    let token = project.token();
    project.verify(&token).await.unwrap();
    let (began, mut count) = (Instant::now(), 0_u32);
    while began.elapsed() < Duration::from_secs(2) {
        let forged = renamed(&token, &format!("unknown-{count}"));
        assert_eq!(
            refusal(project.verify(&forged).await),
            Some(Refusal::UnknownKey)
        );
        count += 1;
    }
    let most = began.elapsed().as_millis() / 300 + 2;
    let fetches = project.provider.key_requests();
    assert!(
        (2..=usize::try_from(most).unwrap()).contains(&fetches),
        "{fetches} fetches for {count} tokens"
    );
}

#[tokio::test]
async fn a_hundred_callers_share_one_fetch() {
    let project = Project::start_with(short()).await;
    project.switch(|it| (it.latency_ms, it.max_age) = (2_000, 0));
    let token = project.token();
    let all = || join_all((0..100).map(|_| project.verify(&token)));
    assert!(all().await.iter().all(Result::is_ok));
    assert_eq!(project.provider.key_requests(), 1);

    // No longer fresh: one fetches, nobody waits.
    tokio::time::sleep(Duration::from_millis(350)).await;
    let began = Instant::now();
    assert!(all().await.iter().all(Result::is_ok));
    assert!(
        began.elapsed() < Duration::from_millis(1_900),
        "{:?}",
        began.elapsed()
    );
    requested(&project, 2).await;
}

#[tokio::test]
async fn keys_are_kept_for_their_max_age() {
    let project = Project::start_with(short()).await;
    project.switch(|it| it.max_age = 3);
    let token = project.token();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        project.verify(&token).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(project.provider.key_requests(), 1);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    project.verify(&token).await.unwrap();
    requested(&project, 2).await;
}

#[tokio::test]
async fn a_new_key_is_found_and_an_old_one_forgotten() {
    let project = Project::start_with(short()).await;
    let old = project.token();
    project.verify(&old).await.unwrap();

    project.provider.rotate();
    let new = project.token();
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(refusal(project.verify(&new).await), None);
    assert_eq!(
        refusal(project.verify(&old).await),
        None,
        "it is still published"
    );

    project.provider.retire_old_keys();
    project.provider.rotate();
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(refusal(project.verify(&project.token()).await), None);
    assert_eq!(
        refusal(project.verify(&old).await),
        Some(Refusal::UnknownKey)
    );
}

#[tokio::test]
async fn known_keys_serve_while_the_provider_is_away() {
    let stale = Duration::from_secs(3);
    let project = Project::start_with(CacheTiming { stale, ..short() }).await;
    project.switch(|it| it.max_age = 0);
    let token = project.token();
    project.verify(&token).await.unwrap();
    project.switch(|it| it.outage = true);

    // Fresh for 300 ms, stale for three seconds more.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(
            refusal(project.verify(&token).await),
            None,
            "{:?}",
            began.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let forged = project.verify(&renamed(&token, "unknown")).await;
    assert!(
        matches!(forged, Err(TokenError::Unavailable(_))),
        "it may be a new key"
    );
    tokio::time::sleep(Duration::from_millis(1_400)).await;
    let error = project.verify(&token).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("503"), "{error}");

    project.switch(|it| it.outage = false);
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(refusal(project.verify(&token).await), None);
}

#[tokio::test]
async fn a_provider_that_is_away_at_first_is_tried_again() {
    let project = Project::start_with(short()).await;
    project.switch(|it| it.outage = true);
    let token = project.token();
    let results = join_all((0..100).map(|_| project.verify(&token))).await;
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Err(TokenError::Unavailable(_))))
    );
    assert_eq!(project.provider.key_requests(), 1);

    project.switch(|it| it.outage = false);
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(refusal(project.verify(&token).await), None);
}

#[tokio::test]
async fn callers_that_give_up_do_not_prevent_a_refresh() {
    let project = Project::start_with(short()).await;
    project.switch(|it| it.latency_ms = 2_000);
    let token = project.token();
    for _ in 0..20 {
        let impatient = tokio::time::timeout(Duration::from_millis(1), project.verify(&token));
        assert!(impatient.await.is_err());
    }
    assert_eq!(refusal(project.verify(&token).await), None);
    assert_eq!(project.provider.key_requests(), 1);
}

#[tokio::test]
async fn a_provider_that_is_gone_is_not_waited_for_long() {
    let mut project = Project::start().await;
    let token = project.token();
    // A port that nobody listens on.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    project.verifier = verifier(&project.fake, |settings| {
        settings.keys = format!("http://{address}/keys");
    });
    let began = Instant::now();
    let error = project.verify(&token).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable(_)), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}
