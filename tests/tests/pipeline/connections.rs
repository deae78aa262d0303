//! Limits of connections: clients that send nothing, send slowly, or do not read their answers.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use cli::open_files;
use common::config::Ports;
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tests::fleet::Role;
use tests::pipeline::small_job;
use tests::real::Real;
use tests::{Options, Pipeline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const SECOND: Duration = Duration::from_secs(1);
/// How long something that happens at once may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

fn ports(change: impl FnOnce(&mut Ports)) -> Options {
    let mut options = Options::default();
    change(&mut options.ports);
    options
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Connects from one of this machine's loopback addresses.
async fn connect_from(own: &str, url: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{own}:0").parse().unwrap()).unwrap();
    socket.connect(address(url)).await.unwrap()
}

async fn connect(url: &str) -> TcpStream {
    connect_from("127.0.0.1", url).await
}

/// Reads until the other side closes the connection, also with a reset; `None` if it does not close in time.
async fn rest(stream: &mut TcpStream, within: Duration) -> Option<String> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(within, stream.read_to_end(&mut bytes)).await;
    read.ok()
        .map(|_| String::from_utf8_lossy(&bytes).into_owned())
}

/// Sends a request on a connection that stays open; `None` if there was no answer.
async fn ask(stream: &mut TcpStream, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(AT_ONCE, stream.read(&mut bytes)).await;
        match read.ok()?.ok()? {
            0 => return None,
            read => answer.extend_from_slice(&bytes[..read]),
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        if text.ends_with("ok\n") {
            return Some(text);
        }
    }
}

/// Reads the counter of refused connections of one port from the process's metrics.
async fn refused(metrics_url: &str, port: &str, reason: &str) -> f64 {
    let text = reqwest::get(format!("{metrics_url}/metrics"))
        .await
        .unwrap();
    let text = text.text().await.unwrap();
    let series =
        format!("platen_connections_refused_total{{port=\"{port}\",reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn silent_connections_lock_nobody_out() {
    let pipeline = Pipeline::start_with(ports(|ports| {
        ports.connections = 64;
        ports.head = Duration::from_mins(1);
    }))
    .await;
    open_files::raise_limit(Ports::default()).unwrap();
    let mut silent = Vec::new();
    for _ in 0..1_024 {
        silent.push(connect(&pipeline.url).await);
    }
    let began = Instant::now();
    let health = format!("{}/livez", pipeline.metrics_url);
    let healthy = pipeline
        .anonymous(Method::GET, &health)
        .send()
        .await
        .unwrap();
    assert_eq!(healthy.status(), StatusCode::OK);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    // Others are served, by displacing who has waited the longest.
    let began = Instant::now();
    let models = pipeline
        .anonymous(Method::GET, "/v1/models")
        .send()
        .await
        .unwrap();
    assert_eq!(models.status(), StatusCode::OK);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(rest(&mut silent[0], AT_ONCE).await.as_deref(), Some(""));
    assert!(
        ask(&mut silent[1_023], "/livez").await.is_some(),
        "the newest"
    );
    let displaced = refused(&pipeline.metrics_url, "api", "displaced").await;
    assert!(displaced >= 960.0, "{displaced}");
    let open = pipeline.anonymous(Method::GET, &format!("{}/metrics", pipeline.metrics_url));
    let open = open.send().await.unwrap().text().await.unwrap();
    assert!(
        open.contains("platen_connections_limit{port=\"api\"} 64\n"),
        "{open}"
    );
    assert!(
        open.contains("platen_connections{port=\"api\"} 6"),
        "{open}"
    );
    drop(silent);
    pipeline.close().await;
}

#[tokio::test]
async fn a_request_under_way_is_not_displaced() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..ports(|ports| ports.connections = 8)
    })
    .await;
    let id = pipeline.submit(&small_job()).await;
    let body = small_job().to_string();
    let request = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nPrefer: wait=60\r\nContent-Length: {}\r\n\r\n{body}",
        pipeline.key,
        body.len()
    );
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&pipeline.url).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    pipeline
        .until("nine jobs are open", AT_ONCE * 4, async || {
            (pipeline.open_jobs().await == 9).then_some(())
        })
        .await;
    let mut late = connect(&pipeline.url).await;
    assert_eq!(rest(&mut late, AT_ONCE).await.as_deref(), Some(""));
    assert!(refused(&pipeline.metrics_url, "api", "total").await >= 1.0);
    let health = format!("{}/livez", pipeline.metrics_url);
    let healthy = pipeline
        .anonymous(Method::GET, &health)
        .send()
        .await
        .unwrap();
    assert_eq!(healthy.status(), StatusCode::OK);
    // All of them are answered.
    let mut pipeline = pipeline;
    pipeline.start_worker().await;
    for mut stream in waiting {
        let mut begin = [0; 15];
        let read = tokio::time::timeout(Duration::from_mins(1), stream.read_exact(&mut begin));
        read.await.unwrap().unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
    }
    pipeline.ended(&id).await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_head_that_is_sent_slowly_is_cut_off() {
    let pipeline = Pipeline::start_with(ports(|ports| ports.head = SECOND)).await;
    let mut stream = connect(&pipeline.url).await;
    let mut silent = connect(&pipeline.url).await;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    let began = Instant::now();
    while stream.write_all(b"x").await.is_ok() {
        assert!(began.elapsed() < AT_ONCE * 4, "still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() >= SECOND / 2, "{:?}", began.elapsed());
    assert_eq!(rest(&mut silent, AT_ONCE).await.as_deref(), Some(""));
    assert!(refused(&pipeline.metrics_url, "api", "head").await >= 1.0);
    assert!(refused(&pipeline.metrics_url, "api", "silent").await >= 1.0);
    pipeline.close().await;
}

#[tokio::test]
async fn a_body_that_is_sent_slowly_is_cut_off() {
    let pipeline = Pipeline::start_with(ports(|ports| ports.body = SECOND)).await;
    let mut stream = connect(&pipeline.url).await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
        pipeline.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    let (mut reading, mut writing) = stream.into_split();
    let drip = async {
        while writing.write_all(b" ").await.is_ok() && began.elapsed() < AT_ONCE * 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut answer = Vec::new();
    let answered = async {
        let _ = reading.read_to_end(&mut answer).await;
    };
    tokio::join!(drip, answered);
    let answer = String::from_utf8_lossy(&answer);
    assert!(began.elapsed() < AT_ONCE * 4, "{:?}", began.elapsed());
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("too slowly"), "{answer}");
    // A large body that is sent fast enough is not cut off: each byte gives it more time.
    let padded = format!("{}{}", " ".repeat(200_000), small_job());
    let (first, last) = padded.split_at(190_000);
    let mut stream = connect(&pipeline.url).await;
    let head = head.replace("100000", &padded.len().to_string());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    tokio::time::sleep(SECOND * 2).await;
    stream.write_all(last.as_bytes()).await.unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 202");
    assert!(pipeline.drained(Duration::from_secs(30)).await);
    pipeline.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let pipeline = Pipeline::start_with(ports(|ports| ports.write = SECOND)).await;
    let mut stream = connect(&pipeline.url).await;
    let asked = 2_000;
    let request = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(asked);
    // A client that does not read cannot write for ever, because the buffers fill up.
    let _ = tokio::time::timeout(SECOND * 2, stream.write_all(request.as_bytes())).await;
    let gone = async || (refused(&pipeline.metrics_url, "api", "write").await >= 1.0).then_some(());
    pipeline
        .until("the api gave up a write", AT_ONCE * 4, gone)
        .await;
    let answers = rest(&mut stream, AT_ONCE * 4).await.unwrap();
    let answers = answers.matches("HTTP/1.1 200").count();
    assert!(answers < asked, "{answers} answers came");
    pipeline.close().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_time() {
    let pipeline = Pipeline::start_with(ports(|ports| {
        ports.idle = SECOND * 3;
        ports.head = SECOND;
    }))
    .await;
    let mut stream = connect(&pipeline.url).await;
    assert!(ask(&mut stream, "/livez").await.is_some());
    // Longer than a head may take: the idle time is another limit.
    tokio::time::sleep(SECOND * 3 / 2).await;
    assert!(ask(&mut stream, "/livez").await.is_some());
    let began = Instant::now();
    assert_eq!(rest(&mut stream, AT_ONCE * 4).await.as_deref(), Some(""));
    assert!(began.elapsed() > SECOND * 2, "{:?}", began.elapsed());
    pipeline.close().await;
}

#[tokio::test]
async fn only_http_1_1_is_supported() {
    let pipeline = Pipeline::start().await;
    for url in [&pipeline.url, &pipeline.metrics_url] {
        let mut stream = connect(url).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        stream.write_all(preface).await.unwrap();
        let answer = rest(&mut stream, AT_ONCE).await.expect("it is closed");
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 "),
            "{answer:?}"
        );
        let mut stream = connect(url).await;
        let upgrade = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
        stream.write_all(upgrade).await.unwrap();
        let mut begin = [0; 15];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .timeout(AT_ONCE);
        let asked = client
            .build()
            .unwrap()
            .get(format!("{url}/livez"))
            .send()
            .await;
        assert!(asked.is_err_and(|error| !error.is_timeout()));
    }
    pipeline.close().await;
}

#[tokio::test]
async fn connections_are_limited_per_address_except_proxies() {
    let mut options = ports(|ports| ports.per_address = 4);
    options.trusted_proxies = vec!["127.0.0.3/32".parse().unwrap()];
    let pipeline = Pipeline::start_with(options).await;
    let mut held = Vec::new();
    for own in ["127.0.0.1"; 4].into_iter().chain(["127.0.0.3"; 12]) {
        let mut stream = connect_from(own, &pipeline.url).await;
        assert!(ask(&mut stream, "/livez").await.is_some(), "{own}");
        held.push(stream);
    }
    let mut fifth = connect(&pipeline.url).await;
    assert_eq!(rest(&mut fifth, AT_ONCE).await.as_deref(), Some(""));
    assert!(refused(&pipeline.metrics_url, "api", "address").await >= 1.0);
    let mut other = connect_from("127.0.0.2", &pipeline.url).await;
    assert!(ask(&mut other, "/livez").await.is_some(), "another address");
    // The slot of a closed connection is free again.
    drop(held.remove(0));
    let again = async || {
        let mut stream = connect(&pipeline.url).await;
        ask(&mut stream, "/livez").await
    };
    pipeline
        .until("a new connection is served", AT_ONCE * 4, again)
        .await;
    drop(held);
    pipeline.close().await;
}

/// Of a process: its open files, its resident memory in KiB, and its CPU time in hundredths of a second.
fn of_process(id: u32) -> (usize, u64, u64) {
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = memory
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let times = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .skip(11)
        .take(2);
    let worked = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    (files, memory, worked)
}

#[tokio::test]
async fn an_api_without_free_files_recovers_and_logs_it() {
    let Real {
        pipeline,
        mut orders,
        folders: _folders,
        ..
    } = Real::start(0..=0).await;
    for (name, value) in [
        ("PLATEN_OPEN_FILES", "2000"),
        ("PLATEN_CONNECTIONS_PER_ADDRESS", "1500"),
        ("PLATEN_HEAD_SECONDS", "300"),
    ] {
        orders.environment.push((name.to_owned(), value.to_owned()));
    }
    let mut apis = orders.start(Role::Api, 1).await.unwrap();
    let api = &mut apis[0];
    let (id, url) = (api.id().unwrap(), format!("http://{}", api.address()));
    // 4,096 connections do not fit into 2,000 files.
    assert!(
        api.last_words()
            .contains("at most 1680 connections are taken"),
        "{}",
        api.last_words()
    );

    open_files::raise_limit(Ports::default()).unwrap();
    let (files, before, _) = of_process(id);
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        let mut stream = connect(&url).await;
        assert!(ask(&mut stream, "/livez").await.is_some());
        idle.push(stream);
    }
    let (_, after, _) = of_process(id);
    let each = (after.saturating_sub(before)) / 1_000;
    assert!(
        each <= 24,
        "{each} KiB for each idle connection: {before} before, {after} after"
    );
    drop(idle);

    let few = |limit: usize| {
        let word = format!("--nofile={limit}:2000");
        let set = Command::new("prlimit")
            .args(["--pid", &id.to_string(), &word])
            .status();
        assert!(set.unwrap().success());
    };
    let left = async || (of_process(id).0 <= files + 8).then_some(());
    pipeline
        .until("the connections are closed", AT_ONCE * 4, left)
        .await;
    let (files, ..) = of_process(id);
    few(files + 10);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(connect(&url).await);
    }
    let (.., before) = of_process(id);
    tokio::time::sleep(SECOND * 3).await;
    let (.., after) = of_process(id);
    assert!(
        after - before < 150,
        "it spins: {} hundredths in 3 s",
        after - before
    );
    // Connections without a request are closed to free files, so others are served.
    let served = async || reqwest::get(format!("{url}/livez")).await.ok();
    pipeline.until("the api answers", AT_ONCE * 4, served).await;
    few(2_000);
    pipeline.until("the api answers", AT_ONCE * 4, served).await;
    let log = std::fs::read_to_string(api.log()).unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains("no more files"))
        .count();
    assert!((1..=30).contains(&lines), "{lines} lines");
    let metrics = format!("http://{}", api.metrics_address());
    assert!(refused(&metrics, "api", "files").await >= 1.0);
    drop(held);

    // A stop closes idle connections at once.
    let mut resting = connect(&url).await;
    assert!(ask(&mut resting, "/livez").await.is_some());
    let began = Instant::now();
    assert!(api.stop().await.unwrap().success());
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    pipeline.close().await;
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_answers_the_rest() {
    let Real {
        pipeline,
        orders,
        folders: _folders,
        ..
    } = Real::start(0..=0).await;
    let mut apis = orders.start(Role::Api, 1).await.unwrap();
    let url = format!("http://{}", apis[0].address());
    let mut resting = connect(&url).await;
    assert!(ask(&mut resting, "/livez").await.is_some());
    let mut silent = connect(&url).await;
    let body = small_job().to_string();
    let request = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nPrefer: wait=4\r\nContent-Length: {}\r\n\r\n{body}",
        pipeline.key,
        body.len()
    );
    let mut waiting = connect(&url).await;
    waiting.write_all(request.as_bytes()).await.unwrap();
    let submitted = async || (pipeline.open_jobs().await == 1).then_some(());
    pipeline
        .until("one job is open", AT_ONCE * 4, submitted)
        .await;
    apis[0].signal(Signal::SIGTERM).unwrap();
    // For a moment it still accepts connections, until a load balancer has noticed.
    let ready = reqwest::get(format!("{url}/readyz")).await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.headers()["connection"], "close");
    for stream in [&mut resting, &mut silent] {
        assert_eq!(rest(stream, AT_ONCE).await.as_deref(), Some(""));
    }
    let answer = rest(&mut waiting, AT_ONCE * 4).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(
        answer.to_lowercase().contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    assert!(apis[0].wait().await.unwrap().success());
    let id = pipeline.get("/v1/jobs").await.1["data"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (status, _) = pipeline
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    pipeline.close().await;
}
