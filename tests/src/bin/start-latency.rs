//! `make start-latency`: how long it takes from the 202 of a submit to the call of the model, on an idle system.
//!
//! Api, worker and fake run in this process, on a private Postgres (with fsync) and Redis. A job is submitted only after
//! the one before has ended. Both times are read from the same clock: when the client has the 202, and when the fake has
//! the request. Prints the percentiles, and exits with 1 if they miss the target.
//!
//! With `--beside` the same is measured again while slow jobs of another tenant occupy every slot and more of them wait,
//! once for the same model and once for a model of another provider.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use reqwest::Method;
use serde_json::{Value, json};
use servers::Durability;
use tests::figures::percentile;
use tests::proof::Proof;
use tests::{Options, Pipeline};

/// The targets on an idle system, in microseconds.
const P50_TARGET_US: i64 = 5_000;
const P99_TARGET_US: i64 = 25_000;

/// Beside slow jobs the 95th percentile may be this many times the one on an idle system, and this much more.
const P95_FACTOR: i64 = 2;
const P95_MARGIN_US: i64 = 50_000;
const SLOTS: usize = 16;
/// Slow jobs of the other tenant: twice the slots of the worker.
const SLOW_JOBS: usize = 2 * SLOTS;
/// Jobs that warm connections and caches before anything is measured.
const WARM_UP_JOBS: u32 = 10;
const QUIET_MODEL: &str = "gemini-nano-banana-2.1";
const OTHER_MODEL: &str = "gpt-image-2";
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct Arguments {
    /// Jobs that are measured.
    #[arg(long, default_value_t = 500)]
    jobs: u32,
    /// Also measure beside slow jobs of another tenant.
    #[arg(long)]
    beside: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { jobs, beside } = Arguments::parse();
    let mut proof = Proof::default();
    let pipeline = Pipeline::start_alone(
        Durability::Full,
        Options {
            slots: SLOTS,
            ..Options::in_earnest()
        },
    )
    .await;
    let quiet = measure(&pipeline, QUIET_MODEL, jobs).await;
    print("on an idle system", &quiet);
    let (p50, p99) = (percentile(&quiet, 50), percentile(&quiet, 99));
    proof.check(
        p50 <= P50_TARGET_US && p99 <= P99_TARGET_US,
        format!(
            "p50 {} (at most {}), p99 {} (at most {})",
            ms(p50),
            ms(P50_TARGET_US),
            ms(p99),
            ms(P99_TARGET_US)
        ),
    );
    if beside {
        let most = percentile(&quiet, 95) * P95_FACTOR + P95_MARGIN_US;
        let slow = occupy_every_slot(&pipeline).await;
        for (model, when) in [
            (QUIET_MODEL, "beside slow jobs of the same model"),
            (OTHER_MODEL, "beside slow jobs of another provider's model"),
        ] {
            let waits = measure(&pipeline, model, jobs).await;
            print(when, &waits);
            let p95 = percentile(&waits, 95);
            proof.check(
                p95 <= most,
                format!("p95 {} {when} (at most {})", ms(p95), ms(most)),
            );
        }
        for id in slow.ids {
            let cancel = pipeline.anonymous(Method::POST, &format!("/v1/jobs/{id}/cancel"));
            let cancel = cancel.bearer_auth(&slow.key).json(&json!({}));
            cancel.send().await.unwrap().error_for_status().unwrap();
        }
    }
    proof.close(pipeline).await;
    proof.verdict()
}

/// The microseconds from the 202 to the call, sorted.
async fn measure(pipeline: &Pipeline, model: &str, jobs: u32) -> Vec<i64> {
    let journal = pipeline.fake.journal();
    let mut waits = Vec::new();
    for round in 0..jobs + WARM_UP_JOBS {
        let job = json!({"model": model, "prompt": "a glass bottle on wet slate", "aspect_ratio": "1:1", "size": "1K"});
        let id = pipeline.submit(&job).await;
        let accepted = i64::try_from(journal.now_us()).unwrap();
        // The other provider is not told the id of the job. But there is only one call to it at a time, so its calls can
        // be counted.
        let call = pipeline
            .until("the model is called", CALL_TIMEOUT, async || match model {
                QUIET_MODEL => journal.labelled("job", &id).pop(),
                _ => {
                    let calls = journal.calls().into_iter();
                    let mut calls = calls.filter(|call| !call.path.contains(QUIET_MODEL));
                    calls.nth(usize::try_from(round).unwrap())
                }
            })
            .await;
        pipeline.ended(&id).await;
        if round >= WARM_UP_JOBS {
            waits.push(i64::try_from(call.received_us).unwrap() - accepted);
        }
    }
    waits.sort_unstable();
    waits
}

/// Jobs of another tenant that occupy every slot until they are canceled.
struct SlowJobs {
    /// The key of the tenant.
    key: String,
    ids: Vec<String>,
}

async fn occupy_every_slot(pipeline: &Pipeline) -> SlowJobs {
    let (tenant, key) = pipeline.add_tenant(1_000_000).await;
    let job =
        json!({"model": QUIET_MODEL, "prompt": "a bottle [[fault:late:3000000]]", "size": "1K"});
    let mut ids = Vec::new();
    for _ in 0..SLOW_JOBS {
        let submit = pipeline.anonymous(Method::POST, "/v1/jobs");
        let accepted: Value = submit
            .bearer_auth(&key)
            .json(&job)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        ids.push(accepted["id"].as_str().unwrap().to_owned());
    }
    let running = "SELECT count(*) FROM jobs WHERE state = 'running' AND tenant_id = $1";
    pipeline
        .until("every slot has a slow job", CALL_TIMEOUT, async || {
            let running = sqlx::query_scalar(running).bind(tenant.0);
            let running: i64 = running.fetch_one(&pipeline.reader).await.unwrap();
            (running >= i64::try_from(SLOTS).unwrap()).then_some(())
        })
        .await;
    SlowJobs { key, ids }
}

fn print(when: &str, waits: &[i64]) {
    println!(
        "from the 202 to the model being called, {} jobs, one at a time, {when}:",
        waits.len()
    );
    println!(
        "  p50 {}   p90 {}   p95 {}   p99 {}   max {}",
        ms(percentile(waits, 50)),
        ms(percentile(waits, 90)),
        ms(percentile(waits, 95)),
        ms(percentile(waits, 99)),
        ms(percentile(waits, 100))
    );
}

fn ms(us: i64) -> String {
    format!("{}.{:02} ms", us / 1_000, us.abs() % 1_000 / 10)
}
