//! `platen migrate` without the right to create roles, and beside sessions that hold locks.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::{Duration, Instant};

use servers::{Durability, Postgres};
use sqlx::{Connection, Executor, PgConnection};
use storage::database::{self, MigrateError};

#[tokio::test]
async fn a_login_without_createrole_is_given_the_sql_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start_with(folder.path(), Durability::Reduced)
        .await
        .unwrap();
    let refused = database::migrate(&postgres.database_url(), None)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, MigrateError::RolesMissing(_)),
        "{refused}"
    );
    let says = refused.to_string();
    assert!(
        says.contains("CREATE ROLE") && says.contains("platen migrate"),
        "{says}"
    );

    // The owner may create roles. A second migration changes nothing.
    database::migrate(&postgres.owner_url(), Some("platen"))
        .await
        .unwrap();
    database::migrate(&postgres.owner_url(), Some("platen"))
        .await
        .unwrap();
    postgres.stop().await;
}

/// Migrates a database and undoes the last migration. Returns a session that holds a lock on the table which it changes.
async fn behind(postgres: &Postgres) -> PgConnection {
    let url = postgres.owner_url();
    database::migrate(&url, Some("platen")).await.unwrap();
    let mut reading = PgConnection::connect(&url).await.unwrap();
    for statements in [
        "ALTER TABLE jobs DROP COLUMN traceparent; DELETE FROM _sqlx_migrations WHERE version = 15",
        "SET application_name = 'a long report'; BEGIN; SELECT count(*) FROM jobs",
    ] {
        reading.execute(statements).await.unwrap();
    }
    reading
}

#[tokio::test]
async fn a_migration_that_waits_for_a_lock_delays_others_briefly() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start_with(folder.path(), Durability::Reduced)
        .await
        .unwrap();
    let url = postgres.owner_url();
    let mut reading = behind(&postgres).await;
    let mut other = PgConnection::connect(&url).await.unwrap();

    // Other sessions wait behind the migration, but each try of the migration is short.
    let began = Instant::now();
    let held = Duration::from_secs(3);
    let mut longest = Duration::ZERO;
    let others = async {
        while began.elapsed() < held {
            let asked = Instant::now();
            other.execute("SELECT count(*) FROM jobs").await.unwrap();
            longest = longest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reading.execute("COMMIT").await.unwrap();
    };
    let migration = async {
        database::migrate(&url, Some("platen")).await.unwrap();
        began.elapsed()
    };
    let (migrated_after, ()) = tokio::join!(migration, others);
    assert!(migrated_after >= held, "nobody held it up");
    assert!(longest > Duration::from_millis(50), "it never waited");
    assert!(
        longest < Duration::from_secs(1),
        "others waited {longest:?}"
    );
    other.execute("SELECT traceparent FROM jobs").await.unwrap();
    postgres.stop().await;
}

#[tokio::test]
async fn a_migration_that_gets_no_lock_names_the_session_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start_with(folder.path(), Durability::Reduced)
        .await
        .unwrap();
    let url = postgres.owner_url();
    let mut reading = behind(&postgres).await;
    let process: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut reading)
        .await
        .unwrap();
    let patience = Duration::from_secs(1);
    let refused = database::migrate_within(&url, Some("platen"), patience)
        .await
        .unwrap_err();
    let says = refused.to_string();
    for part in [
        "a long report",
        &format!("process {process}"),
        "on jobs",
        "platen migrate",
    ] {
        assert!(says.contains(part), "{part}: {says}");
    }

    // The refused migration left nothing behind, so the next one succeeds.
    reading.execute("COMMIT").await.unwrap();
    database::migrate_within(&url, Some("platen"), patience)
        .await
        .unwrap();
    postgres.stop().await;
}

#[tokio::test]
async fn logins_for_one_role_are_created_with_a_connection_limit() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start_with(folder.path(), Durability::Reduced)
        .await
        .unwrap();
    let url = |login: &str| {
        let url = postgres.owner_url();
        let (_, server) = url.split_once('@').unwrap();
        format!("postgres://{login}@{server}")
    };
    // Names and passwords with characters that must be escaped in URLs and in SQL.
    let (api, worker) = (url("an%20'api'%22:it%27s%20a%22secret"), url("b:c"));
    let migrate = async || {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_platen"))
            .arg("migrate")
            .env_clear()
            .env("PLATEN_LOG", "trace")
            .env("DATABASE_OWNER_URL", postgres.owner_url())
            .env("DATABASE_URL", postgres.database_url())
            .env("DATABASE_API_URL", &api)
            .env("DATABASE_WORKER_URL", &worker)
            .output()
            .await
            .unwrap();
        let says = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{says}");
        assert!(
            !says.contains("secret"),
            "a password stands in the log: {says}"
        );
    };
    migrate().await;
    let mut login = PgConnection::connect(&api).await.unwrap();
    login.execute("SET ROLE platen_api").await.unwrap();
    for other in ["platen_worker", "platen_reader", "platen_owner"] {
        let refused = login.execute(sqlx::AssertSqlSafe(format!("SET ROLE {other}")));
        assert!(refused.await.is_err(), "{other}");
    }
    login.close().await.unwrap();

    // Three logins with one role each get fewer connections than there are, and so does one with every role. A limit that
    // someone has set is kept.
    let mut owner = PgConnection::connect(&postgres.owner_url()).await.unwrap();
    owner
        .execute("ALTER ROLE b CONNECTION LIMIT 7")
        .await
        .unwrap();
    migrate().await;
    let limits: Vec<i32> = sqlx::query_scalar(
        "SELECT rolconnlimit FROM pg_roles WHERE rolname LIKE 'an %' OR rolname IN ('b', 'platen') ORDER BY rolname",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(limits, [175, 7, 390]);

    // When the processes use all their connections, an operator can still connect.
    owner
        .execute("ALTER ROLE platen CONNECTION LIMIT 2")
        .await
        .unwrap();
    let runtime = postgres.database_url();
    let one = PgConnection::connect(&runtime).await.unwrap();
    let two = PgConnection::connect(&runtime).await.unwrap();
    let refused = PgConnection::connect(&runtime).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("too many connections for role"),
        "{refused}"
    );
    PgConnection::connect(&postgres.owner_url()).await.unwrap();
    drop((one, two));
    owner.close().await.unwrap();
    postgres.stop().await;
}
