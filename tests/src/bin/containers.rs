//! `make containers`: the shipped `docker-compose.yml`, unchanged, from the first start through the work of an operator.
//!
//! A private Docker is started, with stand-ins for the container images that cannot be pulled here. The vendor is a fake in
//! this process. A job is submitted with curl and its image is fetched; workers are scaled from 1 to 8 and back under load;
//! an api and a worker are stopped by `docker stop`; the main process of each service is killed. Prints the size of the
//! container image and the memory of its processes. Exits with 1 if a job was lost or an image was requested twice.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use fakes::{Fake, Latency, Switches};
use serde_json::Value;
use sqlx::PgPool;
use tests::clients::{Accepted, Clients, Load, Offered};
use tests::compose::{Engine, Project, images};
use tests::figures::memory_kib;
use tests::proof::Proof;
use tests::wait::try_until;
use tests::{drain, models, once};
use tokio::process::Command;

const MODEL: &str = "gemini-nano-banana-2.1";
/// The number of workers after scaling up.
const MAX_WORKERS: usize = 8;
/// Jobs that are submitted each second.
const RATE: u32 = 6;
const DRAIN_TIMEOUT: Duration = Duration::from_mins(2);
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// A process must be ready in this time.
const START_TARGET: Duration = Duration::from_secs(1);
/// Every service that keeps running. Each is killed once.
const SERVICES: [&str; 7] = [
    "postgres",
    "redis",
    "api",
    "worker",
    "prometheus",
    "alertmanager",
    "grafana",
];

#[derive(Parser)]
struct Arguments {
    /// Build the container image with the whole Dockerfile, instead of with the program that is built already.
    #[arg(long)]
    build: bool,
    /// If Docker cannot start, say so and do nothing.
    #[arg(long)]
    where_possible: bool,
    /// The folder in which Docker keeps its container images for the next run.
    #[arg(long)]
    folder: std::path::PathBuf,
    /// Seconds of load with each number of workers.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let engine = match Engine::start(&arguments.folder).await {
        Ok(engine) => engine,
        Err(error) if arguments.where_possible => {
            println!("NOT RUN, nothing is proven: {error:#}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut proof = Proof::default();
    let ended = run(&mut proof, &engine, &arguments).await;
    engine.stop().await.unwrap();
    proof.add(ended.err().map(|error| format!("{error:#}")));
    proof.verdict()
}

async fn run(proof: &mut Proof, engine: &Engine, arguments: &Arguments) -> anyhow::Result<()> {
    images(engine, arguments.build).await?;
    let fake = Fake::start(fakes::Options {
        host: engine.host().await?,
        ..fakes::Options::default()
    })
    .await?;
    fake.faults().set(Switches {
        latency_ms: Latency {
            min: 300,
            max: 1_500,
        },
        plain: true,
        ..Switches::default()
    });
    let (catalogue, folder) = (models::shipped(), tempfile::tempdir()?);
    // The user of the container reads it.
    make_readable(catalogue.path())?;
    let vendor = fake.address().port();
    models::played_by(&catalogue, &format!("http://vendor:{vendor}"));
    let project = Project::new(engine, folder.path(), catalogue.path(), vendor)?;
    project.compose(&["down", "--volumes"]).await?;
    let ended = operate(proof, &project, &fake, arguments).await;
    if ended.is_err() {
        let logs = project
            .compose(&["logs", "--tail", "15", "--no-color"])
            .await?;
        println!("{logs}");
    }
    project.compose(&["down", "--volumes"]).await?;
    ended
}

/// Everything that is done to the running services.
async fn operate(
    proof: &mut Proof,
    project: &Project<'_>,
    fake: &Fake,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let took = project.up(1).await?;
    println!(
        "docker compose up --wait: every service is healthy after {:.1} s",
        took.as_secs_f64()
    );
    sizes(proof, project, arguments.build).await?;

    let tenant = project.platen(&["tenant", "add", "proof"]).await?;
    let key = project
        .platen(&["key", "add", &tenant, "the proof's"])
        .await?;
    project
        .platen(&["grant", &tenant, "100000000", "--source", "proof"])
        .await?;
    let by_curl = job_by_curl(project.port, &key).await?;

    println!("1 -> {MAX_WORKERS} -> 1 workers under load");
    let api = SocketAddr::from(([127, 0, 0, 1], project.port));
    let mut offered = under_load(&key, "scale", api, async {
        let seconds = Duration::from_secs(arguments.seconds);
        tokio::time::sleep(seconds).await;
        for workers in [MAX_WORKERS, 1] {
            let took = project.up(workers).await?;
            let running = project.containers("worker").await?.len();
            ensure!(
                running == workers,
                "{running} workers run instead of {workers}"
            );
            println!("  {workers} workers after {:.1} s", took.as_secs_f64());
            tokio::time::sleep(seconds).await;
        }
        for service in ["worker", "api"] {
            let container = project.only(service).await?;
            let (code, took) = project.engine.stop_container(&container).await?;
            println!(
                "  docker stop {service}: ended with {code} after {:.1} s",
                took.as_secs_f64()
            );
            ensure!(code == 0, "{service} ended with {code}");
            project.engine.docker(&["start", &container]).await?;
        }
        Ok(())
    })
    .await?;
    offered.push(Ok(by_curl));
    let rows = drained(project).await?;
    proof.add(once::judge(&rows, &fake.journal(), &offered).await);

    println!("kill -9 of each service's main process, under load");
    let offered = under_load(&key, "kill", api, async {
        for service in SERVICES {
            let container = project.only(service).await?;
            let took = project.engine.kill(&container).await?;
            println!(
                "  {service:12} restarted and healthy after {:.1} s",
                took.as_secs_f64()
            );
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    })
    .await?;
    let rows = drained(project).await?;
    proof.add(survived(&rows, &offered).await?);
    println!(
        "  platen verify: {}",
        project.platen(&["verify", "--deep"]).await?
    );
    Ok(())
}

/// Submits jobs until `work` is done.
async fn under_load(
    key: &str,
    name: &'static str,
    api: SocketAddr,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Offered> {
    let clients = Arc::new(Clients::named(name, key, vec![api]));
    let load = Load::start(clients, RATE, MODEL);
    let done = work.await;
    let offered = load.end().await?;
    done?;
    Ok(offered)
}

/// Submits a job with curl, waits for it and fetches its image, as a person would.
async fn job_by_curl(port: u16, key: &str) -> anyhow::Result<Accepted> {
    let began = Instant::now();
    let api = format!("http://127.0.0.1:{port}");
    let bearer = format!("Authorization: Bearer {key}");
    let body = format!(r#"{{"model": "{MODEL}", "prompt": "a bottle of rain", "size": "1K"}}"#);
    let job = curl(&[
        "--header",
        &bearer,
        "--header",
        "Content-Type: application/json",
        "--header",
        "Idempotency-Key: by-curl",
        "--header",
        "Prefer: wait=30",
        "--data",
        &body,
        &format!("{api}/v1/jobs"),
    ])
    .await?;
    let job: Value = serde_json::from_slice(&job)?;
    ensure!(job["state"] == "succeeded", "curl's job is {job}");
    let url = job["artifacts"][0]["url"].as_str().context("no link")?;
    let url = if url.starts_with('/') {
        format!("{api}{url}")
    } else {
        url.to_owned()
    };
    let image = curl(&[&url]).await?;
    let kind = if image.starts_with(b"\x89PNG") {
        "a PNG"
    } else if image.starts_with(&[0xff, 0xd8]) {
        "a JPEG"
    } else {
        anyhow::bail!("curl fetched no image: {job}")
    };
    println!(
        "curl: {kind} of {} KB after {:.1} s",
        image.len() / 1000,
        began.elapsed().as_secs_f64()
    );
    Ok(Accepted {
        job: job["id"].as_str().unwrap_or_default().parse()?,
        tries: 1,
        took: began.elapsed(),
    })
}

async fn curl(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let always = [
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--max-time",
        "40",
    ];
    let ended = Command::new("curl")
        .args(always)
        .args(arguments)
        .output()
        .await?;
    ensure!(
        ended.status.success(),
        "curl: {} {}",
        String::from_utf8_lossy(&ended.stderr),
        String::from_utf8_lossy(&ended.stdout)
    );
    Ok(ended.stdout)
}

/// The memory that api and worker together may use when idle, in KiB: as a release, and as a development build.
const IDLE_MEMORY_KIB: [u64; 2] = [60 * 1024, 80 * 1024];

/// Checks the memory of idle processes and how fast they start. Prints the size of the container image.
async fn sizes(proof: &mut Proof, project: &Project<'_>, release: bool) -> anyhow::Result<()> {
    let engine = project.engine;
    let bytes = async |image: &str| {
        let size = engine
            .docker(&["image", "inspect", image, "--format", "{{.Size}}"])
            .await?;
        anyhow::Ok(size.trim().parse::<u64>()?)
    };
    let profile = if release { "release" } else { "dev" };
    println!(
        "image ({profile} profile): {} MB on top of its base",
        (bytes("platen").await? - bytes("gcr.io/distroless/cc-debian12:nonroot").await?)
            / 1_000_000
    );
    // Until the work of the start is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut total = 0;
    for service in ["api", "worker"] {
        let container = project.only(service).await?;
        let pid = engine
            .main_process(&container)
            .await?
            .context("no process")?;
        let resident = memory_kib(pid.try_into()?, "VmRSS")?;
        total += resident;
        let start = start_time(engine, &container).await?;
        proof.check(
            start <= START_TARGET,
            format!(
                "{service}: {} MiB resident when idle, ready {} ms after its start (at most {START_TARGET:?})",
                resident / 1024,
                start.as_millis()
            ),
        );
    }
    let most = IDLE_MEMORY_KIB[usize::from(!release)];
    proof.check(
        total <= most,
        format!(
            "api and worker use {} MiB when idle (at most {})",
            total / 1024,
            most / 1024
        ),
    );
    Ok(())
}

/// Restarts a container, and returns the time from the start of its process until it says that it is ready.
async fn start_time(engine: &Engine, container: &str) -> anyhow::Result<Duration> {
    engine.stop_container(container).await?;
    engine.docker(&["start", container]).await?;
    let address = engine.address(container).await?;
    let started = engine.inspect(container).await?["State"]["StartedAt"]
        .as_str()
        .context("it has not started")?
        .to_owned();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(1))
        .build()?;
    let what = format!("{container} is ready");
    try_until(&what, START_TIMEOUT, async || {
        let answer = client.get(format!("http://{address}:9464/readyz")).send();
        Ok(answer.await?.status().is_success().then_some(()))
    })
    .await?;
    let started =
        time::OffsetDateTime::parse(&started, &time::format_description::well_known::Rfc3339)?;
    Ok((domain::clock::now() - started).try_into()?)
}

/// Waits until every job has ended. Returns connections to the database with the owner's login.
async fn drained(project: &Project<'_>) -> anyhow::Result<PgPool> {
    let postgres = project.only("postgres").await?;
    let address = project.engine.address(&postgres).await?;
    let password = &project.owner_password;
    let url = format!("postgres://platen_admin:{password}@{address}/platen");
    let rows = PgPool::connect(&url).await?;
    let took = drain::drained(&rows, DRAIN_TIMEOUT).await?;
    println!(
        "  no job is open {:.1} s after the last submit",
        took.as_secs_f64()
    );
    Ok(rows)
}

/// After kills, every submit must be a job and every job must be delivered. Calls of a killed worker may have been made
/// again.
async fn survived(rows: &PgPool, offered: &Offered) -> anyhow::Result<Vec<String>> {
    let mut violations = once::lost(offered);
    let (mut again, mut whole) = (0, 0);
    for accepted in offered.iter().flatten() {
        let job: Option<(String, i32, i32)> =
            sqlx::query_as("SELECT state, n_delivered, n_requested FROM jobs WHERE id = $1")
                .bind(accepted.job.0)
                .fetch_optional(rows)
                .await?;
        match job {
            Some((state, delivered, requested))
                if state == "succeeded" && delivered == requested =>
            {
                whole += 1;
            }
            other => violations.push(format!("{} is {other:?}", accepted.job)),
        }
        again += usize::from(accepted.tries > 1);
    }
    println!(
        "  {} submits were accepted, {again} of them not at once, and {whole} delivered",
        offered.iter().flatten().count()
    );
    Ok(violations)
}

fn make_readable(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(
        folder,
        std::fs::Permissions::from_mode(0o755),
    )?)
}
