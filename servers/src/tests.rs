//! The real servers, started, crashed and left behind.

use std::{
    env, fs,
    path::Path,
    process,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::*;

#[tokio::test]
async fn a_second_start_finds_the_data_of_the_first() {
    let data = tempfile::tempdir().unwrap();

    let servers = start(data.path()).await;
    run(servers.owner_url(), "CREATE TABLE kept (id int)")
        .await
        .unwrap();
    servers.stop().await;
    assert_eq!(processes_in(data.path()), Vec::<i32>::new());

    let servers = start(data.path()).await;
    run(servers.owner_url(), "INSERT INTO kept (id) VALUES (1)")
        .await
        .unwrap();
    servers.stop().await;
}

#[tokio::test]
async fn the_runtime_login_has_no_rights_of_its_own() {
    let data = tempfile::tempdir().unwrap();
    let postgres = Postgres::start_with(data.path(), Durability::Reduced)
        .await
        .unwrap();

    run(&postgres.database_url(), "SELECT 1").await.unwrap();
    let refused = run(&postgres.database_url(), "CREATE TABLE mine (id int)").await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("permission denied")
    );
    let stranger = postgres.database_url().replace("platen:", "platen:x");
    assert!(run(&stranger, "SELECT 1").await.is_err());
    postgres.stop().await;
}

#[tokio::test]
async fn a_second_platen_on_the_same_folder_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let servers = start(data.path()).await;

    let refusal = Servers::start(data.path()).await.err().unwrap().to_string();
    assert!(refusal.contains("in use by another Platen"), "{refusal}");
    assert!(refusal.contains(data.path().to_str().unwrap()), "{refusal}");

    servers.stop().await;
}

#[tokio::test]
async fn the_database_opens_with_and_without_a_running_platen() {
    let data = tempfile::tempdir().unwrap();
    assert!(Database::open(data.path()).await.is_err());

    let servers = start(data.path()).await;
    let database = Database::open(data.path()).await.unwrap();
    assert_eq!(database.owner_url(), servers.owner_url());
    database.close().await;
    run(servers.database_url(), "SELECT 1").await.unwrap();
    servers.stop().await;

    assert!(running_urls(data.path()).unwrap().is_none());
    let database = Database::open(data.path()).await.unwrap();
    run(database.database_url(), "SELECT 1").await.unwrap();
    database.close().await;
    assert_eq!(processes_in(data.path()), Vec::<i32>::new());
}

#[tokio::test]
async fn crashed_servers_restart_at_the_same_address() {
    let data = tempfile::tempdir().unwrap();
    let mut servers = start(data.path()).await;
    let (database, redis) = (
        servers.owner_url().to_owned(),
        servers.redis_url().to_owned(),
    );
    run(&database, "CREATE TABLE kept (id int)").await.unwrap();
    for _ in 0..2 {
        servers.postgres().crash().await;
        servers.redis().crash().await;
        assert!(run(&database, "SELECT 1").await.is_err());
        servers.postgres().start_again().await.unwrap();
        servers.redis().start_again().await.unwrap();
        run(&database, "INSERT INTO kept (id) VALUES (1)")
            .await
            .unwrap();
        assert_eq!(servers.redis().url(), redis);
    }
    servers.stop().await;
}

/// Starts this test program again as the parent of servers, kills it with SIGKILL, and looks which processes are left.
#[tokio::test]
async fn a_killed_parent_leaves_no_process_and_loses_no_data() {
    let data = tempfile::tempdir().unwrap();
    let mut parent = process::Command::new(env::current_exe().unwrap())
        .args(["--exact", "--include-ignored", "tests::parent_to_be_killed"])
        .env(PARENT, data.path())
        .spawn()
        .unwrap();
    until("the parent runs its servers", || {
        running_urls(data.path()).is_ok_and(|urls| urls.is_some())
    })
    .await;
    let urls = running_urls(data.path()).unwrap().unwrap();
    run(&urls.owner_url, "CREATE TABLE kept (id int)")
        .await
        .unwrap();
    assert!(processes_in(data.path()).len() > 2);

    kill(
        Pid::from_raw(parent.id().try_into().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    parent.wait().unwrap();
    let killed = Instant::now();
    until("no server is left", || processes_in(data.path()).is_empty()).await;
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );

    let servers = start(data.path()).await;
    run(servers.owner_url(), "INSERT INTO kept (id) VALUES (1)")
        .await
        .unwrap();
    servers.stop().await;
}

const PARENT: &str = "PLATEN_TEST_PARENT_OF";

#[tokio::test]
#[ignore = "started by the test above as the parent"]
async fn parent_to_be_killed() {
    let Some(data) = env::var_os(PARENT) else {
        return;
    };
    let _servers = start(data.as_ref()).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
}

async fn start(data: &Path) -> Servers {
    Servers::start_with(data, Durability::Reduced)
        .await
        .unwrap()
}

async fn run(url: &str, sql: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await?;
    connection.close().await
}

/// Waits up to a minute until `holds` is true.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "after a minute not yet: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The processes whose working directory is in a folder. Both servers stay in theirs, so this finds all of them.
fn processes_in(folder: &Path) -> Vec<i32> {
    let folder = folder.canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
        })
        .collect()
}
