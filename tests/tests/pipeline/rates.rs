//! Rate limits: per address, per tenant, per key, and for requests with a wrong key.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::config::{Rate, Rates};
use domain::api_key::ApiKey;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tests::fleet::Role;
use tests::pipeline::OPERATOR_KEY;
use tests::real::Real;
use tests::{Options, Pipeline};

/// One more request a minute, so that none is added during a test.
fn slow(burst: u32) -> Rate {
    Rate {
        per_minute: 1,
        burst,
    }
}

async fn with(rates: Rates) -> Pipeline {
    let options = Options {
        workers: 0,
        rates,
        ..Options::default()
    };
    Pipeline::start_with(options).await
}

async fn send(request: RequestBuilder) -> (StatusCode, HeaderMap, Value) {
    let answer: Response = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, answer.json().await.unwrap_or_default())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// The items of a list of structured fields (RFC 9651): each a name in quotes with whole numbers as parameters.
fn items(text: &str) -> Vec<(String, Vec<(String, u64)>)> {
    let item = |item: &str| {
        let mut parts = item.trim().split(';');
        let name = parts.next()?.strip_prefix('"')?.strip_suffix('"')?;
        let parameters = parts.map(|part| {
            let (key, value) = part.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        });
        Some((name.to_owned(), parameters.collect::<Option<_>>()?))
    };
    let items = text.split(',').map(item).collect::<Option<_>>();
    items.unwrap_or_else(|| panic!("not well formed: {text:?}"))
}

#[tokio::test]
async fn every_answer_has_well_formed_rate_limit_headers() {
    let pipeline = with(Rates::default()).await;
    let number = |name: &str, value| (name.to_owned(), value);
    let policy = |name: &str, q, w| (name.to_owned(), vec![number("q", q), number("w", w)]);
    let (status, headers, _) = send(pipeline.request(Method::GET, "/v1/credits")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        items(header(&headers, "ratelimit-policy")),
        [
            policy("address", 3_000, 10),
            policy("key", 2_000, 10),
            policy("tenant", 2_000, 10)
        ]
    );
    let limits = items(header(&headers, "ratelimit"));
    let names: Vec<&str> = limits.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["address", "key", "tenant"]);
    for (name, parameters) in &limits {
        let [(r, left), (t, seconds)] = &parameters[..] else {
            panic!("{name}: {parameters:?}")
        };
        assert_eq!((r.as_str(), t.as_str()), ("r", "t"));
        assert!(
            (1_900..3_000).contains(left) && *seconds <= 1,
            "{name}: {parameters:?}"
        );
    }
    let wrong = format!("Bearer {}", ApiKey::generate().expose());
    for (method, path, key, status) in [
        (Method::GET, "/v1/models", None, 200),
        (Method::GET, "/v1/credits", None, 401),
        (Method::GET, "/v1/credits", Some(wrong.as_str()), 401),
        (Method::GET, "/nothing", None, 404),
        (Method::DELETE, "/v1/models", None, 405),
        (Method::GET, "/files/t/1?expires=1&signature=0", None, 403),
        (Method::GET, "/", None, 200),
        (Method::GET, "/openapi.json", None, 200),
    ] {
        let request = pipeline
            .anonymous(method, path)
            .header("origin", "https://studio.example");
        let request = key
            .into_iter()
            .fold(request, |request, key| request.header("authorization", key));
        let (was, headers, _) = send(request).await;
        assert_eq!(was.as_u16(), status, "{path}");
        assert_eq!(
            items(header(&headers, "ratelimit"))[0].0,
            "address",
            "{path}"
        );
        let exposed = header(&headers, "access-control-expose-headers");
        assert!(exposed.contains("ratelimit,ratelimit-policy"), "{exposed}");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn each_address_has_its_own_limit() {
    let mut options = Options {
        workers: 0,
        rates: Rates {
            address: Some(slow(5)),
            ..Rates::OFF
        },
        ..Options::default()
    };
    options.trusted_proxies = vec!["127.0.0.3/32".parse().unwrap()];
    let pipeline = Pipeline::start_with(options).await;
    let from = |own: [u8; 4]| {
        let client = Client::builder().local_address(IpAddr::from(own));
        client.timeout(Duration::from_secs(30)).build().unwrap()
    };
    let url = format!("{}/v1/models", pipeline.url);
    let client = from([127, 0, 0, 1]);
    for left in (0..5).rev() {
        let (status, headers, _) = send(client.get(&url)).await;
        assert_eq!(status, StatusCode::OK);
        let limit = header(&headers, "ratelimit");
        assert!(
            limit.starts_with(&format!("\"address\";r={left};t=")),
            "{limit}"
        );
    }
    let (status, headers, problem) = send(client.get(&url)).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem["code"], "rate_limited");
    assert_eq!(problem["limit"], "address");
    let wait: u64 = header(&headers, "retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(
        header(&headers, "ratelimit-policy"),
        "\"address\";q=5;w=300"
    );
    assert!(header(&headers, "ratelimit").starts_with("\"address\";r=0;t="));
    // Valid keys do not help, not even the operators'. Probes are always answered.
    for key in [pipeline.key.as_str(), OPERATOR_KEY] {
        let request = client
            .get(format!("{}/v1/admin/pauses", pipeline.url))
            .bearer_auth(key);
        assert_eq!(send(request).await.0, StatusCode::TOO_MANY_REQUESTS);
    }
    for path in ["/livez", "/readyz"] {
        let (status, headers, _) = send(client.get(format!("{}{path}", pipeline.url))).await;
        assert_eq!((status, headers.get("ratelimit")), (StatusCode::OK, None));
    }
    assert_eq!(send(from([127, 0, 0, 2]).get(&url)).await.0, StatusCode::OK);
    // A trusted proxy names its client; everything before that was invented by the client.
    let proxy = from([127, 0, 0, 3]);
    let through = |client: &str| proxy.get(&url).header("x-forwarded-for", client);
    for n in 0..5 {
        let invented = format!("10.0.0.{n}, 203.0.113.9");
        assert_eq!(send(through(&invented)).await.0, StatusCode::OK);
    }
    assert_eq!(
        send(through("203.0.113.9")).await.0,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(send(through("203.0.113.10")).await.0, StatusCode::OK);
    // Without a trusted proxy, the header is ignored.
    let invented = client.get(&url).header("x-forwarded-for", "203.0.113.11");
    assert_eq!(send(invented).await.0, StatusCode::TOO_MANY_REQUESTS);
    pipeline.close().await;
}

#[tokio::test]
async fn each_key_and_each_tenant_has_its_own_limit() {
    let pipeline = with(Rates {
        tenant: Some(slow(6)),
        key: Some(slow(4)),
        ..Rates::OFF
    })
    .await;
    let (_, other) = pipeline.add_tenant(10).await;
    let ask = |key: &str| {
        pipeline
            .anonymous(Method::GET, "/v1/credits")
            .bearer_auth(key)
    };
    for _ in 0..4 {
        assert_eq!(send(ask(&pipeline.key)).await.0, StatusCode::OK);
    }
    let (status, headers, problem) = send(ask(&pipeline.key)).await;
    assert_eq!((status.as_u16(), &problem["limit"]), (429, &json!("key")));
    assert!(!header(&headers, "retry-after").is_empty());
    let second = pipeline.add_key().await;
    for _ in 0..2 {
        assert_eq!(send(ask(&second)).await.0, StatusCode::OK);
    }
    let (status, headers, problem) = send(ask(&second)).await;
    assert_eq!(
        (status.as_u16(), &problem["limit"]),
        (429, &json!("tenant"))
    );
    assert!(header(&headers, "ratelimit").contains("\"tenant\";r=0;t="));
    assert_eq!(send(ask(&other)).await.0, StatusCode::OK);
    for _ in 0..20 {
        let request = pipeline
            .anonymous(Method::GET, "/v1/admin/pauses")
            .bearer_auth(OPERATOR_KEY);
        assert_eq!(send(request).await.0, StatusCode::OK);
    }
    pipeline.close().await;
}

#[tokio::test]
async fn wrong_keys_are_limited_and_logged_once_a_second() {
    let Real {
        pipeline,
        mut orders,
        folders: _folders,
        ..
    } = Real::start(0..=0).await;
    orders
        .environment
        .push(("PLATEN_RATE_FAILURES".to_owned(), "1,10".to_owned()));
    let mut apis = orders.start(Role::Api, 1).await.unwrap();
    let url = format!("http://{}/v1/credits", apis[0].address());
    let client = Client::builder()
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let good = || client.get(&url).bearer_auth(&pipeline.key);
    assert_eq!(send(good()).await.0, StatusCode::OK);
    let began = Instant::now();
    let mut answers = Vec::new();
    for n in 0..300 {
        let path = if n % 2 == 0 {
            url.clone()
        } else {
            url.replace("credits", "admin/pauses")
        };
        let wrong = client.get(path).bearer_auth(ApiKey::generate().expose());
        answers.push(send(wrong).await.0.as_u16());
    }
    assert_eq!(answers[..10], [401; 10]);
    assert!(
        answers[10..].iter().all(|status| *status == 429),
        "{answers:?}"
    );
    // A key that was valid before is not locked out by others behind the same address. Other keys are not looked up.
    assert_eq!(send(good()).await.0, StatusCode::OK);
    let (_, another) = pipeline.add_tenant(1).await;
    let (status, headers, problem) = send(client.get(&url).bearer_auth(another)).await;
    assert_eq!(
        (status.as_u16(), &problem["limit"]),
        (429, &json!("failures"))
    );
    assert!(!header(&headers, "retry-after").is_empty());
    // Without a key there is nothing to look up.
    assert_eq!(send(client.get(&url)).await.0, StatusCode::UNAUTHORIZED);

    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let most = began.elapsed().as_secs() + 1;
    let log = std::fs::read_to_string(apis[0].log()).unwrap();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("a wrong key"))
        .collect();
    assert!(!lines.is_empty() && lines.len() as u64 <= most, "{log}");
    assert!(
        lines[0].contains("adr_") && !log.contains("127.0.0.1"),
        "{log}"
    );
    let metrics = format!("http://{}/metrics", apis[0].metrics_address());
    let metrics = client
        .get(metrics)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for series in [
        "platen_failed_authentications_total{of=\"tenant\"} 5",
        "platen_failed_authentications_total{of=\"operator\"} 5",
        "platen_rate_limited_total{limit=\"failures\"} 291",
    ] {
        assert!(metrics.contains(series), "{series}: {metrics}");
    }
    assert!(apis[0].stop().await.unwrap().success());
    pipeline.close().await;
}
