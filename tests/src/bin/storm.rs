//! `make storm`: more jobs than the provider admits, and some admitted calls fail.
//!
//! The fake admits a number of calls a second (a token bucket), answers 429 to more, and 503 to one admitted call in ten.
//! Two and a half times as many jobs are submitted; then the backlog drains. The api, two workers and the fake run in this
//! process, on a private Postgres and Redis. Prints the figures, and exits with 1 if one misses its target.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fakes::{AdmissionLimit, Fault, Latency, Switches};
use futures::stream::{FuturesUnordered, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::json;
use servers::Durability;
use tests::proof::Proof;
use tests::{Options, Pipeline, drain};
use tokio::time::MissedTickBehavior;

/// The share of admitted calls that fail.
const FAULT_RATE: f64 = 0.1;
/// Jobs that are submitted for each call that is admitted.
const OVERLOAD: f64 = 2.5;
const MODEL: &str = "gemini-nano-banana-2.1";
/// How long a lane may take to learn how many calls the provider admits.
const LEARNING_TIME: Duration = Duration::from_secs(20);
/// Submits that are under way at the same time.
const MAX_SUBMITS: usize = 32;
/// If no job ends for so long, the jobs stand still.
const STANDSTILL: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct Arguments {
    /// Calls that the provider admits each second.
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Seconds in which jobs are submitted.
    #[arg(long, default_value_t = 180)]
    seconds: u32,
    /// Print the state of the lane every second.
    #[arg(long)]
    watch: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments {
        rate,
        seconds,
        watch,
    } = Arguments::parse();
    let mut proof = Proof::default();
    let rate = f64::from(rate);
    #[expect(clippy::cast_possible_truncation, reason = "a few thousand")]
    let jobs = (OVERLOAD * rate * f64::from(seconds)) as i64;
    let pipeline = Pipeline::start_alone(
        Durability::Full,
        Options {
            credits: jobs * 6,
            workers: 2,
            slots: 48,
            lease: Duration::from_secs(30),
            retry: (Duration::from_millis(500), Duration::from_secs(10)),
            ..Options::default()
        },
    )
    .await;
    pipeline.fake.faults().set(Switches {
        admit: Some(AdmissionLimit {
            per_second: rate,
            burst: rate / 2.0,
        }),
        latency_ms: Latency {
            min: 800,
            max: 1_200,
        },
        rate: FAULT_RATE,
        among: vec![Fault::Status(503)],
        plain: true,
        ..Switches::default()
    });

    let began_us = pipeline.fake.journal().now_us();
    let began = Instant::now();
    let stormed = async {
        let submitted = submit_all(&pipeline, jobs, rate * OVERLOAD).await;
        println!(
            "submitted {submitted} jobs in {:.0} s; the provider admits {rate} calls a second and fails {:.0} % of them",
            began.elapsed().as_secs_f64(),
            FAULT_RATE * 100.0
        );
        drain::drained_without_standstill(&pipeline.reader, STANDSTILL)
            .await
            .unwrap();
    };
    tokio::select! {
        () = stormed => {}
        () = print_lane(&pipeline, began), if watch => {}
    }
    println!("  drained after {:.0} s", began.elapsed().as_secs_f64());
    let load = Load {
        began_us,
        jobs,
        rate,
        seconds: f64::from(seconds),
    };
    judge(&mut proof, &pipeline, &load).await;
    proof.close(pipeline).await;
    proof.verdict()
}

/// Prints the state of the lane, for ever.
async fn print_lane(pipeline: &Pipeline, began: Instant) {
    loop {
        let lane = pipeline.lane(MODEL).await;
        let running: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'running'")
            .fetch_one(&pipeline.reader)
            .await
            .unwrap();
        println!(
            "{:>5.1} s  limit {:>5.1}  in flight {:>3}  running {running:>3}  {}",
            began.elapsed().as_secs_f64(),
            lane.limit,
            lane.in_flight,
            lane.pause
                .map_or("available", |pause| pause.reason.as_str())
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Submits jobs at an even pace, and returns how many were accepted.
async fn submit_all(pipeline: &Pipeline, jobs: i64, per_second: f64) -> usize {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut submits = FuturesUnordered::new();
    let mut accepted = 0;
    for number in 0..jobs {
        ticks.tick().await;
        submits.push(submit(pipeline, number));
        while submits.len() > MAX_SUBMITS {
            accepted += usize::from(submits.next().await.is_some());
        }
    }
    accepted + submits.count().await
}

/// Submits as a correct client does: a request that was answered with 503 is sent again with the same key.
async fn submit(pipeline: &Pipeline, number: i64) {
    let job = json!({"model": MODEL, "prompt": format!("a bottle, number {number}"), "size": "1K"});
    loop {
        let request = pipeline.request(Method::POST, "/v1/jobs");
        let request = request
            .header("Cancel-After", "2h")
            .header("Idempotency-Key", format!("storm-{number}"));
        match request.json(&job).send().await.unwrap().status() {
            StatusCode::ACCEPTED => return,
            StatusCode::SERVICE_UNAVAILABLE => tokio::time::sleep(Duration::from_secs(1)).await,
            other => panic!("a submit was answered {other}"),
        }
    }
}

/// What was submitted, and when.
struct Load {
    /// When it began, on the clock of the fake, in microseconds.
    began_us: u64,
    jobs: i64,
    /// Calls that the provider admits each second.
    rate: f64,
    /// How long jobs were submitted.
    seconds: f64,
}

/// Compares what happened to the jobs and the calls with the targets.
async fn judge(proof: &mut Proof, pipeline: &Pipeline, load: &Load) {
    let &Load {
        began_us,
        jobs,
        rate,
        seconds,
    } = load;
    let count = async |condition: &str| -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM jobs WHERE {condition}"
        )))
        .fetch_one(&pipeline.reader)
        .await
        .unwrap()
    };
    let succeeded = count("state = 'succeeded'").await;
    let throttled = count("state <> 'succeeded' AND outcome = 'throttled'").await;
    let retried = count(
        "(SELECT count(*) FROM calls WHERE job_id = jobs.id AND outcome = 'provider_fault') > 3",
    )
    .await;
    let calls = pipeline.fake.journal().calls();
    let with_outcome = |outcome: &str| {
        let calls = calls
            .iter()
            .filter(|call| call.outcome.as_deref() == Some(outcome));
        calls.count()
    };
    let (ok, throttled_calls, faults) = (
        with_outcome("ok"),
        with_outcome("throttle"),
        with_outcome("unavailable"),
    );
    let between = |from: f64, to: f64, outcome: Option<&str>| {
        let within = calls.iter().filter(|call| {
            #[expect(clippy::cast_precision_loss, reason = "microseconds of an hour")]
            let at = call.received_us.saturating_sub(began_us) as f64 / 1e6;
            (from..to).contains(&at)
                && outcome.is_none_or(|outcome| call.outcome.as_deref() == Some(outcome))
        });
        within.count()
    };
    let in_time = between(0.0, seconds, Some("ok"));
    let learned = LEARNING_TIME.as_secs_f64().min(seconds / 2.0);
    let late = between(learned, f64::MAX, None);
    let late_throttled = between(learned, f64::MAX, Some("throttle"));
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let (success, enough, in_time_f) = (
        succeeded as f64 / jobs as f64,
        0.9 * 0.9 * rate * seconds,
        in_time as f64,
    );
    proof.check(
        success >= 0.99,
        format!(
            "{:.2} % of {jobs} jobs succeeded (at least 99 %)",
            success * 100.0
        ),
    );
    proof.check(
        throttled == 0,
        format!("{throttled} jobs failed by 429 alone (none)"),
    );
    proof.check(
        retried == 0,
        format!("{retried} jobs were retried more than twice after a 503 (none)"),
    );
    proof.check(
        ok + throttled_calls + faults == calls.len(),
        format!(
            "{} calls = {ok} images + {throttled_calls} times 429 + {faults} times 503",
            calls.len()
        ),
    );
    proof.check(
        in_time_f >= enough,
        format!(
            "{in_time} images within {seconds:.0} s (at least {enough:.0}; the provider would have made {:.0})",
            (1.0 - FAULT_RATE) * rate * seconds
        ),
    );
    proof.check(
        share(late_throttled, late) <= 0.2,
        format!(
            "{:.1} % of the calls after {learned:.0} s met 429 (at most 20 %)",
            share(late_throttled, late) * 100.0
        ),
    );
}
