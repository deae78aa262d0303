//! `make scale`: whether a large installation is as fast as an empty one.
//!
//! Both have servers of their own, and the same thousand tenants. The large one has a history of jobs that have ended, and a
//! backlog of queued jobs. The empty one has only the jobs that are measured. First a worker of each drains jobs in turn, then
//! an api of each answers submits in turn, so what slows the machine slows both. At last the empty one answers submits at
//! several rates. Submits come at an even pace, whether those before were answered or not. Prints a line for each point, and
//! exits with 1 if one is missed or the books do not close.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use domain::id::TenantId;
use tests::Options;
use tests::attack::stage::WITHOUT_RATES;
use tests::clients::Clients;
use tests::figures::{ProcessCost, median, milliseconds, percentile};
use tests::fleet::{Process, Role};
use tests::history::History;
use tests::pipeline::small_job;
use tests::proof::Proof;
use tests::real::Real;
use tests::wait::until;
use tokio::task::JoinSet;

/// Jobs a second with the backlog, divided by those without: at least.
const MIN_DRAIN_RATIO: f64 = 0.9;
/// The 99th percentile of submits with the history, divided by the one without: at most.
const MAX_P99_RATIO: f64 = 1.2;
/// The 99th percentile of submits at [`JUDGED_RATE`], in milliseconds: at most.
const MAX_P99_MS: f64 = 15.0;
/// Submits a second for each core whose 99th percentile is judged: 500 a second on four cores.
const JUDGED_RATE: u32 = 125;
/// Submits a second for each core.
const RATES: [u32; 3] = [50, JUDGED_RATE, 200];
/// The rate at which both installations are compared: no queue forms, so the time of a single submit shows.
const COMPARED_RATE: u32 = RATES[0];
const SUBMIT_SECONDS: u32 = 10;
/// Submits that warm an api.
const WARM_UP_SUBMITS: u32 = 300;

const TENANTS: u32 = 1_000;
/// How many of the tenants submit.
const SUBMITTERS: i64 = 64;
/// Jobs of a slice whose ends are timed.
const TIMED_JOBS: u32 = 500;
/// Jobs of a slice that end before: the worker connects, and its lane grows.
const WARM_UP_JOBS: u32 = 100;
/// Jobs of a slice that may end after the timed ones, while the worker stops.
const SPARE_JOBS: u32 = 300;
const SLOTS: usize = 32;
/// How long one slice of a drain may take.
const SLICE_TIMEOUT: Duration = Duration::from_mins(3);
/// Rows that `History` writes for a job that has ended, on average, in hundredths.
const ROWS_OF_100_JOBS: u32 = 892;

#[derive(Parser)]
struct Arguments {
    /// Queued jobs of the large installation.
    #[arg(long, default_value_t = 1_000_000)]
    jobs: u32,
    /// Rows of its history, all tables together.
    #[arg(long, default_value_t = 10_000_000)]
    rows: u32,
    /// How often each is measured.
    #[arg(long, default_value_t = 8)]
    pairs: u32,
    /// The program that is measured: of a release build, as it ships.
    #[arg(long)]
    program: PathBuf,
}

/// One of the two installations.
struct Side {
    name: &'static str,
    real: Real,
    worker: Process,
    /// One for each tenant that submits.
    clients: Vec<Arc<Clients>>,
    api: Process,
    /// The number of the next submit.
    next: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut proof = Proof::default();
    let measured = arguments.pairs * (TIMED_JOBS + WARM_UP_JOBS + SPARE_JOBS);
    let history = History {
        tenants: TENANTS,
        ended: arguments.rows / ROWS_OF_100_JOBS * 100,
        running: 0,
        queued: arguments.jobs.max(measured),
    };
    let nothing = History {
        ended: 0,
        queued: measured,
        ..history
    };
    let large = Box::pin(Side::start("large", history, &arguments.program)).await;
    let empty = Box::pin(Side::start("empty", nothing, &arguments.program)).await;
    let mut sides = [large, empty];
    compare_drains(&mut proof, &mut sides, arguments.pairs).await;
    compare_submits(&mut proof, &mut sides, arguments.pairs).await;
    let [large, mut empty] = sides;
    submit_faster(&mut proof, &mut empty, arguments.pairs.div_ceil(2)).await;
    Box::pin(large.close(&mut proof)).await;
    Box::pin(empty.close(&mut proof)).await;
    proof.verdict()
}

/// Lets the workers drain jobs in turn.
async fn compare_drains(proof: &mut Proof, sides: &mut [Side; 2], pairs: u32) {
    let compared = Box::pin(in_turn(sides, pairs, Side::drain)).await;
    let Compared {
        large,
        empty,
        ratio,
    } = compared;
    proof.check(
        ratio >= MIN_DRAIN_RATIO,
        format!("drain: {large:.1} jobs a second with the backlog, {empty:.1} without: {ratio:.2} (goal: at least {MIN_DRAIN_RATIO})"),
    );
}

/// Lets the apis answer submits in turn.
async fn compare_submits(proof: &mut Proof, sides: &mut [Side; 2], pairs: u32) {
    for side in &mut *sides {
        side.submit(COMPARED_RATE, WARM_UP_SUBMITS).await;
    }
    let p99 =
        async |side: &mut Side| milliseconds(side.submit_for_a_while(COMPARED_RATE).await.p99);
    let compared = Box::pin(in_turn(sides, pairs, p99)).await;
    let Compared {
        large,
        empty,
        ratio,
    } = compared;
    proof.check(
        ratio <= MAX_P99_RATIO,
        format!("submit, p99 at {COMPARED_RATE} a second for each core: {large:.1} ms with the history, {empty:.1} ms without: {ratio:.2} (goal: at most {MAX_P99_RATIO})"),
    );
}

/// Medians of what was measured in turn.
struct Compared {
    large: f64,
    empty: f64,
    /// The median of the ratios of the pairs, large to empty.
    ratio: f64,
}

/// Measures both sides in turn, in the other order for each pair.
async fn in_turn(
    sides: &mut [Side; 2],
    pairs: u32,
    mut measure: impl AsyncFnMut(&mut Side) -> f64,
) -> Compared {
    let mut figures = [Vec::new(), Vec::new()];
    for pair in 0..pairs as usize {
        for number in [pair % 2, 1 - pair % 2] {
            let side = &mut sides[number];
            let figure = measure(side).await;
            println!("  {} {figure:.1}", side.name);
            figures[number].push(figure);
        }
    }
    let [large, empty] = figures;
    let ratios = large.iter().zip(&empty).map(|(large, empty)| large / empty);
    Compared {
        ratio: median(ratios.collect()),
        large: median(large),
        empty: median(empty),
    }
}

/// Submits at several rates, in turn. The medians are judged.
async fn submit_faster(proof: &mut Proof, side: &mut Side, rounds: u32) {
    let mut p99 = Vec::new();
    for _ in 0..rounds {
        for rate in RATES {
            let submits = side.submit_for_a_while(rate).await;
            println!("  {rate} submits a second for each core, clients included: {submits}");
            if rate == JUDGED_RATE {
                p99.push(milliseconds(submits.p99));
            }
        }
    }
    let p99 = median(p99);
    proof.check(
        p99 <= MAX_P99_MS,
        format!("submit, p99 at {JUDGED_RATE} a second for each core, as 500 on four: {p99:.1} ms (goal: at most {MAX_P99_MS} ms)"),
    );
}

/// What submits took.
struct Submits {
    p50: Duration,
    p99: Duration,
    /// CPU time of the api for one of them.
    cpu: Duration,
}

impl fmt::Display for Submits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, cpu] = [self.p50, self.p99, self.cpu].map(milliseconds);
        write!(
            f,
            "p50 {p50:.1} ms, p99 {p99:.1} ms; each takes {cpu:.2} ms of the api's CPU"
        )
    }
}

impl Side {
    /// Starts servers, and fills them. The worker does not run yet.
    async fn start(name: &'static str, history: History, program: &std::path::Path) -> Self {
        let options = Options {
            slots: SLOTS,
            ..Options::in_earnest()
        };
        let mut real = Real::start_alone(options, 0..=0).await;
        program.clone_into(&mut real.orders.program);
        let off = WITHOUT_RATES.iter();
        let off = off.map(|&(name, value)| (name.to_owned(), value.to_owned()));
        real.orders.environment.extend(off);
        let began = Instant::now();
        let pipeline = &real.pipeline;
        let url = pipeline.servers.owner_url_of(&pipeline.database);
        history.fill(&url).await;
        let (rows, bytes): (i64, i64) = sqlx::query_as(
            "SELECT sum(reltuples)::bigint, pg_database_size(current_database()) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
        )
        .fetch_one(&pipeline.reader)
        .await
        .unwrap();
        println!(
            "{name}: {} queued jobs of {TENANTS} tenants, {} that have ended; {rows} rows, {} MB; filled in {:.0} s",
            history.queued,
            history.ended,
            bytes / 1_000_000,
            began.elapsed().as_secs_f64()
        );
        let api = real.orders.start_one(Role::Api).await.unwrap();
        let tenants: Vec<TenantId> = sqlx::query_scalar(
            "SELECT id FROM tenants WHERE name LIKE 'tenant %' ORDER BY id LIMIT $1",
        )
        .bind(SUBMITTERS)
        .fetch_all(&pipeline.reader)
        .await
        .unwrap();
        let mut clients = Vec::new();
        for tenant in tenants {
            let key = pipeline.add_key_of(tenant).await;
            clients.push(Arc::new(Clients::new(&key, vec![api.address()])));
        }
        Self {
            name,
            worker: Process::new(Role::Worker, 1, &real.orders).unwrap(),
            clients,
            api,
            real,
            next: 0,
        }
    }

    /// Lets the worker drain some jobs. Returns how many a second.
    async fn drain(&mut self) -> f64 {
        let reader = &self.real.pipeline.reader;
        let began: time::OffsetDateTime = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(reader)
            .await
            .unwrap();
        // Each job makes at least one call. To count the ends would read the whole backlog each time.
        let journal = self.real.fake.journal();
        let wanted = journal.count() + (TIMED_JOBS + WARM_UP_JOBS) as usize * 11 / 10 + SLOTS;
        self.worker.start().unwrap();
        self.worker.ready().await.unwrap();
        until("the jobs were drained", SLICE_TIMEOUT, async || {
            (journal.count() >= wanted).then_some(())
        })
        .await;
        self.worker.stop_cleanly(SLICE_TIMEOUT).await.unwrap();
        let (jobs, seconds): (i64, f64) = sqlx::query_as(
            "SELECT count(*), extract(epoch FROM max(finished_at) - min(finished_at))::float8 FROM (
               SELECT finished_at, row_number() OVER (ORDER BY finished_at) AS n FROM jobs WHERE finished_at > $1 AND state = 'succeeded') ended
             WHERE n BETWEEN $2 AND $2 + $3",
        )
        .bind(began)
        .bind(i64::from(WARM_UP_JOBS))
        .bind(i64::from(TIMED_JOBS))
        .fetch_one(reader)
        .await
        .unwrap();
        assert_eq!(jobs, i64::from(TIMED_JOBS) + 1, "too few jobs succeeded");
        f64::from(TIMED_JOBS) / seconds
    }

    /// Submits so many jobs a second for each core.
    async fn submit_for_a_while(&mut self, a_second_and_core: u32) -> Submits {
        let cores = std::thread::available_parallelism().unwrap();
        let a_second = a_second_and_core * u32::try_from(cores.get()).unwrap();
        self.submit(a_second, a_second * SUBMIT_SECONDS).await
    }

    /// Submits `count` jobs at an even pace. The tenants take turns.
    async fn submit(&mut self, a_second: u32, count: u32) -> Submits {
        let process = self.api.id().unwrap();
        let before = ProcessCost::read(process).unwrap();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / a_second);
        let mut submits = JoinSet::new();
        for _ in 0..count {
            ticks.tick().await;
            let number = self.next;
            self.next += 1;
            let clients = Arc::clone(&self.clients[number % self.clients.len()]);
            submits.spawn(async move { clients.submit(number, &small_job()).await });
        }
        let accepted = submits.join_all().await.into_iter().map(Result::unwrap);
        let mut took: Vec<Duration> = accepted
            .inspect(|accepted| assert_eq!(accepted.tries, 1, "a submit was not answered"))
            .map(|accepted| accepted.took)
            .collect();
        took.sort_unstable();
        let cost = ProcessCost::read(process).unwrap() - before;
        Submits {
            p50: percentile(&took, 50),
            p99: percentile(&took, 99),
            cpu: (cost.user + cost.kernel) / count,
        }
    }

    /// Checks the books, and ends everything. Most jobs are still open.
    async fn close(self, proof: &mut Proof) {
        let found = common::verify::verify(&self.real.pipeline.reader).await;
        let found = found.unwrap();
        proof.check(
            found.is_empty(),
            format!(
                "{}: `platen verify` finds {} violations",
                self.name,
                found.len()
            ),
        );
        drop((self.worker, self.api));
        self.real.pipeline.abandon().await;
    }
}
