//! Carries out a plan. Each fault is a task of its own, so that a long one does not delay the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::clock;
use nix::sys::signal::Signal;
use tokio::sync::MutexGuard;
use tokio_util::task::TaskTracker;

use super::diary::Whom;
use super::plan::{Fault, Plan};
use super::recovery::Recovery;
use super::stage::{Link, Stage, worker_name};
use crate::fleet::{Process, Role};
use crate::proxy::Weather;
use crate::servers::connect_to_redis;

/// How long to wait for a reply that is to be lost.
const SWALLOW_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process may take to stop: longer than any call here.
pub const STOP_TIMEOUT: Duration = Duration::from_mins(1);

/// Lets everything fail as planned. Returns when every fault has ended.
pub async fn carry_out(stage: &Arc<Stage>, recovery: &Arc<Recovery>, plan: &Plan) {
    let began = Instant::now();
    let tasks = TaskTracker::new();
    for &(at, fault) in &plan.faults {
        tokio::time::sleep_until((began + at).into()).await;
        let (stage, recovery) = (Arc::clone(stage), Arc::clone(recovery));
        tasks.spawn(async move { strike(&stage, &recovery, fault).await });
    }
    tasks.close();
    tasks.wait().await;
    for proxy in stage.every_proxy() {
        proxy.spare();
        proxy.set(Weather::Fair);
    }
}

async fn strike(stage: &Stage, recovery: &Recovery, fault: Fault) {
    let from = clock::now();
    let result = match fault {
        Fault::Kill(Role::Api, number) => kill_api(stage, number).await,
        Fault::Kill(Role::Worker, number) => kill_worker(stage, recovery, number).await,
        Fault::Freeze(number, time) => freeze(stage, number, time).await,
        Fault::Restart(role, number) => {
            let mut process = claim(stage, role, number).await;
            restart(stage, &mut process).await
        }
        Fault::Roll => roll(stage).await,
        Fault::EmptyRedis => empty_redis(stage).await,
        Fault::KillRedis(down) => kill_redis(stage, down).await,
        Fault::Terminate(count) => terminate(stage, count).await,
        Fault::KillPostgres(down) => kill_postgres(stage, down).await,
        Fault::Swallow(tag, count) => swallow(stage, tag, count).await,
        Fault::Cut(link) => {
            for proxy in stage.proxies(link) {
                proxy.cut();
            }
            Ok(callers_of(link))
        }
        Fault::Forget(link) => {
            stage.forget(link);
            Ok(callers_of(link))
        }
        Fault::Weather(link, weather, time) => {
            for proxy in stage.proxies(link) {
                proxy.set(weather);
            }
            tokio::time::sleep(time).await;
            for proxy in stage.proxies(link) {
                proxy.set(Weather::Fair);
            }
            Ok(callers_of(link))
        }
    };
    match result {
        Ok(whom) => stage
            .diary
            .write(fault.kind(), whom, fault.is_outage(), from),
        Err(error) => stage
            .diary
            .violation(format!("{}: {error:#}", fault.kind())),
    }
}

/// Whose calls use a link.
fn callers_of(link: Link) -> Whom {
    match link {
        Link::Provider => Whom::Callers,
        _ => Whom::Nobody,
    }
}

/// Locks the process. If another fault has it, locks another process of its role, or waits for it.
async fn claim(stage: &Stage, role: Role, number: usize) -> MutexGuard<'_, Process> {
    let all = match role {
        Role::Api => &stage.apis,
        Role::Worker => &stage.workers,
    };
    let order = (0..all.len()).map(|step| &all[(number + step) % all.len()]);
    for process in order {
        if let Ok(process) = process.try_lock() {
            return process;
        }
    }
    all[number].lock().await
}

async fn kill_api(stage: &Stage, number: usize) -> anyhow::Result<Whom> {
    let mut process = claim(stage, Role::Api, number).await;
    process.kill().await?;
    stage.start_again(&mut process).await;
    Ok(Whom::Nobody)
}

async fn kill_worker(stage: &Stage, recovery: &Recovery, number: usize) -> anyhow::Result<Whom> {
    let mut process = claim(stage, Role::Worker, number).await;
    let name = worker_name(&process).unwrap_or_default();
    process.kill().await?;
    recovery.killed(&stage.owner, &name).await;
    stage.start_again(&mut process).await;
    Ok(Whom::Worker(name))
}

async fn freeze(stage: &Stage, number: usize, time: Duration) -> anyhow::Result<Whom> {
    let process = claim(stage, Role::Worker, number).await;
    let name = worker_name(&process).unwrap_or_default();
    process.signal(Signal::SIGSTOP)?;
    tokio::time::sleep(time).await;
    process.signal(Signal::SIGCONT)?;
    Ok(Whom::Worker(name))
}

async fn restart(stage: &Stage, process: &mut Process) -> anyhow::Result<Whom> {
    if let Err(error) = process.stop_cleanly(STOP_TIMEOUT).await {
        stage.diary.violation(format!("{error:#}"));
    }
    stage.start_again(process).await;
    Ok(Whom::Nobody)
}

async fn roll(stage: &Stage) -> anyhow::Result<Whom> {
    for process in stage.processes() {
        restart(stage, &mut *process.lock().await).await?;
    }
    Ok(Whom::Nobody)
}

async fn empty_redis(stage: &Stage) -> anyhow::Result<Whom> {
    // Holding the lock, Redis is not down because of another fault.
    let mut servers = stage.servers.lock().await;
    let mut connection = connect_to_redis(&servers.redis().url()).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await?;
    Ok(Whom::Nobody)
}

async fn kill_redis(stage: &Stage, down: Duration) -> anyhow::Result<Whom> {
    let mut servers = stage.servers.lock().await;
    servers.redis().crash().await;
    tokio::time::sleep(down).await;
    servers.redis().start_again().await?;
    Ok(Whom::Nobody)
}

async fn kill_postgres(stage: &Stage, down: Duration) -> anyhow::Result<Whom> {
    let mut servers = stage.servers.lock().await;
    servers.postgres().crash().await;
    tokio::time::sleep(down).await;
    servers.postgres().start_again().await?;
    Ok(Whom::Nobody)
}

/// Terminates connections of our processes, but not those of this program.
async fn terminate(stage: &Stage, count: u8) -> anyhow::Result<Whom> {
    let statement = "SELECT count(pg_terminate_backend(pid)) FROM (
        SELECT pid FROM pg_stat_activity WHERE usename = 'platen' AND application_name LIKE 'platen platen_%' ORDER BY random() LIMIT $1) some";
    let terminated: Result<i64, sqlx::Error> = sqlx::query_scalar(statement)
        .bind(i64::from(count))
        .fetch_one(&stage.owner)
        .await;
    // If Postgres is down, it has no connections.
    let _none_there = terminated;
    Ok(Whom::Nobody)
}

async fn swallow(stage: &Stage, tag: &'static str, count: u8) -> anyhow::Result<Whom> {
    for _ in 0..count {
        stage.postgres.swallow(tag);
    }
    let asked = Instant::now();
    while stage.postgres.still_to_swallow() > 0 && asked.elapsed() < SWALLOW_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Whom::Nobody)
}
