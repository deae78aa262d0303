//! `make redis-away`: what submits and jobs notice when Redis is down, and when it hangs.
//!
//! An api and two workers are real processes, on a private Postgres and Redis. There are three rounds, each with Redis up,
//! with Redis down (its process is killed, and started empty afterwards) and with Redis hung (it reads requests and does
//! not answer). In each, jobs are submitted at an even pace, and all must end before Redis is back. Prints how long a
//! submit took. Exits with 1 if it took longer without Redis, a job did not end, or one was called twice.
//!
//! With `--rotations` the password of Redis is changed several times under load, and the file that tells it follows half
//! a second to three seconds later. Everything must work again within five seconds, without a restart and without too
//! many connections.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use fakes::Fake;
use serde_json::json;
use servers::Durability;
use tests::clients::{Accepted, Clients};
use tests::figures::{milliseconds, percentile};
use tests::fleet::{Process, Role};
use tests::proof::Proof;
use tests::proxy::{Proxy, Weather};
use tests::real::Real;
use tests::rotation::Rotating;
use tests::servers::OwnServers;
use tests::{Options, Pipeline, once};
use tokio::task::JoinSet;

const ROUNDS: usize = 3;
const APIS: usize = 1;
const WORKERS: usize = 2;
const MODEL: &str = "gemini-nano-banana-2.1";
/// A submit without Redis may take this many times as long as with it, or this much longer.
const MAX_FACTOR: f64 = 1.2;
const MAX_MARGIN: Duration = Duration::from_millis(5);
/// With fewer submits than this the 99th percentile is not reliable; then medians are compared.
const MIN_SUBMITS_FOR_P99: usize = 400;
const DRAIN_TIMEOUT: Duration = Duration::from_mins(1);
/// How long after the right password is told everything must work again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that each process may open in a second while its password is wrong: the shared one and the one of the
/// blocking pop, each opened again with growing delays.
const MAX_CONNECTIONS_PER_SECOND: f64 = 20.0;
/// After this time api and workers have noticed that Redis is back.
const BACK_TIME: Duration = Duration::from_secs(4);

#[derive(Parser)]
struct Arguments {
    /// Seconds in which jobs are submitted, in all rounds together.
    #[arg(long, default_value_t = 300)]
    seconds: u32,
    /// Jobs submitted each second.
    #[arg(long, default_value_t = 15)]
    rate: u32,
    /// How often the password of Redis is changed after the rounds.
    #[arg(long, default_value_t = 0)]
    rotations: u32,
}

/// The state of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Redis {
    Up,
    Away,
    Hung,
}

/// What was measured in one state of Redis.
struct Measured {
    redis: Redis,
    /// How long submits took, sorted.
    took: Vec<Duration>,
    /// Submits that were not accepted.
    lost: usize,
    /// The time from the change to the end of the first job; `None` if that took too long.
    noticed: Option<Duration>,
    /// The time from the last submit to the end of the last job; `None` if that took too long.
    drained: Option<Duration>,
    /// Milliseconds from admission to claim: the median and the longest.
    started: (f64, f64),
}

/// Everything that the rounds use.
struct Stage {
    /// Between the processes and Redis.
    redis: Proxy,
    pipeline: Pipeline,
    clients: Arc<Clients>,
    /// The readiness URLs of the processes.
    readiness: Vec<String>,
    /// How many jobs were submitted.
    submitted: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments {
        seconds,
        rate,
        rotations,
    } = Arguments::parse();
    let mut proof = Proof::default();
    let (own, urls) = OwnServers::start(Durability::Full).await;
    let (redis, redis_url) = Proxy::before(&urls.redis_url).await.unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("redis.url");
    let mut rotating = Rotating::new(&urls.redis_url, &redis_url, &file).await;
    let options = Options {
        slots: 16,
        redis_url_file: Some(file),
        ..Options::in_earnest()
    };
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start_between(own, urls, options, 300..=700).await;
    let apis = orders.start(Role::Api, APIS).await.unwrap();
    let workers = orders.start(Role::Worker, WORKERS).await.unwrap();
    let addresses = apis.iter().map(Process::address).collect();
    let processes = apis.iter().chain(&workers);
    let readiness = processes
        .map(|process| format!("http://{}/readyz", process.metrics_address()))
        .collect();
    let mut stage = Stage {
        redis,
        clients: Arc::new(Clients::new(&pipeline.key, addresses)),
        pipeline,
        readiness,
        submitted: 0,
    };

    // The first ones warm connections and caches.
    stage.measure(Redis::Up, Duration::from_secs(2), rate).await;
    let states = [Redis::Up, Redis::Away, Redis::Hung];
    let length =
        Duration::from_secs(seconds.into()) / u32::try_from(ROUNDS * states.len()).unwrap();
    let mut measured = Vec::new();
    for round in 1..=ROUNDS {
        for redis in states {
            let one = stage.measure(redis, length, rate).await;
            print(round, &one);
            measured.push(one);
        }
    }
    judge(&mut proof, &measured);
    rotating.reconnect().await;
    for number in 1..=rotations {
        stage.rotate(&mut proof, &mut rotating, number, rate).await;
    }
    for mut process in workers.into_iter().chain(apis) {
        process.stop().await.unwrap();
    }
    check_calls(&mut proof, &fake, &stage.pipeline).await;
    proof.close(stage.pipeline).await;
    proof.verdict()
}

impl Stage {
    /// Submits for `length` in a state of Redis, and lets every job end in that state.
    async fn measure(&mut self, redis: Redis, length: Duration, rate: u32) -> Measured {
        match redis {
            Redis::Up => {}
            Redis::Away => self.pipeline.own().servers.redis().crash().await,
            Redis::Hung => self.redis.set(Weather::Silence),
        }
        // Until the workers have noticed the change, jobs pile up; then all of them run at once, on the same cores as the
        // api. So submits are measured only after that.
        let changed = Instant::now();
        self.submit().await.unwrap();
        let noticed = self
            .pipeline
            .drained(DRAIN_TIMEOUT)
            .await
            .then(|| changed.elapsed());
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut submits = JoinSet::new();
        let began = Instant::now();
        while began.elapsed() < length {
            ticks.tick().await;
            submits.spawn(self.submit());
        }
        let submits = submits.join_all().await;
        let last = Instant::now();
        let drained = self.pipeline.drained(DRAIN_TIMEOUT).await;
        let drained = drained.then(|| last.elapsed());
        match redis {
            Redis::Up => {}
            Redis::Away => {
                let servers = &mut self.pipeline.own().servers;
                servers.redis().start_again().await.unwrap();
            }
            Redis::Hung => self.redis.set(Weather::Fair),
        }
        let lost = submits.iter().filter(|submit| submit.is_err()).count();
        let accepted: Vec<Accepted> = submits.into_iter().flatten().collect();
        let started = self.started(&accepted).await;
        let mut took: Vec<Duration> = accepted.iter().map(|accepted| accepted.took).collect();
        took.sort_unstable();
        if redis != Redis::Up {
            tokio::time::sleep(BACK_TIME).await;
        }
        Measured {
            redis,
            took,
            lost,
            noticed,
            drained,
            started,
        }
    }

    /// Changes the password under load, and checks that everything recovers by itself.
    async fn rotate(&mut self, proof: &mut Proof, rotating: &mut Rotating, number: u32, rate: u32) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut submits = JoinSet::new();
        // The delay of the file: between half a second and three seconds, different for each rotation.
        let late = Duration::from_millis(500 + u64::from(number) * 790 % 2_501);
        let before = rotating.connections().await;
        rotating.rotate().await;
        let rotated = Instant::now();
        while rotated.elapsed() < late {
            ticks.tick().await;
            submits.spawn(self.submit());
        }
        let opened = rotating.connections().await - before;
        let told_why = self.count_saying("rejects the login").await;
        rotating.tell();
        let told = Instant::now();
        let recovered = loop {
            if rotating.serves(APIS, WORKERS).await && self.count_saying("redis").await == 0 {
                break Some(told.elapsed());
            }
            if told.elapsed() > RECOVERY_TIMEOUT {
                break None;
            }
            ticks.tick().await;
            submits.spawn(self.submit());
        };
        let submits = submits.join_all().await;
        let lost = submits.iter().filter(|submit| submit.is_err()).count();
        let drained = self.pipeline.drained(DRAIN_TIMEOUT).await;
        #[expect(
            clippy::cast_precision_loss,
            reason = "three processes, some connections"
        )]
        let (per_second, most) = (
            opened as f64 / late.as_secs_f64(),
            MAX_CONNECTIONS_PER_SECOND * self.readiness.len() as f64,
        );
        proof.check(
            recovered.is_some() && lost == 0 && drained && per_second <= most && told_why > 0,
            format!(
                "rotation {number:>2}: wrong password for {:.1} s, {told_why} of {} processes said why, {per_second:.1} connections a second (at most {most:.0}), {}, {} submits, {lost} lost",
                late.as_secs_f64(),
                self.readiness.len(),
                recovered.map_or_else(
                    || "NOT recovered in 5 s".to_owned(),
                    |recovered| format!("recovered after {:.2} s", recovered.as_secs_f64())
                ),
                submits.len(),
            ),
        );
    }

    /// How many processes mention `words` in their readiness. All of them must be ready.
    async fn count_saying(&self, words: &str) -> usize {
        let mut count = 0;
        for url in &self.readiness {
            let answer = self.clients.http().get(url).send().await.unwrap();
            let answer = answer.error_for_status().unwrap().text().await.unwrap();
            count += usize::from(answer.to_lowercase().contains(words));
        }
        count
    }

    fn submit(&mut self) -> impl Future<Output = anyhow::Result<Accepted>> + use<> {
        self.submitted += 1;
        let (clients, number) = (Arc::clone(&self.clients), self.submitted);
        async move {
            let job = json!({"model": MODEL, "prompt": format!("a bottle, number {number}"), "size": "1K"});
            clients.submit(number, &job).await
        }
    }

    /// Milliseconds from admission to claim: the median and the longest.
    async fn started(&self, accepted: &[Accepted]) -> (f64, f64) {
        let jobs: Vec<uuid::Uuid> = accepted.iter().map(|accepted| accepted.job.0).collect();
        let waits = sqlx::query_as(
            "SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY wait), 0)::float8, coalesce(max(wait), 0)::float8
            FROM (SELECT extract(epoch FROM started_at - created_at) * 1000 AS wait FROM jobs WHERE id = ANY($1)) AS waits",
        );
        let waits = waits.bind(jobs).fetch_one(&self.pipeline.reader);
        waits.await.unwrap()
    }
}

/// Which percentile is compared, and its value.
fn tail(took: &[Duration]) -> (usize, Duration) {
    let percent = if took.len() < MIN_SUBMITS_FOR_P99 {
        50
    } else {
        99
    };
    (percent, percentile(took, percent))
}

fn print(round: usize, measured: &Measured) {
    println!(
        "round {round}  Redis {:<5} {:>5} submits  p50 {:>5.1} ms  p99 {:>6.1} ms  max {:>6.1} ms   a first job ended after {:>4.1} s; jobs began after {:>4.0} ms, the last after {:>5.0} ms; drained {}",
        format!("{:?}", measured.redis).to_lowercase(),
        measured.took.len(),
        milliseconds(percentile(&measured.took, 50)),
        milliseconds(percentile(&measured.took, 99)),
        milliseconds(percentile(&measured.took, 100)),
        measured.noticed.unwrap_or_default().as_secs_f64(),
        measured.started.0,
        measured.started.1,
        measured.drained.map_or_else(
            || "NEVER".to_owned(),
            |drained| format!("in {:.1} s", drained.as_secs_f64())
        ),
    );
}

fn judge(proof: &mut Proof, measured: &[Measured]) {
    let median = |redis: Redis| {
        let of = measured.iter().filter(|measured| measured.redis == redis);
        let mut tails: Vec<Duration> = of.map(|measured| tail(&measured.took).1).collect();
        tails.sort_unstable();
        tails[tails.len() / 2]
    };
    let up = median(Redis::Up);
    let most = up.mul_f64(MAX_FACTOR).max(up + MAX_MARGIN);
    for redis in [Redis::Away, Redis::Hung] {
        let without = median(redis);
        proof.check(
            without <= most,
            format!(
                "a submit's p{} is {:.1} ms with Redis up and {:.1} ms with Redis {} (medians of {ROUNDS} rounds; at most {:.1} ms)",
                tail(&measured[0].took).0,
                milliseconds(up),
                milliseconds(without),
                format!("{redis:?}").to_lowercase(),
                milliseconds(most)
            ),
        );
    }
    let lost: usize = measured.iter().map(|measured| measured.lost).sum();
    proof.check(lost == 0, format!("{lost} submits were lost (none)"));
    let drained = measured
        .iter()
        .filter(|measured| measured.noticed.and(measured.drained).is_some());
    let drained = drained.count();
    proof.check(
        drained == measured.len(),
        format!(
            "all jobs ended before Redis was back, {drained} times of {}",
            measured.len()
        ),
    );
}

/// Checks that every job succeeded and was called for once, whatever Redis did.
async fn check_calls(proof: &mut Proof, fake: &Fake, pipeline: &Pipeline) {
    let called = once::calls_by_job(&fake.journal());
    let succeeded = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'succeeded'");
    let succeeded: i64 = succeeded.fetch_one(&pipeline.reader).await.unwrap();
    let jobs = sqlx::query_scalar("SELECT count(*) FROM jobs");
    let jobs: i64 = jobs.fetch_one(&pipeline.reader).await.unwrap();
    let twice = called.values().filter(|&&calls| calls > 1).count();
    proof.check(
        succeeded == jobs,
        format!("{succeeded} of {jobs} jobs succeeded"),
    );
    proof.check(
        twice == 0,
        format!(
            "{twice} of {} jobs were called for twice (none)",
            called.len()
        ),
    );
}
