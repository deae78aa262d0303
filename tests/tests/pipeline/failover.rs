//! An asynchronous replica is promoted, and lacks the last commits of the primary.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;
use servers::{Durability, Postgres};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use storage::database::{self, DatabaseRole};
use storage::verify::Finding;
use tests::pipeline::{small_job, verify_deep};
use tests::servers::TestServers;
use tests::{Options, Pipeline};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A streaming replica, made from a base backup of the primary.
async fn replica(primary: &TestServers, data: &Path, folder: &Path) -> Postgres {
    let mut connection = PgConnection::connect(&primary.owner_url).await.unwrap();
    let (cluster, version): (String, String) = sqlx::query_as(
        "SELECT current_setting('data_directory'), (current_setting('server_version_num')::int / 10000)::text",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let home = folder.join("postgres");
    std::fs::create_dir(&home).unwrap();
    // A replica has the same logins as its primary.
    for file in ["platen_admin.password", "platen.password"] {
        std::fs::copy(data.join("postgres").join(file), home.join(file)).unwrap();
    }
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/pg_basebackup"));
    let program = if debian.is_file() {
        debian
    } else {
        PathBuf::from("pg_basebackup")
    };
    let copied = Command::new(program)
        .args([
            "--write-recovery-conf",
            "--wal-method=stream",
            "--checkpoint=fast",
        ])
        .arg(format!("--dbname={}", primary.owner_url))
        .arg("--pgdata")
        .arg(home.join("cluster"))
        .status()
        .unwrap();
    assert!(copied.success());
    let owner = std::fs::metadata(cluster).unwrap();
    change_owner(&home, owner.uid(), owner.gid());
    Postgres::start_with(&home, Durability::Reduced)
        .await
        .unwrap()
}

fn change_owner(path: &Path, user: u32, group: u32) {
    chown(path, Some(user), Some(group)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            change_owner(&entry.unwrap().path(), user, group);
        }
    }
}

async fn holds(pool: &PgPool, sql: &'static str) -> Option<()> {
    let holds: bool = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
    holds.then_some(())
}

#[tokio::test]
async fn commits_lost_in_a_failover_are_reported_and_charge_nobody() {
    let (data, servers, primary) = TestServers::own(Durability::Reduced).await;
    let mut pipeline = Pipeline::start_on(primary.clone(), Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(&primary, data.path(), folder.path()).await;
    let promoted = TestServers {
        owner_url: replica.owner_url(),
        database_url: replica.database_url(),
        redis_url: TestServers::get().await.redis_url,
    };
    let url = promoted.runtime_url(&pipeline.database);
    let reader = database::connect(&url, DatabaseRole::Reader, 2)
        .await
        .unwrap();
    let mut owner = PgConnection::connect(&promoted.owner_url).await.unwrap();

    // The replica sees one job end. Of the second it sees the call, but not the end.
    let seen = pipeline.submit(&small_job()).await;
    pipeline.ended(&seen).await;
    let mut body = small_job();
    body["prompt"] = json!("a bottle [[fault:late:3000]]");
    let cut_off = pipeline.submit(&body).await;
    let called = "SELECT (SELECT count(*) FROM jobs WHERE state = 'succeeded') = 1 AND (SELECT count(*) FROM calls) = 2";
    pipeline
        .until("the call is journaled", TIMEOUT, async || {
            holds(&reader, called).await
        })
        .await;
    owner
        .execute("ALTER SYSTEM SET primary_conninfo = ''")
        .await
        .unwrap();
    owner.execute("SELECT pg_reload_conf()").await.unwrap();
    let alone = "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)";
    pipeline
        .until("the replica receives nothing more", TIMEOUT, async || {
            holds(&reader, alone).await
        })
        .await;
    assert_eq!(pipeline.ended(&cut_off).await["state"], "succeeded");
    let lost = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&lost).await["state"], "succeeded");
    let price = 1_000 - pipeline.balance().await.0;
    let lost_keys: Vec<String> =
        sqlx::query_scalar("SELECT object_key FROM artifacts WHERE job_id = $1 ORDER BY 1")
            .bind(lost.parse::<domain::id::JobId>().unwrap().0)
            .fetch_all(&pipeline.reader)
            .await
            .unwrap();
    assert_eq!((lost_keys.len(), price % 3), (3, 0));

    pipeline.stop_workers().await;
    pipeline.reader.close().await;
    servers.stop().await;
    owner.execute("SELECT pg_promote()").await.unwrap();
    pipeline
        .until("the replica is promoted", TIMEOUT, async || {
            holds(&reader, "SELECT NOT pg_is_in_recovery()").await
        })
        .await;
    owner.close().await.unwrap();

    // Every invariant holds for what is left. The files whose rows are lost are reported, and no
    // others.
    assert_eq!(common::verify::verify(&reader).await.unwrap(), []);
    let (findings, _) =
        verify_deep(&reader, &pipeline.config.bucket().unwrap(), Duration::ZERO).await;
    assert_eq!(findings.len(), 3, "{findings:#?}");
    for key in &lost_keys {
        let names_it =
            |finding: &Finding| finding.invariant == "I19" && finding.text.contains(key.as_str());
        assert!(findings.iter().any(names_it), "{key}: {findings:#?}");
    }

    // In the new primary the second job has an open call. Its original is adopted and not bought
    // again.
    pipeline.config.database_url = Some(SecretString::from(url));
    pipeline.config.redis_url = Some(SecretString::from(promoted.redis_url.clone()));
    pipeline.reader = reader;
    pipeline.servers = promoted;
    pipeline.start_worker().await;
    let delivered = "SELECT count(*) = 2 FROM jobs WHERE state = 'succeeded'";
    let reader = pipeline.reader.clone();
    pipeline
        .until("the job is delivered", TIMEOUT, async || {
            holds(&reader, delivered).await
        })
        .await;
    assert_eq!(pipeline.fake.journal().count(), 3, "calls");
    let left: i64 = sqlx::query_scalar("SELECT available FROM wallets")
        .fetch_one(&reader)
        .await
        .unwrap();
    assert_eq!(
        left,
        1_000 - price / 3 * 2,
        "the job that was lost charges nobody"
    );
    pipeline.close().await;
    replica.stop().await;
}
