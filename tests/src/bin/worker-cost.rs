//! `make worker-cost`: the CPU time and the memory of a worker while it works through a queue of jobs.
//!
//! The jobs are queued before the worker starts. The provider answers each call with the same PNG file of 2048² pixels,
//! which the worker stores, renders to 1K and stores again. Prints the user and kernel time of the worker for each job, its
//! page faults and its memory before, during and after. Exits with 1 if the kernel's share of the CPU time is too large, or
//! if the worker keeps memory that it no longer needs.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::IntoResponse;
use clap::Parser;
use fakes::Switches;
use serde_json::json;
use tests::Options;
use tests::clients::Clients;
use tests::figures::{ProcessCost, memory_kib};
use tests::fleet::{Process, Role};
use tests::one_answer::{self, JSON, OneAnswer};
use tests::proof::Proof;
use tests::real::Real;
use tests::wait::until;

const MODEL: &str = "gemini-3-pro-image";
/// The kernel's share of the worker's CPU time: at most, in percent.
const MAX_KERNEL_PERCENT: f64 = 20.0;
/// How much more memory the worker may have some time after the jobs than before them, in MiB.
const MAX_KEPT_MIB: f64 = 32.0;
/// Within this time a worker without jobs returns memory.
const RETURN_TIME: Duration = Duration::from_secs(15);
/// Jobs that warm the connections, the threads and the allocator.
const WARM_UP: usize = 8;

#[derive(Parser)]
struct Arguments {
    /// Jobs that are counted.
    #[arg(long, default_value_t = 60)]
    jobs: usize,
    /// The format of the renditions.
    #[arg(long, default_value = "png")]
    format: String,
    /// The program that is measured; by default that of this build.
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments {
        jobs,
        format,
        program,
    } = Arguments::parse();
    let mut proof = Proof::default();
    let mut real = Real::start_alone(Options::in_earnest(), 0..=0).await;
    if let Some(program) = program {
        real.orders.program = program;
    }
    real.fake.faults().set(Switches {
        plain: true,
        grain: true,
        ..Switches::default()
    });
    let answer = Arc::new(OneAnswer::of(&real.fake));
    let app = axum::Router::new()
        .fallback(answer_call)
        .with_state(Arc::clone(&answer));
    let _serving = one_answer::serve(app, &real.folders.catalogue, &real.fake).await;

    let api = real.orders.start_one(Role::Api).await.unwrap();
    let worker = real.orders.start_one(Role::Worker).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = resident(&worker);
    println!(
        "idle: {idle:.1} MiB of the worker, {:.1} MiB of the api",
        resident(&api)
    );
    let clients = Clients::new(&real.pipeline.key, vec![api.address()]);
    let job = |number| {
        json!({
            "model": MODEL, "prompt": format!("bottle {number}"), "size": "1K", "aspect_ratio": "1:1", "format": format,
        })
    };
    clients.submit_all(0..WARM_UP, 8, job).await.unwrap();
    all_ended(&real, WARM_UP).await;

    let before = ProcessCost::read(worker.id().unwrap()).unwrap();
    let began = Instant::now();
    let all = WARM_UP..WARM_UP + jobs;
    clients.submit_all(all.clone(), 8, job).await.unwrap();
    all_ended(&real, all.end).await;
    let took = began.elapsed().as_secs_f64();
    let cost = ProcessCost::read(worker.id().unwrap()).unwrap() - before;
    let count = f64::from(u32::try_from(jobs).unwrap());
    let [user, kernel] = [cost.user, cost.kernel].map(|time| time.as_secs_f64() * 1e3 / count);
    println!(
        "{jobs} jobs in {took:.1} s; answers of {:.1} MiB; a job took the worker {user:.1} ms of user time, {kernel:.1} ms of kernel time, {:.0} page faults",
        mebibytes(answer.bytes() as u64 / 1024),
        cost.page_faults / count,
    );
    let peak = mebibytes(memory_kib(worker.id().unwrap(), "VmHWM").unwrap());
    let share = kernel / (user + kernel) * 100.0;
    proof.check(
        share <= MAX_KERNEL_PERCENT,
        format!(
            "the kernel took {share:.1} % of the worker's CPU time (at most {MAX_KERNEL_PERCENT})"
        ),
    );
    tokio::time::sleep(RETURN_TIME).await;
    let after = resident(&worker);
    proof.check(
        after <= idle + MAX_KEPT_MIB,
        format!(
            "the worker had {idle:.1} MiB before the jobs, {peak:.1} MiB at most, and {after:.1} MiB {} s after them (at most {MAX_KEPT_MIB} more than before)",
            RETURN_TIME.as_secs()
        ),
    );
    drop((api, worker));
    proof.close(real.pipeline).await;
    proof.verdict()
}

/// Answers every call with an image of 2K, whatever size it asks for.
async fn answer_call(
    State(answer): State<Arc<OneAnswer>>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> impl IntoResponse {
    let body = body.replace("\"1K\"", "\"2K\"");
    let answer = answer.get(&uri, &headers, body).await;
    ([(header::CONTENT_TYPE, JSON)], answer)
}

async fn all_ended(real: &Real, jobs: usize) {
    until(
        "all jobs have succeeded",
        Duration::from_mins(5),
        async || {
            let ended: i64 =
                sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'succeeded'")
                    .fetch_one(&real.pipeline.reader)
                    .await
                    .unwrap();
            (usize::try_from(ended).unwrap() >= jobs).then_some(())
        },
    )
    .await;
}

/// The memory that a process uses, in MiB.
fn resident(process: &Process) -> f64 {
    mebibytes(memory_kib(process.id().unwrap(), "VmRSS").unwrap())
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap()) / 1024.0
}
