//! `make scaler`: checks that the metric for scaling workers asks for more in a burst, and for fewer afterwards.
//!
//! An api and one worker are real processes. A real Prometheus scrapes them and evaluates the shipped rules, at the shipped
//! interval. Thousands of jobs come at once. Prometheus is asked the query that the chart gives to KEDA, KEDA's own formula
//! computes the number of workers, and that many run: they are started and stopped as Kubernetes would do it. Prints what
//! was asked for and when. Exits with 1 if more workers were asked for too late, or too many for too long, or a job was
//! lost.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::Connection;
use tests::clients::Clients;
use tests::fleet::{Process, Role};
use tests::prometheus::{Prometheus, shipped_interval};
use tests::proof::Proof;
use tests::real::Real;
use tests::servers::connect_to_redis;
use tests::{Options, Pipeline, root};
use tokio::task::JoinSet;

const MODEL: &str = "gemini-nano-banana-2.1";
/// Clients that submit at once.
const CLIENTS: usize = 32;
/// As many workers as one machine can run, instead of the limit of the chart.
const MAX_WORKERS: usize = 4;
/// How long after the first submit more workers must be asked for.
const SCALE_UP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long after the last job only one worker may be asked for.
const SCALE_DOWN_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_mins(15);

#[derive(Parser)]
struct Arguments {
    /// How many jobs come at once.
    #[arg(long, default_value_t = 5_000)]
    jobs: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { jobs } = Arguments::parse();
    let mut proof = Proof::default();
    let trigger = trigger();
    let folder = tempfile::tempdir().unwrap();
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start_alone(Options::in_earnest(), 1_000..=2_000).await;
    let apis = orders.start(Role::Api, 1).await.unwrap();
    let mut workers: Vec<Process> = (1..=MAX_WORKERS)
        .map(|number| Process::new(Role::Worker, number, &orders).unwrap())
        .collect();
    workers[0].start().unwrap();
    workers[0].ready().await.unwrap();
    let interval = shipped_interval().unwrap();
    let prometheus = Prometheus::start(folder.path(), interval, &apis, &workers)
        .await
        .unwrap();
    // Until Prometheus has scraped the idle service a few times.
    tokio::time::sleep(interval * 3).await;
    let idle = trigger.wanted(&prometheus).await;
    println!("idle: {idle} workers wanted");

    let mut usage = Usage::now(&pipeline).await;
    let began = Instant::now();
    let clients = Arc::new(Clients::new(&pipeline.key, vec![apis[0].address()]));
    let mut submitting = JoinSet::new();
    submitting.spawn(async move {
        let job = |_| json!({"model": MODEL, "prompt": "a bottle", "size": "1K"});
        clients.submit_all(0..jobs, CLIENTS, job).await.unwrap();
    });
    let (mut scaled_up, mut submitted, mut drained, mut scaled_down) = (None, None, None, None);
    let (mut running, mut most) = (1, 1);
    while scaled_down.is_none() && began.elapsed() < DRAIN_TIMEOUT {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at = began.elapsed();
        while submitting.try_join_next().is_some() {}
        if submitted.is_none() && submitting.is_empty() {
            submitted = Some(at);
            println!("{:6.1} s  {jobs} jobs are submitted", at.as_secs_f64());
        }
        if submitted.is_some() && drained.is_none() && pipeline.open_jobs().await == 0 {
            drained = Some(at);
            println!("{:6.1} s  no job is open", at.as_secs_f64());
            usage = usage.until(&Usage::now(&pipeline).await);
        }
        let wanted = trigger.wanted(&prometheus).await;
        most = most.max(wanted);
        if wanted > 1 && scaled_up.is_none() {
            scaled_up = Some(at);
        }
        if drained.is_some() && wanted <= 1 {
            scaled_down = Some(at);
        }
        let now = wanted.clamp(1, MAX_WORKERS);
        // Workers are stopped only at the end. The chart, too, waits for a while before it stops any.
        if now > running || scaled_down.is_some() {
            println!(
                "{:6.1} s  {wanted} workers wanted, {now} run",
                at.as_secs_f64()
            );
            for worker in &mut workers[running..now.max(running)] {
                worker.start().unwrap();
            }
            for worker in &mut workers[now..running.max(now)] {
                assert!(
                    worker.stop().await.unwrap().success(),
                    "{} ended badly",
                    worker.name
                );
            }
            running = now;
        }
    }
    println!("at most {most} workers were wanted");
    proof.check(
        scaled_up.is_some_and(|scaled_up| scaled_up <= SCALE_UP_TIMEOUT),
        format!(
            "more workers were asked for {} after the first submit (at most {SCALE_UP_TIMEOUT:?})",
            seconds(scaled_up)
        ),
    );
    let calm = drained
        .zip(scaled_down)
        .map(|(drained, scaled_down)| scaled_down.saturating_sub(drained));
    proof.check(
        calm.is_some_and(|calm| calm <= SCALE_DOWN_TIMEOUT),
        format!(
            "one worker was asked for {} after the last job ended (at most {SCALE_DOWN_TIMEOUT:?})",
            seconds(calm)
        ),
    );
    let calls = fake.journal().count();
    proof.check(calls == jobs, format!("{jobs} jobs took {calls} calls"));
    usage.print(jobs);
    println!("largest tables: {}", largest(&pipeline, jobs).await);
    drop((apis, workers, prometheus));
    proof.close(pipeline).await;
    proof.verdict()
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(
        || "never".to_owned(),
        |time| format!("{:.1} s", time.as_secs_f64()),
    )
}

/// What jobs use of the servers: the figures of `docs/scaling.md`.
struct Usage {
    transactions: i64,
    /// Bytes of write-ahead log.
    wal: i64,
    /// Bytes of the database.
    stored: i64,
    /// Commands of Redis.
    commands: i64,
}

impl Usage {
    /// Everything that was used since the servers were started.
    async fn now(pipeline: &Pipeline) -> Self {
        let mut owner = pipeline.owner().await;
        let (transactions, wal, stored) = sqlx::query_as(
            "SELECT xact_commit, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, pg_database_size(datname)
             FROM pg_stat_database WHERE datname = current_database()",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap();
        owner.close().await.unwrap();
        let url = pipeline.config.redis_url.as_ref().unwrap().expose_secret();
        let mut redis = connect_to_redis(url).await;
        let info: String = redis::cmd("INFO").query_async(&mut redis).await.unwrap();
        let commands = info
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"))
            .and_then(|count| count.trim().parse().ok());
        Self {
            transactions,
            wal,
            stored,
            commands: commands.unwrap(),
        }
    }

    /// What was used between two moments.
    fn until(&self, later: &Self) -> Self {
        Self {
            transactions: later.transactions - self.transactions,
            wal: later.wal - self.wal,
            stored: later.stored - self.stored,
            commands: later.commands - self.commands,
        }
    }

    fn print(&self, jobs: usize) {
        let jobs = i64::try_from(jobs).unwrap();
        println!(
            "each job used {} transactions, {:.1} KB of WAL and {:.1} KB of tables of Postgres, and {} commands of Redis",
            self.transactions / jobs,
            kilobytes(self.wal / jobs),
            kilobytes(self.stored / jobs),
            self.commands / jobs
        );
    }
}

/// The largest tables with their indices, and how much of each belongs to one job.
async fn largest(pipeline: &Pipeline, jobs: usize) -> String {
    let tables: Vec<(String, i64)> = sqlx::query_as(
        "SELECT relname::text, pg_total_relation_size(oid) / $1 FROM pg_class
         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 2 DESC LIMIT 8",
    )
    .bind(i64::try_from(jobs).unwrap())
    .fetch_all(&pipeline.reader)
    .await
    .unwrap();
    let told = tables
        .iter()
        .map(|(table, bytes)| format!("{table} {:.1} KB", kilobytes(*bytes)));
    told.collect::<Vec<String>>().join(", ")
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
fn kilobytes(bytes: i64) -> f64 {
    bytes as f64 / 1000.0
}

/// What the chart gives to KEDA.
struct Trigger {
    query: String,
    threshold: f64,
    min: usize,
    max: usize,
}

impl Trigger {
    /// How many workers there should be. For a metric of type `AverageValue` the autoscaler of Kubernetes, which KEDA
    /// configures, takes ⌈value / threshold⌉ within the limits (kubernetes.io, "Horizontal Pod Autoscaling", algorithm
    /// details).
    async fn wanted(&self, prometheus: &Prometheus) -> usize {
        let value = prometheus.number(&self.query).await.unwrap().unwrap_or(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number that is not negative"
        )]
        let wanted = (value / self.threshold).ceil() as usize;
        wanted.clamp(self.min, self.max)
    }
}

/// Reads the trigger from the values of the chart and its `ScaledObject`.
fn trigger() -> Trigger {
    let chart = root("deploy/helm");
    let object = std::fs::read_to_string(chart.join("templates/worker.yaml")).unwrap();
    assert!(
        object.contains("metricType: AverageValue"),
        "the chart uses another type of metric, with another formula"
    );
    let threshold = object.split("threshold: \"").nth(1).unwrap();
    let values = std::fs::read_to_string(chart.join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let scaling = &values["scaling"];
    let number = |name: &str| usize::try_from(scaling[name].as_u64().unwrap()).unwrap();
    Trigger {
        query: scaling["query"].as_str().unwrap().to_owned(),
        threshold: threshold.split('"').next().unwrap().parse().unwrap(),
        min: number("min"),
        max: number("max"),
    }
}
