//! `make storm`: more is asked than the provider lets in, and some of what it lets in fails.
//!
//! The fake admits so many calls a second (a token bucket), answers 429 beyond, and 503 to one admitted call in ten.
//! Two and a half times as many jobs are offered; then the backlog drains. Api, two workers and the fake run in this
//! process against a private Postgres and Redis. Prints the figures, and exits with 1 when one misses its target.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fakes::{Admit, Fault, Latency, Switches};
use futures::stream::{FuturesUnordered, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::json;
use servers::Tuning;
use tests::servers::TestServers;
use tests::{Options, Pipeline};
use tokio::time::MissedTickBehavior;

/// Of the admitted calls.
const FAULTY: f64 = 0.1;
/// Offered for each that is admitted.
const OFFERED: f64 = 2.5;
const MODEL: &str = "gemini-nano-banana-2.1";
/// What lanes may take to learn what the provider bears.
const LEARNING: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Words {
    /// Calls the provider admits each second.
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Seconds in which jobs are offered.
    #[arg(long, default_value_t = 180)]
    seconds: u32,
    /// Print how the lane stands, every second.
    #[arg(long)]
    watch: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words {
        rate,
        seconds,
        watch,
    } = Words::parse();
    let rate = f64::from(rate);
    let (_folder, servers, named) = TestServers::own(Tuning::Durable).await;
    #[expect(clippy::cast_possible_truncation, reason = "a few thousand")]
    let jobs = (OFFERED * rate * f64::from(seconds)) as i64;
    let pipeline = Pipeline::start_on(
        named,
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
        admit: Some(Admit {
            per_second: rate,
            burst: rate / 2.0,
        }),
        latency_ms: Latency {
            min: 800,
            max: 1_200,
        },
        rate: FAULTY,
        among: vec![Fault::Status(503)],
        plain: true,
        ..Switches::default()
    });

    let began_us = pipeline.fake.journal().now_us();
    let began = Instant::now();
    let stormed = async {
        let offered = offer(&pipeline, jobs, rate * OFFERED).await;
        println!(
            "offered {offered} jobs in {:.0} s; the provider admits {rate} calls a second and fails {:.0} % of them",
            began.elapsed().as_secs_f64(),
            FAULTY * 100.0
        );
        drain(&pipeline).await;
    };
    tokio::select! {
        () = stormed => {}
        () = look(&pipeline, began), if watch => {}
    }
    let drained = began.elapsed();
    let held = report(&pipeline, began_us, jobs, rate, f64::from(seconds)).await;
    println!("  drained after {:.0} s", drained.as_secs_f64());
    pipeline.close().await;
    servers.stop().await;
    println!("  the books close: `platen verify` finds nothing");
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints how the lane stands, for ever.
async fn look(pipeline: &Pipeline, began: Instant) {
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
            lane.pause.map_or("open", |pause| pause.reason.as_str())
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Submits jobs at an even pace.
async fn offer(pipeline: &Pipeline, jobs: i64, per_second: f64) -> usize {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut submits = FuturesUnordered::new();
    let mut accepted = 0;
    for number in 0..jobs {
        ticks.tick().await;
        submits.push(submit(pipeline, number));
        while submits.len() > 32 {
            accepted += usize::from(submits.next().await.is_some());
        }
    }
    accepted + submits.count().await
}

/// As a client does it: what is answered "later" is sent again with the same key.
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

/// Waits until no job is open. A minute in which none ends is a standstill.
async fn drain(pipeline: &Pipeline) {
    let (mut least, mut since) = (i64::MAX, Instant::now());
    loop {
        let open = pipeline.open_jobs().await;
        if open == 0 {
            return;
        }
        if open < least {
            (least, since) = (open, Instant::now());
        }
        assert!(
            since.elapsed() < Duration::from_mins(1),
            "{open} jobs stand still"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Prints a figure beside its target.
fn figure(holds: bool, says: &str) -> bool {
    println!("  {} {says}", if holds { "ok    " } else { "MISSED" });
    holds
}

async fn report(pipeline: &Pipeline, began_us: u64, jobs: i64, rate: f64, seconds: f64) -> bool {
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
    let met = |outcome: &str| {
        let of_kind = calls
            .iter()
            .filter(|call| call.outcome.as_deref() == Some(outcome));
        of_kind.count()
    };
    let (ok, busy, faults) = (met("ok"), met("throttle"), met("unavailable"));
    let after = |from: f64, to: f64, outcome: Option<&str>| {
        let within = calls.iter().filter(|call| {
            #[expect(clippy::cast_precision_loss, reason = "microseconds of an hour")]
            let at = call.received_us.saturating_sub(began_us) as f64 / 1e6;
            (from..to).contains(&at)
                && outcome.is_none_or(|outcome| call.outcome.as_deref() == Some(outcome))
        });
        within.count()
    };
    let in_time = after(0.0, seconds, Some("ok"));
    let learned = LEARNING.as_secs_f64().min(seconds / 2.0);
    let late = after(learned, f64::MAX, None);
    let late_busy = after(learned, f64::MAX, Some("throttle"));
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let (success, bearable, in_time_f) = (
        succeeded as f64 / jobs as f64,
        0.9 * 0.9 * rate * seconds,
        in_time as f64,
    );
    let figures = [
        figure(
            success >= 0.99,
            &format!(
                "{:.2} % of {jobs} jobs succeeded (at least 99 %)",
                success * 100.0
            ),
        ),
        figure(
            throttled == 0,
            &format!("{throttled} jobs failed by 429 alone (none)"),
        ),
        figure(
            retried == 0,
            &format!("{retried} jobs were retried more than twice after a 503 (none)"),
        ),
        figure(
            ok + busy + faults == calls.len(),
            &format!(
                "{} calls = {ok} pictures + {busy} times 429 + {faults} times 503",
                calls.len()
            ),
        ),
        figure(
            in_time_f >= bearable,
            &format!(
                "{in_time} pictures within {seconds:.0} s (at least {bearable:.0}; the provider would have borne {:.0})",
                (1.0 - FAULTY) * rate * seconds
            ),
        ),
        figure(
            share(late_busy, late) <= 0.2,
            &format!(
                "{:.1} % of the calls after {learned:.0} s met 429 (at most 20 %)",
                share(late_busy, late) * 100.0
            ),
        ),
    ];
    figures.into_iter().all(|held| held)
}
