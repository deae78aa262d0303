//! How many commands Redis runs for a job, and how many while there is none.
//!
//! Redis counts each command, whether a client sent it or a script ran it. Both cost its one thread
//! time.

#![expect(clippy::print_stdout, reason = "prints what it counted")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use tests::pipeline::small_job;
use tests::servers::{TestServers, connect_to_redis};
use tests::{Options, Pipeline};

const JOBS: u32 = 60;
const SUBMITS_AT_ONCE: usize = 8;
/// Commands that one job may cause.
const MAX_PER_JOB: f64 = 22.0;
/// Commands that an api and a worker may send in a second, with or without jobs. With
/// [`MAX_PER_JOB`] this is 25 for each job from ten jobs a second on.
const MAX_PER_SECOND: f64 = 30.0;
/// How long commands are counted while there is no job.
const IDLE_TIME: Duration = Duration::from_secs(4);

/// How often Redis has run each command.
async fn commands(redis_url: &str) -> BTreeMap<String, f64> {
    let mut redis = connect_to_redis(redis_url).await;
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut redis)
        .await
        .unwrap();
    let lines = info.lines().filter_map(|line| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let (calls, _) = figures.split_once(',')?;
        Some((name.to_owned(), calls.parse().ok()?))
    });
    // What this test sends itself is not counted.
    lines
        .filter(|(name, _)| name != "info" && !name.starts_with("client"))
        .collect()
}

/// The commands between two counts, and their sum.
fn difference(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
) -> (f64, BTreeMap<String, f64>) {
    let rest = after.iter().filter_map(|(name, calls)| {
        let more = calls - before.get(name).unwrap_or(&0.0);
        (more > 0.0).then(|| (name.clone(), more))
    });
    let rest: BTreeMap<String, f64> = rest.collect();
    (rest.values().sum(), rest)
}

#[tokio::test]
async fn a_job_costs_redis_few_commands() {
    let folder = tempfile::tempdir().unwrap();
    let redis = servers::Redis::start(folder.path()).await.unwrap();
    let mut servers = TestServers::get().await;
    servers.redis_url = redis.url();
    let pipeline = Pipeline::start_on(servers, Options::default()).await;
    // The first job loads the scripts.
    pipeline.ended(&pipeline.submit(&small_job()).await).await;

    let (before, began) = (commands(&redis.url()).await, Instant::now());
    tokio::time::sleep(IDLE_TIME).await;
    let (idle, idle_by_name) = difference(&before, &commands(&redis.url()).await);
    let idle = idle / began.elapsed().as_secs_f64();

    let (before, began) = (commands(&redis.url()).await, Instant::now());
    // The api refuses more at once than it can admit in time on a busy machine.
    let submits = (0..JOBS).map(|_| async { pipeline.submit(&small_job()).await });
    let submitted = stream::iter(submits).buffer_unordered(SUBMITS_AT_ONCE);
    assert_eq!(submitted.count().await, JOBS as usize);
    assert!(pipeline.drained(Duration::from_mins(1)).await);
    let seconds = began.elapsed().as_secs_f64();
    let (sum, by_name) = difference(&before, &commands(&redis.url()).await);
    let all = sum / f64::from(JOBS);
    let per_job = (sum - idle * seconds) / f64::from(JOBS);
    let figures = format!(
        "{all:.1} commands for each of {JOBS} jobs in {seconds:.1} s, {per_job:.1} of them because of the job: {by_name:?}; \
         {idle:.1} in a second without jobs: {idle_by_name:?}"
    );
    println!("{figures}");
    assert!(idle <= MAX_PER_SECOND, "{figures}");
    assert!(per_job <= MAX_PER_JOB, "{figures}");
    pipeline.close().await;
    redis.stop().await;
}
