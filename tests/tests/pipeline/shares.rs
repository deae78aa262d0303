//! Fair shares: many requests of one tenant do not delay others, and no request takes more memory than was counted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bucket::Bucket;
use bytes::Bytes;
use domain::clock;
use futures::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tests::pipeline::small_job;
use tests::{Options, Pipeline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

/// A value of this process in `/proc/self/status`, in bytes.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let digits = line.trim_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<usize>().unwrap() * 1024
}

/// Resets the kernel's peak of this process's memory (`VmHWM`).
fn reset_memory_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_takes_a_small_multiple_of_its_size() {
    const SIZE: usize = 25_000_000;
    let pipeline = Pipeline::start_with(Options {
        credits: 0,
        ..Options::default()
    })
    .await;
    let many = format!(r#"{{"inputs":[{}{{}}]}}"#, "{},".repeat(SIZE / 3));
    let pairs = format!(
        r#"{{"metadata":{{{}"k":"v"}}}}"#,
        r#""":"","#.repeat(SIZE / 6)
    );
    let name = format!(r#"{{"{}":1}}"#, "n".repeat(SIZE));
    let value = format!(r#"{{"size":"{}"}}"#, "v".repeat(SIZE));
    let wrong = format!(r#"{{"outputs":"{}"}}"#, "v".repeat(SIZE));
    let data = format!(
        r#"{{"inputs":[{{"data":"{}","rolle":"x"}}]}}"#,
        "v".repeat(SIZE)
    );
    for body in [many, pairs, name, value, wrong, data] {
        let begins = body[..20].to_owned();
        let (length, before) = (body.len(), memory("VmRSS"));
        reset_memory_peak();
        let request = pipeline.request(Method::POST, "/v1/jobs?dry_run=true");
        let request = request.header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status();
        let answer = answer.text().await.unwrap();
        let more = memory("VmHWM").saturating_sub(before);
        assert_eq!(
            status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{begins}: {answer}"
        );
        assert!(answer.len() < 5_000, "{begins}: {}", answer.len());
        // The client runs in this process, so its memory is included.
        assert!(
            more < 4 * length + (16 << 20),
            "{begins}: {more} bytes more"
        );
    }
    pipeline.close().await;
}

#[tokio::test]
async fn at_most_fifty_violations_are_reported() {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["inputs"] = json!(vec![json!({}); 64]);
    let (status, problem) = pipeline.post("/v1/jobs", &body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 50);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("more are left out"), "{detail}");
    body["inputs"] = json!(vec![json!({}); 65]);
    let (_, problem) = pipeline.post("/v1/jobs", &body).await;
    assert_eq!(problem["errors"][0]["pointer"], "/inputs");
    assert_eq!(problem["errors"][0]["detail"], "At most 64 items.");
    pipeline.close().await;
}

#[tokio::test]
async fn images_are_decoded_only_if_nothing_else_is_wrong() {
    let pipeline = Pipeline::start_with(Options {
        credits: 1,
        ..Options::default()
    })
    .await;
    let damaged = STANDARD.encode(&PHOTO[..PHOTO.len() / 2]);
    let mut body = small_job();
    body["inputs"] = json!([{"data": damaged, "media_type": "image/jpeg", "role": "product"}]);
    let ask = async |path: &str, body: &Value| {
        let (status, problem) = pipeline.post(path, body).await;
        (
            status.as_u16(),
            problem["code"].as_str().unwrap().to_owned(),
        )
    };
    let poor = ask("/v1/jobs", &body).await;
    assert_eq!(poor, (402, "insufficient_credits".to_owned()));
    let quoted = ask("/v1/jobs?dry_run=true", &body).await;
    assert_eq!(quoted, (422, "invalid_request".to_owned()));
    body["model"] = json!("dall-e");
    let unknown = ask("/v1/jobs?dry_run=true", &body).await;
    assert_eq!(unknown, (404, "unknown_model".to_owned()));
    pipeline.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_nobody_reads_takes_little_memory() {
    const LENGTH: usize = 20_000_000;
    const READERS: usize = 40;
    let pipeline = Pipeline::start().await;
    let key = pipeline.config.signing_key().unwrap().clone();
    let bucket = Bucket::open(&pipeline.config.bucket().unwrap(), key).unwrap();
    let file: Vec<u8> = (0..LENGTH)
        .map(|at| u8::try_from(at / 1_000 % 251).unwrap())
        .collect();
    let object = "t/1/j/2/3/0.png";
    bucket.put_new(object, file.clone().into()).await.unwrap();
    let path = bucket.local_link(object, "a.png", clock::now(), Duration::from_mins(5));
    let before = memory("VmRSS");
    let address = pipeline.url.strip_prefix("http://").unwrap();
    let mut unread = Vec::new();
    for _ in 0..READERS {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        connection.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        unread.push(connection);
    }
    // Meanwhile other clients can download, and the chunks make up the same file.
    let got = pipeline.download(&format!("{}{path}", pipeline.url)).await;
    assert!(got == file, "another file");
    drop(got);
    let more = memory("VmRSS").saturating_sub(before);
    let whole = LENGTH * READERS;
    assert!(
        more < whole / 5,
        "{more} bytes for {READERS} files of {LENGTH}"
    );
    let part = pipeline
        .anonymous(Method::GET, &path)
        .header("range", "bytes=131070-400000")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    let part: Bytes = part.bytes().await.unwrap();
    assert!(part[..] == file[131_070..=400_000], "another part");
    drop(unread);
    pipeline.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submits_that_wait_for_a_wallet_hold_one_connection() {
    const CROWD: usize = 50;
    let pipeline = Pipeline::start().await;
    let (_, other) = pipeline.add_tenant(10).await;
    let mut owner = pipeline.owner().await;
    sqlx::query("BEGIN").execute(&mut owner).await.unwrap();
    sqlx::query("SELECT FROM wallets WHERE tenant_id = $1 FOR UPDATE")
        .bind(pipeline.tenant.0)
        .execute(&mut owner)
        .await
        .unwrap();
    let crowd = async {
        let job = small_job();
        let submits = (0..CROWD).map(|_| pipeline.post("/v1/jobs", &job));
        join_all(submits).await
    };
    let watch = async {
        // Only a superuser sees what other logins wait for.
        let superuser = PgPoolOptions::new().max_connections(1);
        let url = pipeline.servers.owner_url_of(&pipeline.database);
        let superuser = superuser.connect(&url).await.unwrap();
        let behind = async || {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(&superuser)
            .await
            .unwrap();
            usize::try_from(waiting).unwrap()
        };
        pipeline
            .until(
                "a connection waits for the wallet",
                Duration::from_secs(10),
                async || (behind().await >= 1).then_some(()),
            )
            .await;
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let began = Instant::now();
            let credits = pipeline.anonymous(Method::GET, "/v1/credits");
            let credits = credits.bearer_auth(&other).send().await.unwrap();
            assert_eq!(credits.status(), StatusCode::OK);
            slowest = slowest.max(began.elapsed());
            assert!(behind().await <= 1);
        }
        sqlx::query("ROLLBACK").execute(&mut owner).await.unwrap();
        superuser.close().await;
        slowest
    };
    let (answers, slowest) = futures::join!(crowd, watch);
    // The lock timeout is two seconds. If the waiting requests held all connections, the other tenant would wait as long.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let accepted = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::ACCEPTED);
    let accepted = accepted.count();
    assert!(accepted >= CROWD / 2, "{accepted}");
    for (status, problem) in &answers {
        let told = [StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE];
        assert!(told.contains(status), "{problem}");
    }
    assert!(pipeline.drained(Duration::from_secs(30)).await);
    pipeline.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_beyond_the_share_are_answered_at_once() {
    const SHARE: usize = 200;
    let mut pipeline = Pipeline::start_with(Options {
        credits: 100_000,
        workers: 0,
        ..Options::default()
    })
    .await;
    let requests = (0..SHARE + 5).map(|_| {
        let request = pipeline.request(Method::POST, "/v1/jobs");
        request.header("prefer", "wait=60").json(&small_job())
    });
    let mut answers: JoinSet<_> = requests.map(RequestBuilder::send).collect();
    for _ in 0..5 {
        let answer = answers.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        assert!(!answer.headers().contains_key("preference-applied"));
    }
    pipeline.start_worker().await;
    while let Some(answer) = answers.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["preference-applied"], "wait=60");
    }
    assert!(pipeline.drained(Duration::from_secs(30)).await);
    pipeline.close().await;
}

/// An image of 24 megapixels, which takes a while to render.
fn large() -> Vec<u8> {
    let picture = image::RgbImage::from_fn(6_000, 4_000, |x, y| {
        image::Rgb(
            [x % 251, y % 241, (x / 8 + y / 8) % 256].map(|part| u8::try_from(part).unwrap()),
        )
    });
    let mut file = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut file, image::ImageFormat::Jpeg)
        .unwrap();
    file.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_uploads_leave_render_slots_for_others() {
    const CROWD: usize = 6;
    let pipeline = Pipeline::start_with(Options {
        credits: 0,
        ..Options::default()
    })
    .await;
    let (_, other) = pipeline.add_tenant(0).await;
    let file = Bytes::from(large());
    let ended = AtomicUsize::new(0);
    let crowd = join_all((0..CROWD).map(async |_| {
        let upload = pipeline.request(Method::POST, "/v1/uploads");
        let answer = upload.body(file.clone()).send().await.unwrap();
        ended.fetch_add(1, Ordering::SeqCst);
        answer.status()
    }));
    let others = async {
        // Wait until the first upload has ended: by then others of the same tenant have a render slot.
        pipeline
            .until("a request has ended", Duration::from_mins(1), async || {
                (ended.load(Ordering::SeqCst) > 0).then_some(())
            })
            .await;
        for _ in 0..2 {
            let upload = pipeline.anonymous(Method::POST, "/v1/uploads");
            let upload = upload.bearer_auth(&other).body(PHOTO).send().await.unwrap();
            assert_eq!(upload.status(), StatusCode::CREATED);
        }
        ended.load(Ordering::SeqCst)
    };
    let (statuses, before) = futures::join!(crowd, others);
    assert!(before < CROWD, "all {before} of the crowd came first");
    for status in statuses {
        let told = [StatusCode::CREATED, StatusCode::SERVICE_UNAVAILABLE];
        assert!(told.contains(&status), "{status}");
    }
    pipeline.close().await;
}
