//! How long an idle system takes from the 202 to the model being called.
//!
//! Api, worker and fake run in this process against a private Postgres (fsync on) and Redis. A job is submitted only
//! when the one before has ended. Both ends are read on one clock: the client's when it has the 202, the fake's when
//! it has the request. Prints the percentiles, and exits with 1 when they miss the target.
//!
//! With `--beside` the same is measured once more while another tenant's slow jobs have every slot and many more of
//! them wait, once at the same model and once at another provider's.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use reqwest::Method;
use serde_json::{Value, json};
use servers::Tuning;
use tests::servers::TestServers;
use tests::{Options, Pipeline};

/// Microseconds.
const P50: i64 = 5_000;
const P99: i64 = 25_000;

/// What the 95th percentile beside slow jobs may be: so many times the quiet one, and so much more.
const TIMES: i64 = 2;
const MORE: i64 = 50_000;
/// Slow jobs of the other tenant, twice the slots of the worker.
const SLOTS: usize = 16;
const SLOW: usize = 2 * SLOTS;
const QUIET_MODEL: &str = "gemini-nano-banana-2.1";
const OTHER_MODEL: &str = "gpt-image-2";

#[derive(Parser)]
struct Words {
    #[arg(long, default_value_t = 500)]
    jobs: u32,
    /// Measure it beside slow jobs of another tenant, too.
    #[arg(long)]
    beside: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words { jobs, beside } = Words::parse();
    let (_folder, servers, named) = TestServers::own(Tuning::Durable).await;
    let pipeline = Pipeline::start_on(
        named,
        Options {
            slots: SLOTS,
            ..Options::in_earnest()
        },
    )
    .await;
    let quiet = measure(&pipeline, QUIET_MODEL, jobs).await;
    print("on an idle system", &quiet);
    let (p50, p99) = (percentile(&quiet, 50), percentile(&quiet, 99));
    println!("  target: p50 <= {}, p99 <= {}", ms(P50), ms(P99));
    let mut held = p50 <= P50 && p99 <= P99;
    if beside {
        let most = percentile(&quiet, 95) * TIMES + MORE;
        let slow = flood(&pipeline).await;
        for (model, words) in [
            (QUIET_MODEL, "beside slow jobs of the same model"),
            (OTHER_MODEL, "beside slow jobs of another provider's model"),
        ] {
            let waits = measure(&pipeline, model, jobs).await;
            print(words, &waits);
            println!("  target: p95 <= {}", ms(most));
            held &= percentile(&waits, 95) <= most;
        }
        for id in slow.ids {
            let cancel = pipeline.anonymous(Method::POST, &format!("/v1/jobs/{id}/cancel"));
            let cancel = cancel.bearer_auth(&slow.key).json(&json!({}));
            cancel.send().await.unwrap().error_for_status().unwrap();
        }
    }
    pipeline.close().await;
    servers.stop().await;
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Microseconds from the 202 to the call, sorted.
async fn measure(pipeline: &Pipeline, model: &str, jobs: u32) -> Vec<i64> {
    let journal = pipeline.fake.journal();
    let mut waits = Vec::new();
    for round in 0..jobs + 10 {
        let job = json!({"model": model, "prompt": "a glass bottle on wet slate", "aspect_ratio": "1:1", "size": "1K"});
        let id = pipeline.submit(&job).await;
        let accepted = i64::try_from(journal.now_us()).unwrap();
        // Not every provider is told the job's id; of the other one's no second call is under way.
        let call = pipeline
            .until(Duration::from_mins(1), async || match model {
                QUIET_MODEL => journal.labelled("job", &id).pop(),
                _ => {
                    let calls = journal.calls().into_iter();
                    let mut calls = calls.filter(|call| !call.path.contains(QUIET_MODEL));
                    calls.nth(usize::try_from(round).unwrap())
                }
            })
            .await;
        pipeline.ended(&id).await;
        // The first ones warm connections and caches.
        if round >= 10 {
            waits.push(i64::try_from(call.received_us).unwrap() - accepted);
        }
    }
    waits.sort_unstable();
    waits
}

/// Jobs of another tenant that have every slot until they are canceled.
struct Slow {
    key: String,
    ids: Vec<String>,
}

async fn flood(pipeline: &Pipeline) -> Slow {
    let (tenant, key) = pipeline.add_tenant(1_000_000).await;
    let job =
        json!({"model": QUIET_MODEL, "prompt": "a bottle [[fault:late:3000000]]", "size": "1K"});
    let mut ids = Vec::new();
    for _ in 0..SLOW {
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
        .until(Duration::from_mins(1), async || {
            let running = sqlx::query_scalar(running).bind(tenant.0);
            let running: i64 = running.fetch_one(&pipeline.reader).await.unwrap();
            (running >= i64::try_from(SLOTS).unwrap()).then_some(())
        })
        .await;
    Slow { key, ids }
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

fn percentile(waits: &[i64], percent: usize) -> i64 {
    waits[(waits.len() * percent / 100).min(waits.len() - 1)]
}

fn ms(us: i64) -> String {
    format!("{}.{:02} ms", us / 1_000, us.abs() % 1_000 / 10)
}
