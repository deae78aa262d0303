//! `make flood`: thousands of calls in flight, and then all their answers at once.
//!
//! One worker is a real process with a slot for each job and a memory limit. The provider repeats what a fake of Vertex AI
//! has answered once: a 2K image. It holds every call until all have come and a while longer, and then answers all of
//! them in chunks, as fast as the worker reads. Prints the memory of the worker over time. Exits with 1 if the worker used
//! more than it may, a job failed or was called twice, or there was no progress for long.
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
use serde_json::json;
use tests::clients::Clients;
use tests::figures::memory_kib;
use tests::fleet::{Process, Role};
use tests::one_answer::{self, JSON, OneAnswer};
use tests::proof::Proof;
use tests::real::Real;
use tests::wait::until;
use tests::{Options, models};
use tokio::sync::watch;

const MODEL: &str = "gemini-3-pro-image";
/// Clients of one tenant that submit at the same time.
const CLIENTS: usize = 8;
/// The size of the parts of an answer, in bytes.
const CHUNK_BYTES: usize = 32 << 10;
/// The longest time without progress, once the answers come: no answer read and no job ended.
const MAX_STALL: Duration = Duration::from_secs(30);
const CALLS_TIMEOUT: Duration = Duration::from_mins(3);

#[derive(Parser)]
struct Arguments {
    /// Calls in flight at the same time.
    #[arg(long, default_value_t = 2_000)]
    calls: usize,
    /// Seconds that the calls are held once all have come.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The memory limit of the worker, in MiB.
    #[arg(long, default_value_t = 512)]
    memory: usize,
    /// Do not state in the catalogue that the provider takes so many calls: the lane must learn it.
    #[arg(long)]
    learn: bool,
}

/// The provider.
struct Provider {
    answer: OneAnswer,
    calls: AtomicUsize,
    /// Whether calls are answered.
    answers: watch::Receiver<bool>,
    /// Answers that were read to their end.
    read: AtomicUsize,
}

/// The state of the worker at a moment.
struct Sample {
    at: Duration,
    /// The memory that it uses.
    kib: u64,
    read: usize,
    ended: i64,
}

impl Sample {
    fn progress(&self) -> (usize, i64) {
        (self.read, self.ended)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments {
        calls,
        seconds,
        memory,
        learn,
    } = Arguments::parse();
    let mut proof = Proof::default();
    let Real {
        pipeline,
        fake,
        mut orders,
        folders,
    } = Real::start_alone(Options::in_earnest(), 0..=0).await;
    fake.faults().set(Switches {
        plain: true,
        grain: true,
        ..Switches::default()
    });
    let (answer, answers) = watch::channel(false);
    let provider = Arc::new(Provider {
        answer: OneAnswer::of(&fake),
        calls: AtomicUsize::new(0),
        answers,
        read: AtomicUsize::new(0),
    });
    let app = axum::Router::new()
        .fallback(answer_call)
        .with_state(Arc::clone(&provider));
    let _serving = one_answer::serve(app, &folders.catalogue, &fake).await;
    if !learn {
        // The model is the first of its file.
        let timeout = "timeout_seconds = 180";
        let stated = format!("{timeout}\nconcurrency = {calls}");
        models::change(&folders.catalogue, "vertex.toml", timeout, &stated);
    }
    orders.config.slots = calls;
    orders.config.memory = memory << 20;
    let api = orders.start_one(Role::Api).await.unwrap();
    let worker = orders.start_one(Role::Worker).await.unwrap();
    let idle = resident(&worker, "VmRSS");
    println!(
        "{calls} calls of a worker that may use {memory} MiB; idle it uses {}",
        mib(idle)
    );

    let began = Instant::now();
    // Two tenants, because one alone may not have all calls of a lane.
    let (_, other) = pipeline.add_tenant(100_000_000).await;
    let [first, second] = [&pipeline.key, &other].map(|key| Clients::new(key, vec![api.address()]));
    let job = |number| json!({"model": MODEL, "prompt": format!("bottle {number}"), "size": "2K"});
    tokio::try_join!(
        first.submit_all(0..calls / 2, CLIENTS, job),
        second.submit_all(calls / 2..calls, CLIENTS, job)
    )
    .unwrap();
    println!("all submitted after {:.1} s", began.elapsed().as_secs_f64());
    until("all calls have come", CALLS_TIMEOUT, async || {
        (provider.calls.load(Ordering::Relaxed) >= calls).then_some(())
    })
    .await;
    let in_flight = resident(&worker, "VmRSS");
    println!(
        "all in flight after {:.1} s: {}, {:.1} KiB a call",
        began.elapsed().as_secs_f64(),
        mib(in_flight),
        f64::from(u32::try_from(in_flight.saturating_sub(idle)).unwrap())
            / f64::from(u32::try_from(calls).unwrap()),
    );
    tokio::time::sleep(Duration::from_secs(seconds)).await;

    let bytes = provider.answer.bytes();
    println!(
        "all answered at once, {:.1} MiB each",
        mebibytes(bytes as u64 / 1024)
    );
    answer.send_replace(true);
    let samples = watch_worker(&pipeline, &worker, &provider, calls).await;
    print_curve(&samples, memory);

    let peak = resident(&worker, "VmHWM");
    let succeeded: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'succeeded'")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap();
    let succeeded = usize::try_from(succeeded).unwrap();
    let took = samples.last().map_or(0.0, |last| last.at.as_secs_f64());
    let stalled = longest_stall(&samples);
    let called = provider.calls.load(Ordering::Relaxed);
    proof.check(
        peak <= (memory as u64) << 10,
        format!("the worker used {} at most, of {memory} MiB", mib(peak)),
    );
    proof.check(
        succeeded == calls,
        format!("{succeeded} of {calls} jobs succeeded, in {took:.0} s"),
    );
    proof.check(
        called == calls,
        format!("{called} calls were made for them"),
    );
    proof.check(
        stalled < MAX_STALL,
        format!(
            "the longest time without an answer read or a job ended was {:.1} s",
            stalled.as_secs_f64()
        ),
    );
    drop((api, worker));
    proof.close(pipeline).await;
    proof.verdict()
}

/// Answers a call. All other requests, such as those for tokens, go to the fake.
async fn answer_call(
    State(provider): State<Arc<Provider>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = provider.answer.get(&uri, &headers, body).await;
    provider.calls.fetch_add(1, Ordering::Relaxed);
    let mut answers = provider.answers.clone();
    answers.wait_for(|answers| *answers).await.unwrap();
    // A chunk is taken only when the worker has read the one before, so the last one tells that it has read all others.
    let chunks = (0..answer.len()).step_by(CHUNK_BYTES).map(move |at| {
        let end = answer.len().min(at + CHUNK_BYTES);
        if end == answer.len() {
            provider.read.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, std::convert::Infallible>(answer.slice(at..end))
    });
    let body = Body::from_stream(stream::iter(chunks));
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// Samples the worker until every job has ended, or there is no progress for long.
async fn watch_worker(
    pipeline: &tests::Pipeline,
    worker: &Process,
    provider: &Provider,
    calls: usize,
) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut last_progress = Instant::now();
    loop {
        let ended: i64 =
            sqlx::query_scalar("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")
                .fetch_one(&pipeline.reader)
                .await
                .unwrap();
        samples.push(Sample {
            at: began.elapsed(),
            kib: resident(worker, "VmRSS"),
            read: provider.read.load(Ordering::Relaxed),
            ended,
        });
        let before = samples.iter().nth_back(1);
        if samples.last().map(Sample::progress) != before.map(Sample::progress) {
            last_progress = Instant::now();
        }
        if ended >= i64::try_from(calls).unwrap() || last_progress.elapsed() > MAX_STALL * 4 {
            return samples;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn longest_stall(samples: &[Sample]) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last_progress = Duration::ZERO;
    for (before, now) in samples.iter().zip(samples.iter().skip(1)) {
        if now.progress() != before.progress() {
            last_progress = now.at;
        }
        longest = longest.max(now.at.saturating_sub(last_progress));
    }
    longest
}

/// Prints twenty lines, each with the highest memory of its part of the time.
fn print_curve(samples: &[Sample], memory: usize) {
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

/// The memory of the worker in KiB. See [`memory_kib`].
fn resident(worker: &Process, name: &str) -> u64 {
    memory_kib(worker.id().unwrap(), name).unwrap()
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap()) / 1024.0
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", mebibytes(kib))
}
