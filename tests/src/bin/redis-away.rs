//! `make redis-away`: what submits and jobs notice when Redis is gone, and when it hangs.
//!
//! An api and two workers are real processes, on a private Postgres and Redis. Three rounds, each with Redis up, with
//! Redis away (its process is killed, and started empty afterwards) and with Redis hung (it takes what is said and
//! does not answer). In each, jobs are submitted at an even pace, and all must end before Redis comes back. Prints
//! what a submit took, and exits with 1 when it took longer without Redis, a job did not end, or one was called twice.
//!
//! With `--rotations` the password of Redis is changed so many times under load, and the file that names it follows
//! half a second to three seconds later. All must be well within five seconds of that, without a restart and without
//! a storm of dials.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use fakes::Fake;
use serde_json::json;
use servers::{Servers, Tuning};
use tests::clients::{Accepted, Clients};
use tests::fleet::{Process, Role};
use tests::proxy::{Proxy, Weather};
use tests::real::Real;
use tests::rotation::Rotating;
use tests::servers::TestServers;
use tests::{Options, Pipeline};
use tokio::task::JoinSet;

const ROUNDS: usize = 3;
const APIS: usize = 1;
const WORKERS: usize = 2;
const MODEL: &str = "gemini-nano-banana-2.1";
/// What a submit may take without Redis: so much more than with it, or so much longer.
const FACTOR: f64 = 1.2;
const LONGER: Duration = Duration::from_millis(5);
/// Fewer submits than this have no 99th percentile worth the name; then medians are compared.
const MANY: usize = 400;
const DRAIN: Duration = Duration::from_mins(1);
/// From the right password to all being well again.
const HEALED: Duration = Duration::from_secs(5);
/// Connections each process may open in a second while it is locked out: the shared one and that of the pop, each
/// dialled anew with growing delays.
const DIALS: f64 = 20.0;

#[derive(Parser)]
struct Words {
    /// Seconds in which jobs are submitted, all in all.
    #[arg(long, default_value_t = 300)]
    seconds: u32,
    /// Jobs submitted each second.
    #[arg(long, default_value_t = 15)]
    rate: u32,
    /// How often the password of Redis is changed in the end.
    #[arg(long, default_value_t = 0)]
    rotations: u32,
}

/// How Redis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Redis {
    Up,
    Away,
    Hung,
}

/// What a stretch of time without a change came to.
struct Measured {
    redis: Redis,
    /// What submits took, sorted.
    took: Vec<Duration>,
    lost: usize,
    /// From the change to the end of the first job; `None`: too long.
    noticed: Option<Duration>,
    /// From the last submit to the end of the last job; `None`: too long.
    drained: Option<Duration>,
    /// Milliseconds from admission to claim, the median and the longest.
    began: (f64, f64),
}

struct Stage {
    servers: Servers,
    redis: Proxy,
    pipeline: Pipeline,
    clients: Arc<Clients>,
    /// Where the processes say how they stand.
    readiness: Vec<String>,
    submitted: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words {
        seconds,
        rate,
        rotations,
    } = Words::parse();
    let (_folder, servers, named) = TestServers::own(Tuning::Durable).await;
    let (redis, redis_url) = Proxy::before(servers.redis_url()).await.unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("redis.url");
    let mut rotating = Rotating::new(servers.redis_url(), &redis_url, &file).await;
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
    } = Real::start_on(named, options, 300..=700).await;
    let apis = orders.start(Role::Api, APIS).await.unwrap();
    let workers = orders.start(Role::Worker, WORKERS).await.unwrap();
    let addresses = apis.iter().map(Process::address).collect();
    let processes = apis.iter().chain(&workers);
    let readiness = processes
        .map(|process| format!("http://{}/readyz", process.metrics_address()))
        .collect();
    let mut stage = Stage {
        servers,
        redis,
        clients: Arc::new(Clients::new(&pipeline.key, addresses)),
        pipeline,
        readiness,
        submitted: 0,
    };

    // The first ones warm connections and caches.
    stage.measure(Redis::Up, Duration::from_secs(2), rate).await;
    let stretch = Duration::from_secs(seconds.into()) / 9;
    let mut measured = Vec::new();
    for round in 1..=ROUNDS {
        for redis in [Redis::Up, Redis::Away, Redis::Hung] {
            let one = stage.measure(redis, stretch, rate).await;
            print(round, &one);
            measured.push(one);
        }
    }
    let mut held = judge(&measured);
    rotating.reconnect().await;
    for number in 1..=rotations {
        held &= stage.rotate(&mut rotating, number, rate).await;
    }
    for mut process in workers.into_iter().chain(apis) {
        process.stop().await.unwrap();
    }
    held &= called_once(&fake, &stage.pipeline).await;
    stage.pipeline.close().await;
    stage.servers.stop().await;
    println!("  the books close: `platen verify` finds nothing");
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Stage {
    async fn measure(&mut self, redis: Redis, stretch: Duration, rate: u32) -> Measured {
        match redis {
            Redis::Up => {}
            Redis::Away => self.servers.redis().crash().await,
            Redis::Hung => self.redis.set(Weather::Silence),
        }
        // What waits until the workers have noticed is made up for all at once, on the cores the api is on, too: a
        // submit is measured when that is over.
        let changed = Instant::now();
        self.submit().await.unwrap();
        let noticed = self
            .pipeline
            .drained(DRAIN)
            .await
            .then(|| changed.elapsed());
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut submits = JoinSet::new();
        let began = Instant::now();
        while began.elapsed() < stretch {
            ticks.tick().await;
            submits.spawn(self.submit());
        }
        let submits = submits.join_all().await;
        let last = Instant::now();
        let drained = self.pipeline.drained(DRAIN).await.then(|| last.elapsed());
        match redis {
            Redis::Up => {}
            Redis::Away => self.servers.redis().start_again().await.unwrap(),
            Redis::Hung => self.redis.set(Weather::Fair),
        }
        let lost = submits.iter().filter(|submit| submit.is_err()).count();
        let accepted: Vec<Accepted> = submits.into_iter().flatten().collect();
        let began = self.began(&accepted).await;
        let mut took: Vec<Duration> = accepted.iter().map(|accepted| accepted.took).collect();
        took.sort_unstable();
        // Until workers and api have noticed that it is back.
        if redis != Redis::Up {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        Measured {
            redis,
            took,
            lost,
            noticed,
            drained,
            began,
        }
    }

    /// Changes the password under load; says whether everything healed by itself.
    async fn rotate(&mut self, rotating: &mut Rotating, number: u32, rate: u32) -> bool {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut submits = JoinSet::new();
        // From half a second to three, in another order each time.
        let late = Duration::from_millis(500 + u64::from(number) * 790 % 2_501);
        let before = rotating.connections().await;
        rotating.rotate().await;
        let rotated = Instant::now();
        while rotated.elapsed() < late {
            ticks.tick().await;
            submits.spawn(self.submit());
        }
        let dialled = rotating.connections().await - before;
        let told_why = self.say("does not accept the login").await;
        rotating.tell();
        let told = Instant::now();
        let healed = loop {
            if rotating.serves(APIS, WORKERS).await && self.say("redis").await == 0 {
                break Some(told.elapsed());
            }
            if told.elapsed() > HEALED {
                break None;
            }
            ticks.tick().await;
            submits.spawn(self.submit());
        };
        let submits = submits.join_all().await;
        let lost = submits.iter().filter(|submit| submit.is_err()).count();
        let drained = self.pipeline.drained(DRAIN).await;
        #[expect(clippy::cast_precision_loss, reason = "three processes, some dials")]
        let (a_second, most) = (
            dialled as f64 / late.as_secs_f64(),
            DIALS * self.readiness.len() as f64,
        );
        figure(
            healed.is_some() && lost == 0 && drained && a_second <= most && told_why > 0,
            &format!(
                "rotation {number:>2}: locked out for {:.1} s, {told_why} of {} processes said why, {a_second:.1} dials a second (at most {most:.0}), {}, {} submits, {lost} lost",
                late.as_secs_f64(),
                self.readiness.len(),
                healed.map_or_else(
                    || "NOT well in 5 s".to_owned(),
                    |healed| format!("well after {:.2} s", healed.as_secs_f64())
                ),
                submits.len(),
            ),
        )
    }

    /// How many processes say this when they are asked whether they are ready, which they are.
    async fn say(&self, words: &str) -> usize {
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

    async fn began(&self, accepted: &[Accepted]) -> (f64, f64) {
        let jobs: Vec<uuid::Uuid> = accepted.iter().map(|accepted| accepted.job.0).collect();
        let waits = sqlx::query_as(
            "SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY wait), 0)::float8, coalesce(max(wait), 0)::float8
            FROM (SELECT extract(epoch FROM started_at - created_at) * 1000 AS wait FROM jobs WHERE id = ANY($1)) AS waits",
        );
        let waits = waits.bind(jobs).fetch_one(&self.pipeline.reader);
        waits.await.unwrap()
    }
}

fn percentile(took: &[Duration], percent: usize) -> Duration {
    let last = took.len().saturating_sub(1);
    took.get((took.len() * percent / 100).min(last))
        .copied()
        .unwrap_or_default()
}

/// The percentile that is compared, and what it is.
fn tail(took: &[Duration]) -> (usize, Duration) {
    let percent = if took.len() < MANY { 50 } else { 99 };
    (percent, percentile(took, percent))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn print(round: usize, measured: &Measured) {
    println!(
        "round {round}  Redis {:<5} {:>5} submits  p50 {:>5.1} ms  p99 {:>6.1} ms  max {:>6.1} ms   a first job ended after {:>4.1} s; jobs began after {:>4.0} ms, the last after {:>5.0} ms; drained {}",
        format!("{:?}", measured.redis).to_lowercase(),
        measured.took.len(),
        ms(percentile(&measured.took, 50)),
        ms(percentile(&measured.took, 99)),
        ms(percentile(&measured.took, 100)),
        measured.noticed.unwrap_or_default().as_secs_f64(),
        measured.began.0,
        measured.began.1,
        measured.drained.map_or_else(
            || "NEVER".to_owned(),
            |drained| format!("in {:.1} s", drained.as_secs_f64())
        ),
    );
}

fn judge(measured: &[Measured]) -> bool {
    let median = |redis: Redis| {
        let of = measured.iter().filter(|measured| measured.redis == redis);
        let mut tails: Vec<Duration> = of.map(|measured| tail(&measured.took).1).collect();
        tails.sort_unstable();
        tails[tails.len() / 2]
    };
    let up = median(Redis::Up);
    let most = up.mul_f64(FACTOR).max(up + LONGER);
    let mut held = true;
    for redis in [Redis::Away, Redis::Hung] {
        let without = median(redis);
        held &= figure(
            without <= most,
            &format!(
                "a submit's p{} is {:.1} ms with Redis up and {:.1} ms with Redis {} (medians of {ROUNDS} rounds; at most {:.1} ms)",
                tail(&measured[0].took).0,
                ms(up),
                ms(without),
                format!("{redis:?}").to_lowercase(),
                ms(most)
            ),
        );
    }
    let lost: usize = measured.iter().map(|measured| measured.lost).sum();
    held &= figure(lost == 0, &format!("{lost} submits were lost (none)"));
    let drained = measured
        .iter()
        .filter(|measured| measured.noticed.and(measured.drained).is_some());
    let drained = drained.count();
    held & figure(
        drained == measured.len(),
        &format!(
            "all jobs ended before Redis came back, {drained} times of {}",
            measured.len()
        ),
    )
}

/// Neither while Redis was away nor after it came back is a job paid for twice.
async fn called_once(fake: &Fake, pipeline: &Pipeline) -> bool {
    let mut called: BTreeMap<String, usize> = BTreeMap::new();
    for call in fake.journal().calls() {
        let job = call.labels.get("job").cloned().unwrap_or_default();
        *called.entry(job).or_default() += 1;
    }
    let succeeded = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'succeeded'");
    let succeeded: i64 = succeeded.fetch_one(&pipeline.reader).await.unwrap();
    let jobs = sqlx::query_scalar("SELECT count(*) FROM jobs");
    let jobs: i64 = jobs.fetch_one(&pipeline.reader).await.unwrap();
    let twice = called.values().filter(|&&calls| calls > 1).count();
    let all = figure(
        succeeded == jobs,
        &format!("{succeeded} of {jobs} jobs succeeded"),
    );
    all & figure(
        twice == 0,
        &format!(
            "{twice} of {} jobs that were called for were called for twice (none)",
            called.len()
        ),
    )
}

/// Prints a figure beside its target.
fn figure(holds: bool, says: &str) -> bool {
    println!("  {} {says}", if holds { "ok    " } else { "MISSED" });
    holds
}
