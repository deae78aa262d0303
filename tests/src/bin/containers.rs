//! `make containers`: the shipped `docker-compose.yml`, unchanged, from nothing to a picture and through an operator's day.
//!
//! A Docker of our own comes up with stand-ins for the images that cannot be pulled here; the vendor is a fake in this process. A job
//! goes from curl to picture; workers are scaled 1 → 8 → 1 under load; an api and a worker are stopped by `docker stop`; the
//! main process of each service is killed from outside. Prints what an image and its processes take, what was counted,
//! and exits with 1 when anything was lost or bought twice.
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
use tests::clients::{Accepted, Clients, Offered};
use tests::compose::{Engine, Project, images};
use tests::pipeline::open_jobs;
use tests::{models, once, verdict};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const MODEL: &str = "gemini-nano-banana-2.1";
/// How many workers there are at most.
const MANY: usize = 8;
const RATE: u32 = 6;
const DRAIN: Duration = Duration::from_mins(2);
/// Every service that runs on. What each of them takes with it is found out by killing it.
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
struct Words {
    /// Build the image out of the whole Dockerfile, compiler and all, instead of the program that lies here.
    #[arg(long)]
    build: bool,
    /// Where Docker cannot start, say so and do nothing.
    #[arg(long)]
    where_possible: bool,
    /// Where Docker keeps its images for the next time.
    #[arg(long)]
    folder: std::path::PathBuf,
    /// Seconds of load at each number of workers.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let words = Words::parse();
    let engine = match Engine::start(&words.folder).await {
        Ok(engine) => engine,
        Err(error) if words.where_possible => {
            println!("NOT RUN, nothing is proven: {error:#}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let violations = proof(&engine, &words).await;
    engine.stop().await.unwrap();
    let violations = violations.unwrap_or_else(|error| vec![format!("{error:#}")]);
    verdict(&violations)
}

async fn proof(engine: &Engine, words: &Words) -> anyhow::Result<Vec<String>> {
    images(engine, words.build).await?;
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
    // The container's user reads it.
    readable(catalogue.path())?;
    let vendor = fake.address().port();
    models::played_by(&catalogue, &format!("http://vendor:{vendor}"));
    let project = Project::new(engine, folder.path(), catalogue.path(), vendor)?;
    project.compose(&["down", "--volumes"]).await?;
    let tried = day(&project, &fake, words).await;
    if tried.is_err() {
        let logs = project
            .compose(&["logs", "--tail", "15", "--no-color"])
            .await?;
        println!("{logs}");
    }
    project.compose(&["down", "--volumes"]).await?;
    tried
}

async fn day(project: &Project<'_>, fake: &Fake, words: &Words) -> anyhow::Result<Vec<String>> {
    let took = project.up(1).await?;
    println!(
        "docker compose up --wait: every service is well after {:.1} s",
        took.as_secs_f64()
    );
    let mut violations = sizes(project, words.build).await?;

    let tenant = project.platen(&["tenant", "add", "proof"]).await?;
    let key = project
        .platen(&["key", "add", &tenant, "the proof's"])
        .await?;
    project
        .platen(&["grant", &tenant, "100000000", "--source", "proof"])
        .await?;
    let by_curl = curl_to_picture(project.port, &key).await?;

    println!("1 -> {MANY} -> 1 workers under load");
    let api = SocketAddr::from(([127, 0, 0, 1], project.port));
    let mut offered = under_load(&key, "scale", api, async {
        let seconds = Duration::from_secs(words.seconds);
        tokio::time::sleep(seconds).await;
        for workers in [MANY, 1] {
            let took = project.up(workers).await?;
            let there = project.containers("worker").await?.len();
            ensure!(there == workers, "{there} workers run instead of {workers}");
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
    let books = drained(project).await?;
    let judged = once::judge(&books, &fake.journal(), &offered).await;
    violations.extend(judged);

    println!("kill -9 of each service's main process, under load");
    let offered = under_load(&key, "kill", api, async {
        for service in SERVICES {
            let container = project.only(service).await?;
            let took = project.engine.kill(&container).await?;
            println!(
                "  {service:12} there again and well after {:.1} s",
                took.as_secs_f64()
            );
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    })
    .await?;
    let books = drained(project).await?;
    violations.extend(survived(&books, &offered).await?);
    println!(
        "  platen verify: {}",
        project.platen(&["verify", "--deep"]).await?
    );
    Ok(violations)
}

/// Submits while something is done, until it is done.
async fn under_load(
    key: &str,
    name: &'static str,
    api: SocketAddr,
    done: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Offered> {
    let clients = Arc::new(Clients::named(name, key, vec![api]));
    let enough = CancellationToken::new();
    let mut offering = JoinSet::new();
    offering.spawn(clients.offer(RATE, MODEL, enough.clone()));
    let done = done.await;
    enough.cancel();
    let offered = offering.join_next().await.context("nobody submits")??;
    done?;
    Ok(offered)
}

/// As a person would: with curl, who waits for the job and fetches its picture.
async fn curl_to_picture(port: u16, key: &str) -> anyhow::Result<Accepted> {
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
    let picture = curl(&[&url]).await?;
    let kind = if picture.starts_with(b"\x89PNG") {
        "a PNG"
    } else if picture.starts_with(&[0xff, 0xd8]) {
        "a JPEG"
    } else {
        anyhow::bail!("curl fetched no picture: {job}")
    };
    println!(
        "curl: {kind} of {} KB after {:.1} s",
        picture.len() / 1000,
        began.elapsed().as_secs_f64()
    );
    Ok(Accepted {
        job: job["id"].as_str().unwrap_or_default().parse()?,
        tries: 1,
        took: began.elapsed(),
    })
}

async fn curl(words: &[&str]) -> anyhow::Result<Vec<u8>> {
    let always = [
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--max-time",
        "40",
    ];
    let ended = Command::new("curl")
        .args(always)
        .args(words)
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

/// What both processes may take when idle, in KiB: a release, and the larger program that lies here.
const RESIDENT: [u32; 2] = [60 * 1024, 80 * 1024];

/// What the image and its processes take.
async fn sizes(project: &Project<'_>, release: bool) -> anyhow::Result<Vec<String>> {
    let engine = project.engine;
    let mut violations = Vec::new();
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
    // Until what is done at the start only is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut resident = 0;
    for service in ["api", "worker"] {
        let container = project.only(service).await?;
        let pid = engine
            .main_process(&container)
            .await?
            .context("no process")?;
        let rss = resident_kib(pid)?;
        resident += rss;
        let start = start_up(engine, &container).await?;
        println!(
            "{service}: {:.1} MiB resident when idle, ready {} ms after its start",
            f64::from(rss) / 1024.0,
            start.as_millis()
        );
        if start > Duration::from_secs(1) {
            violations.push(format!("{service} starts in {start:?}"));
        }
    }
    println!("both together: {:.1} MiB", f64::from(resident) / 1024.0);
    if resident > RESIDENT[usize::from(!release)] {
        violations.push(format!("both together take {resident} KiB"));
    }
    Ok(violations)
}

fn resident_kib(pid: i32) -> anyhow::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// From the moment the process was there to the first answer that it is ready.
async fn start_up(engine: &Engine, container: &str) -> anyhow::Result<Duration> {
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
    let asked = Instant::now();
    loop {
        let answer = client.get(format!("http://{address}:9464/readyz")).send();
        if answer
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            let started = time::OffsetDateTime::parse(
                &started,
                &time::format_description::well_known::Rfc3339,
            )?;
            return Ok((common::clock::now() - started).try_into()?);
        }
        ensure!(
            asked.elapsed() < Duration::from_secs(20),
            "{container} is not ready"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The database, from outside, with the owner's eyes, once no job is open.
async fn drained(project: &Project<'_>) -> anyhow::Result<PgPool> {
    let postgres = project.only("postgres").await?;
    let address = project.engine.address(&postgres).await?;
    let password = &project.owner_password;
    let url = format!("postgres://platen_admin:{password}@{address}/platen");
    let books = PgPool::connect(&url).await?;
    let began = Instant::now();
    loop {
        let open = open_jobs(&books).await?;
        if open == 0 {
            println!(
                "  no job is open {:.1} s after the last submit",
                began.elapsed().as_secs_f64()
            );
            return Ok(books);
        }
        ensure!(
            began.elapsed() < DRAIN,
            "{open} jobs are open after {DRAIN:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// After kills: every submit is a job, and every job was delivered. Calls of a killed worker may have been made again.
async fn survived(books: &PgPool, offered: &Offered) -> anyhow::Result<Vec<String>> {
    let mut violations = once::lost(offered);
    let (mut again, mut whole) = (0, 0);
    for accepted in offered.iter().flatten() {
        let job: Option<(String, i32, i32)> =
            sqlx::query_as("SELECT state, n_delivered, n_requested FROM jobs WHERE id = $1")
                .bind(accepted.job.0)
                .fetch_optional(books)
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

fn readable(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(
        folder,
        std::fs::Permissions::from_mode(0o755),
    )?)
}
