//! `make scaler`: whether the signal that workers are scaled by asks for them in a burst, and lets them go.
//!
//! An api and one worker are real processes; a real Prometheus scrapes them and evaluates the shipped rules, as often as
//! shipped. Thousands of jobs come at once. What the chart gives to KEDA is asked of Prometheus, KEDA's own formula makes a number of
//! workers of it, and so many run: they are started, and stopped when they are let go, as Kubernetes would. Prints what was asked for
//! and when, and exits with 1 when it was too late, too long, or a job was lost.
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
use tests::real::Real;
use tests::servers::connect_to_redis;
use tests::{Pipeline, root, verdict};
use tokio::task::JoinSet;

const MODEL: &str = "gemini-nano-banana-2.1";
/// Clients that submit at once.
const CLIENTS: usize = 32;
/// As many workers as this machine bears, in place of the chart's limit.
const MOST: usize = 4;
/// When workers must have been asked for, and when the last of them let go.
const ASKED: Duration = Duration::from_secs(15);
const LET_GO: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_mins(15);

#[derive(Parser)]
struct Words {
    /// How many jobs come at once.
    #[arg(long, default_value_t = 5_000)]
    jobs: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words { jobs } = Words::parse();
    let trigger = trigger();
    let (folder, servers, real) = Real::own(1_000..=2_000).await;
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = real;
    let apis = orders.start(Role::Api, 1).await.unwrap();
    let mut workers: Vec<Process> = (1..=MOST)
        .map(|number| Process::new(Role::Worker, number, &orders).unwrap())
        .collect();
    workers[0].start().unwrap();
    workers[0].ready().await.unwrap();
    let interval = shipped_interval().unwrap();
    let prometheus = Prometheus::start(folder.path(), interval, &apis, &workers)
        .await
        .unwrap();
    // Until it knows the idle service.
    tokio::time::sleep(interval * 3).await;
    let idle = trigger.wanted(&prometheus).await;
    println!("idle: {idle} workers wanted");

    let mut taken = Taken::look(&pipeline).await;
    let began = Instant::now();
    let clients = Arc::new(Clients::new(&pipeline.key, vec![apis[0].address()]));
    let mut submitting = JoinSet::new();
    for client in 0..CLIENTS {
        let clients = Arc::clone(&clients);
        submitting.spawn(async move {
            let body = json!({"model": MODEL, "prompt": "a bottle", "size": "1K"});
            for number in (client..jobs).step_by(CLIENTS) {
                clients.submit(number, &body).await.unwrap();
            }
        });
    }
    let (mut asked, mut submitted, mut drained, mut let_go) = (None, None, None, None);
    let (mut running, mut most) = (1, 1);
    while let_go.is_none() && began.elapsed() < DRAIN {
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
            taken = taken.until(&Taken::look(&pipeline).await);
        }
        let wanted = trigger.wanted(&prometheus).await;
        most = most.max(wanted);
        if wanted > 1 && asked.is_none() {
            asked = Some(at);
        }
        if drained.is_some() && wanted <= 1 {
            let_go = Some(at);
        }
        let now = wanted.clamp(1, MOST);
        // Fewer only when it is over: the chart waits, too, until there was calm for a while.
        if now > running || let_go.is_some() {
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
    let mut violations = Vec::new();
    match asked {
        Some(asked) if asked <= ASKED => {}
        asked => violations.push(format!("workers were asked for after {asked:?}")),
    }
    match (drained, let_go) {
        (Some(drained), Some(let_go)) if let_go <= drained + LET_GO => {}
        times => violations.push(format!("drained and let go: {times:?}")),
    }
    let calls = fake.journal().count();
    if calls != jobs {
        violations.push(format!("{jobs} jobs took {calls} calls"));
    }
    println!("{jobs} jobs, {calls} calls, at most {most} workers wanted");
    if let Some(asked) = asked {
        println!(
            "workers were asked for {:.1} s after the first submit",
            asked.as_secs_f64()
        );
    }
    taken.tell(jobs);
    println!("where it lies: {}", largest(&pipeline, jobs).await);
    drop((apis, workers, prometheus));
    pipeline.close().await;
    servers.stop().await;
    verdict(&violations)
}

/// What a number of jobs takes of the servers: what `docs/scaling.md` reckons with.
struct Taken {
    transactions: i64,
    wal: i64,
    stored: i64,
    commands: i64,
}

impl Taken {
    async fn look(pipeline: &Pipeline) -> Self {
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

    fn until(&self, later: &Self) -> Self {
        Self {
            transactions: later.transactions - self.transactions,
            wal: later.wal - self.wal,
            stored: later.stored - self.stored,
            commands: later.commands - self.commands,
        }
    }

    fn tell(&self, jobs: usize) {
        let jobs = i64::try_from(jobs).unwrap();
        println!(
            "each job took {} transactions, {:.1} KB of WAL and {:.1} KB of tables of Postgres, and {} commands of Redis",
            self.transactions / jobs,
            kilobytes(self.wal / jobs),
            kilobytes(self.stored / jobs),
            self.commands / jobs
        );
    }
}

/// The largest tables, with their indices, by what a job has in each.
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
    /// How many workers there should be. For a metric of type `AverageValue` the autoscaler that KEDA feeds takes
    /// ⌈value / threshold⌉, within the limits (kubernetes.io, "Horizontal Pod Autoscaling", algorithm details).
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

/// Read off the chart's values and its `ScaledObject`.
fn trigger() -> Trigger {
    let chart = root("deploy/helm");
    let object = std::fs::read_to_string(chart.join("templates/worker.yaml")).unwrap();
    assert!(
        object.contains("metricType: AverageValue"),
        "another formula"
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
