//! Clocks that are wrong by ten minutes, on both sides: leases, deadlines and the order of calls are the database's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::clock;
use domain::id::JobId;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tests::clients::Clients;
use tests::fleet::{Orders, Process, Role};
use tests::pipeline::small_job;
use tests::real::Real;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;

/// Builds the library that makes the clock of a program wrong, in `folder`.
async fn wrong_clock(folder: &Path) -> PathBuf {
    let library = folder.join("wrong_clock.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
    compiler.arg(tests::root("tests/tests/pipeline/wrong_clock.c"));
    assert!(compiler.status().await.unwrap().success());
    library
}

/// Starts one process whose clock is wrong by so many seconds; its monotonic clock is as good as any.
async fn wrong_by(
    seconds: i64,
    library: &Path,
    role: Role,
    number: usize,
    orders: &Orders,
) -> Process {
    let mut orders = orders.clone();
    orders.environment.extend([
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("WRONG_CLOCK_SECONDS".to_owned(), seconds.to_string()),
    ]);
    let mut process = Process::new(role, number, &orders).unwrap();
    process.start().unwrap();
    process.ready().await.unwrap();
    process
}

#[tokio::test]
async fn clocks_that_are_ten_minutes_wrong_cost_nothing() {
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start(1_000..=4_000).await;
    let mut processes = Vec::new();
    let library = wrong_clock(&orders.folder).await;
    for (number, seconds) in (1..).zip([600, -600]) {
        for role in [Role::Api, Role::Worker] {
            processes.push(wrong_by(seconds, &library, role, number, &orders).await);
        }
    }
    processes.extend(orders.start(Role::Worker, 1).await.unwrap());
    let apis = || processes.iter().filter(|process| process.role == Role::Api);

    let clients = Arc::new(Clients::new(
        &pipeline.key,
        apis().map(Process::address).collect(),
    ));
    let submits = (0..24).map(|number| {
        let clients = Arc::clone(&clients);
        async move {
            clients
                .submit(number, &small_job())
                .await
                .unwrap()
                .job
                .to_string()
        }
    });
    // A time that is asked for is a time of the database.
    let run_at = clock::now() + Duration::from_secs(4);
    let planned = apis().map(|api| {
        let mut job = small_job();
        job["run_at"] = json!(run_at.format(&Rfc3339).unwrap());
        let request =
            pipeline.anonymous(Method::POST, &format!("http://{}/v1/jobs", api.address()));
        let request = request
            .bearer_auth(&pipeline.key)
            .header("Cancel-After", "30s");
        async move {
            request
                .json(&job)
                .send()
                .await
                .unwrap()
                .json::<Value>()
                .await
                .unwrap()
        }
    });
    let (mut jobs, planned): (Vec<String>, Vec<Value>) =
        tokio::join!(join_all(submits), join_all(planned));
    // An id carries the clock of the api that made it: they were wrong indeed.
    let now = clock::now().unix_timestamp();
    let wrong = jobs.iter().filter(|job| {
        let id: JobId = job.parse().unwrap();
        let (made, _) = id.0.get_timestamp().unwrap().to_unix();
        (i64::try_from(made).unwrap() - now).abs() > 500
    });
    assert_eq!(wrong.count(), jobs.len());
    jobs.extend(
        planned
            .iter()
            .map(|job| job["id"].as_str().unwrap().to_owned()),
    );
    for job in &jobs {
        let ended = pipeline.ended(job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
    assert_eq!(fake.journal().count(), jobs.len(), "calls");
    let crashes: i64 = sqlx::query_scalar("SELECT sum(crash_count) FROM jobs")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap();
    assert_eq!(crashes, 0, "leases that ran out");
    let early = "SELECT count(*) FROM jobs WHERE deadline < created_at + interval '1 hour'
        AND (started_at < $1 OR abs(extract(epoch FROM deadline - $1) - 30) > 0.1)";
    let early = sqlx::query_scalar(early).bind(run_at);
    let early: i64 = early.fetch_one(&pipeline.reader).await.unwrap();
    assert_eq!(
        early, 0,
        "planned jobs that began or would have expired at another time"
    );

    for process in &mut processes {
        let ended = process.stop().await.unwrap();
        assert!(
            ended.success(),
            "{}: {ended}; {}",
            process.name,
            process.last_words()
        );
    }
    pipeline.close().await;
}
