//! `make flood`: as many calls in flight as asked for, and then all their answers at once.
//!
//! One worker is a real process with a slot for each job and the memory it is configured with. The provider answers what a
//! fake of Vertex AI has answered once, 2K pictures; it holds every call until all have come, and a while longer, and
//! then answers all of them, in chunks, as fast as anybody reads. Prints what the worker's memory was meanwhile, and exits with 1
//! when that was more than it may take, a job failed or was called twice, or nothing moved for long.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use clap::Parser;
use fakes::Switches;
use futures::stream;
use redis::AsyncCommands;
use serde_json::json;
use servers::Tuning;
use tests::clients::Clients;
use tests::fleet::{Process, Role};
use tests::real::Real;
use tests::servers::{TestServers, connect_to_redis};
use tests::{Options, models};
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;

const MODEL: &str = "gemini-3-pro-image";
/// Clients that submit side by side.
const CLIENTS: usize = 16;
/// What the answers come in.
const CHUNK: usize = 32 << 10;
/// No answer may be read and no job end for so long, once the answers come.
const STALL: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Words {
    /// Calls in flight at once.
    #[arg(long, default_value_t = 2_000)]
    calls: usize,
    /// Seconds they are held once all have come.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// What the worker may take, in MiB.
    #[arg(long, default_value_t = 512)]
    memory: usize,
}

/// The provider: what it says, and when.
struct Crowd {
    /// Who is asked the first time.
    fake: String,
    client: reqwest::Client,
    said: OnceCell<Bytes>,
    calls: AtomicUsize,
    answers: watch::Receiver<bool>,
    /// Answers that were taken whole.
    read: AtomicUsize,
}

/// What the worker took at a moment.
struct Sample {
    at: Duration,
    kib: u64,
    read: usize,
    ended: i64,
}

impl Sample {
    fn moved(&self) -> (usize, i64) {
        (self.read, self.ended)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words {
        calls,
        seconds,
        memory,
    } = Words::parse();
    let (_folder, servers, named) = TestServers::own(Tuning::Durable).await;
    let options = Options::in_earnest();
    let Real {
        pipeline,
        fake,
        mut orders,
        folders,
    } = Real::start_on(named, options, 0..=0).await;
    fake.faults().set(Switches {
        plain: true,
        grain: true,
        ..Switches::default()
    });
    let (answer, answers) = watch::channel(false);
    let crowd = Arc::new(Crowd {
        fake: fake.base_url(),
        client: reqwest::Client::builder().build().unwrap(),
        said: OnceCell::new(),
        calls: AtomicUsize::new(0),
        answers,
        read: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new()
        .fallback(take)
        .with_state(Arc::clone(&crowd));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await });

    models::change(
        &folders.catalogue,
        "vertex.toml",
        &format!("base_url = \"{}\"", fake.base_url()),
        &format!("base_url = \"{url}\""),
    );
    orders.config.slots = calls;
    orders.config.memory = memory << 20;
    let api = orders.start(Role::Api, 1).await.unwrap().pop().unwrap();
    let worker = orders.start(Role::Worker, 1).await.unwrap().pop().unwrap();
    learned(&pipeline, calls).await;
    let idle = resident(&worker, "VmRSS");
    println!(
        "{calls} calls of a worker that may take {memory} MiB; idle it takes {}",
        mib(idle)
    );

    let began = Instant::now();
    // One tenant alone may not have all calls of a lane.
    let (_, other) = pipeline.add_tenant(100_000_000).await;
    let clients =
        [&pipeline.key, &other].map(|key| Arc::new(Clients::new(key, vec![api.address()])));
    submit(&clients, calls).await;
    println!("all submitted after {:.1} s", began.elapsed().as_secs_f64());
    while crowd.calls.load(Ordering::Relaxed) < calls {
        assert!(
            began.elapsed() < Duration::from_mins(3),
            "{} of {calls} calls came",
            crowd.calls.load(Ordering::Relaxed)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let in_flight = resident(&worker, "VmRSS");
    println!(
        "all in flight after {:.1} s: {}, {:.1} KiB a call",
        began.elapsed().as_secs_f64(),
        mib(in_flight),
        f64::from(u32::try_from(in_flight.saturating_sub(idle)).unwrap())
            / f64::from(u32::try_from(calls).unwrap()),
    );
    tokio::time::sleep(Duration::from_secs(seconds)).await;

    let said = crowd.said.get().unwrap().len();
    println!(
        "all answered at once, {:.1} MiB each",
        mebibytes(said as u64 / 1024)
    );
    answer.send_replace(true);
    let samples = watch(&pipeline, &worker, &crowd, calls).await;
    curve(&samples, memory);

    let peak = resident(&worker, "VmHWM");
    let succeeded: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'succeeded'")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap();
    let succeeded = usize::try_from(succeeded).unwrap();
    let took = samples.last().map_or(0.0, |last| last.at.as_secs_f64());
    let stalled = longest_stall(&samples);
    let called = crowd.calls.load(Ordering::Relaxed);
    let mut well = true;
    let mut say = |holds: bool, says: String| {
        well &= holds;
        println!("  {}  {says}", if holds { "ok    " } else { "MISSED" });
    };
    say(
        peak <= (memory as u64) << 10,
        format!("the worker took {} at most, of {memory} MiB", mib(peak)),
    );
    say(
        succeeded == calls,
        format!("{succeeded} of {calls} jobs succeeded, in {took:.0} s"),
    );
    say(
        called == calls,
        format!("{called} calls were made for them"),
    );
    say(
        stalled < STALL,
        format!(
            "it went on all the time: never longer than {:.1} s without an answer read or a job ended",
            stalled.as_secs_f64()
        ),
    );
    drop((api, worker));
    let mut closing = JoinSet::new();
    closing.spawn(pipeline.close());
    let closed = closing
        .join_next()
        .await
        .is_some_and(|closed| closed.is_ok());
    say(closed, "the books close".to_owned());
    servers.stop().await;
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A call. Tokens and whatever else is asked for come from the fake.
async fn take(
    State(crowd): State<Arc<Crowd>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let said = crowd.said.get_or_init(async || {
        let mut asked = crowd.client.post(format!("{}{uri}", crowd.fake));
        for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
            asked = asked.header(&name, &headers[&name]);
        }
        let answer = asked.body(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.bytes().await.unwrap()
    });
    let said = said.await.clone();
    crowd.calls.fetch_add(1, Ordering::Relaxed);
    let mut answers = crowd.answers.clone();
    answers.wait_for(|answers| *answers).await.unwrap();
    let chunks = (0..said.len()).step_by(CHUNK).map(move |at| {
        let end = said.len().min(at + CHUNK);
        if end == said.len() {
            crowd.read.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, std::convert::Infallible>(said.slice(at..end))
    });
    let body = Body::from_stream(stream::iter(chunks));
    (
        [(header::CONTENT_TYPE, "application/json; charset=UTF-8")],
        body,
    )
        .into_response()
}

/// As if the lane had learned before that its provider bears so many.
async fn learned(pipeline: &tests::Pipeline, calls: usize) {
    let lane = pipeline.lane(MODEL).await.lane;
    let mut redis = connect_to_redis(&pipeline.servers.redis_url).await;
    let key = format!("{}:lane:{lane}", pipeline.config.queue);
    let _new: i64 = redis.hset(key, "limit", calls).await.unwrap();
}

async fn submit(clients: &[Arc<Clients>; 2], calls: usize) {
    let mut submitting = JoinSet::new();
    for client in 0..CLIENTS {
        let clients = Arc::clone(&clients[client % 2]);
        submitting.spawn(async move {
            for number in (client..calls).step_by(CLIENTS) {
                let job =
                    json!({"model": MODEL, "prompt": format!("bottle {number}"), "size": "2K"});
                clients.submit(number, &job).await.unwrap();
            }
        });
    }
    while let Some(submitted) = submitting.join_next().await {
        submitted.unwrap();
    }
}

/// What the worker takes until every job has ended, or nothing moves.
async fn watch(
    pipeline: &tests::Pipeline,
    worker: &Process,
    crowd: &Crowd,
    calls: usize,
) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut moved = Instant::now();
    loop {
        let ended: i64 =
            sqlx::query_scalar("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")
                .fetch_one(&pipeline.reader)
                .await
                .unwrap();
        samples.push(Sample {
            at: began.elapsed(),
            kib: resident(worker, "VmRSS"),
            read: crowd.read.load(Ordering::Relaxed),
            ended,
        });
        if samples.last().map(Sample::moved) != samples.iter().nth_back(1).map(Sample::moved) {
            moved = Instant::now();
        }
        if ended >= i64::try_from(calls).unwrap() || moved.elapsed() > STALL * 4 {
            return samples;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn longest_stall(samples: &[Sample]) -> Duration {
    let mut longest = Duration::ZERO;
    let mut moved = Duration::ZERO;
    for (before, now) in samples.iter().zip(samples.iter().skip(1)) {
        if now.moved() != before.moved() {
            moved = now.at;
        }
        longest = longest.max(now.at.saturating_sub(moved));
    }
    longest
}

/// The most of each twentieth of the time.
fn curve(samples: &[Sample], memory: usize) {
    println!("seconds  answers read  jobs ended  resident");
    for part in samples.chunks(samples.len().div_ceil(20)) {
        let last = part.last().unwrap();
        let kib = part.iter().map(|sample| sample.kib).max().unwrap();
        let bar = "#".repeat(usize::try_from(kib / 1024).unwrap() * 50 / memory);
        println!(
            "{:7.0}  {:12}  {:10}  {:>9}  {bar}",
            last.at.as_secs_f64(),
            last.read,
            last.ended,
            mib(kib)
        );
    }
}

/// A line of the worker's `/proc/…/status`, in KiB.
fn resident(worker: &Process, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id().unwrap())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(what))
        .unwrap();
    let digits = line.trim_matches(|c: char| !c.is_ascii_digit());
    digits.parse().unwrap()
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap()) / 1024.0
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", mebibytes(kib))
}
