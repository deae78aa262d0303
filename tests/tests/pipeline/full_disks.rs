//! Full disks: of the bucket, of Postgres, and the full memory of Redis. Nothing is left half done, and work continues when there is
//! space again.

use std::path::PathBuf;
use std::time::Duration;

use bucket::Address;
use fakes::Fake;
use futures::future::join_all;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use servers::{Durability, Redis};
use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tests::disk::{self, Disk, objects};
use tests::pipeline::small_job;
use tests::servers::{TestServers, connect_to_redis};
use tests::{Options, Pipeline, models, processes};

async fn all_succeed(pipeline: &Pipeline, ids: &[String]) {
    for id in ids {
        let job = pipeline.ended_within(id, Duration::from_mins(1)).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }
}

/// The kernel refuses files that are larger than a probe and smaller than an image. This runs everywhere.
#[tokio::test]
async fn a_bucket_for_small_files_only_costs_no_call() {
    let fake = Fake::start(fakes::Options::default()).await.unwrap();
    let models = models::shipped();
    models::openai_played_by(&models, &fake.base_url());
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        models: Some(models.path().to_owned()),
        ..Options::default()
    })
    .await;
    let environment = [
        ("PLATEN_PROVIDERS", "openai"),
        ("OPENAI_API_KEY", "a key"),
        ("PLATEN_SLOTS", "2"),
    ];
    let mut worker = processes::worker_with_small_files(&pipeline.config, &environment, 20);
    let body = json!({"model": "gpt-image-2.5-sunburst", "prompt": "a bottle", "size": "1K"});
    let ids = join_all((0..6).map(|_| async { pipeline.submit(&body).await })).await;
    let bought = async || (fake.journal().count() > 0).then_some(());
    pipeline
        .until("the provider was called", Duration::from_secs(20), bought)
        .await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let calls = fake.journal().count();
    assert!(calls <= 2, "{calls} calls: only those that were running");
    assert_eq!(
        objects(pipeline.bucket.path()),
        Vec::<PathBuf>::new(),
        "no partial files"
    );

    disk::lift_file_limit(worker.id().unwrap());
    all_succeed(&pipeline, &ids).await;
    assert_eq!(
        fake.journal().count(),
        6,
        "results that waited were not requested again"
    );
    assert_eq!(objects(pipeline.bucket.path()).len(), 18);
    worker.kill().await.unwrap();
    pipeline.close().await;
}

/// The same on a disk that is really full.
#[tokio::test]
async fn a_bucket_on_a_full_disk_costs_no_call_and_keeps_nothing_half() {
    let Some(disk) = Disk::mount(64) else {
        return;
    };
    let pipeline = Pipeline::start_with(Options {
        bucket: Some(Address::Folder(disk.path().to_owned())),
        slots: 2,
        ..Options::default()
    })
    .await;
    let ids = join_all((0..6).map(|_| async { pipeline.submit(&small_job()).await })).await;
    let bought = async || (pipeline.fake.journal().count() > 0).then_some(());
    pipeline
        .until("the provider was called", Duration::from_secs(20), bought)
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let calls = pipeline.fake.journal().count();
    assert!(calls <= 2, "{calls} calls: only those that were running");
    assert_eq!(
        objects(disk.path()),
        Vec::<PathBuf>::new(),
        "no partial files"
    );
    disk.resize(64 * 1024);
    all_succeed(&pipeline, &ids).await;
    assert_eq!(pipeline.fake.journal().count(), 6);
    assert_eq!(objects(disk.path()).len(), 18);
    pipeline.close().await;
}

/// Runs SQL that locks many tables. Postgres may end it because of a deadlock with a procedure that locks them in another order: then
/// it is repeated.
async fn run(owner: &mut PgConnection, sql: &str) {
    const DEADLOCK: &str = "40P01";
    while let Err(error) = owner.execute(AssertSqlSafe(sql.to_owned())).await {
        let code = error.as_database_error().and_then(DatabaseError::code);
        assert_eq!(code.as_deref(), Some(DEADLOCK), "{sql}: {error}");
    }
}

/// Submits a job with this idempotency key. Returns the status, `Retry-After` and the body.
async fn submit(
    pipeline: &Pipeline,
    key: &str,
    body: &Value,
) -> (StatusCode, Option<String>, Value) {
    let request = pipeline
        .request(Method::POST, "/v1/jobs")
        .header("Idempotency-Key", key);
    let response = request.json(body).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let retry_after = headers
        .get(header::RETRY_AFTER)
        .map(|value| value.to_str().unwrap().to_owned());
    (status, retry_after, response.json().await.unwrap())
}

fn assert_unavailable(
    (status, retry_after, body): &(StatusCode, Option<String>, Value),
    what: &str,
) {
    assert_eq!(*status, StatusCode::SERVICE_UNAVAILABLE, "{what}: {body}");
    assert_eq!(body["code"], "unavailable", "{what}: {body}");
    assert!(retry_after.is_some(), "{what}: Retry-After is missing");
}

async fn jobs(pipeline: &Pipeline) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM jobs")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap()
}

/// Postgres reports a full disk at each step of an admission and of a settlement. This runs everywhere.
#[tokio::test]
async fn a_full_database_at_any_step_is_a_503_without_effect() {
    let pipeline = Pipeline::start().await;
    let mut owner = pipeline.owner().await;
    run(
        &mut owner,
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
    )
    .await;
    let fill = |table: &str| {
        format!(
            "CREATE TRIGGER aaa_no_room BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION no_room()"
        )
    };
    let remove_trigger = |table: &str| format!("DROP TRIGGER aaa_no_room ON {table}");
    let mut ids = Vec::new();
    for table in [
        "jobs",
        "job_requests",
        "job_lots",
        "wallets",
        "transfers",
        "idempotency_keys",
    ] {
        let before = (pipeline.balance().await.1, jobs(&pipeline).await);
        run(&mut owner, &fill(table)).await;
        let refused = submit(&pipeline, table, &small_job()).await;
        assert_unavailable(&refused, table);
        assert_eq!(
            (pipeline.balance().await.1, jobs(&pipeline).await),
            before,
            "{table}"
        );
        run(&mut owner, &remove_trigger(table)).await;
        let (status, _, job) = submit(&pipeline, table, &small_job()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{table}: {job}");
        let id = job["id"].as_str().unwrap().to_owned();
        pipeline.ended(&id).await;
        ids.push(id);
    }
    // Settlements fail for longer than they are retried. The lease expires, and no call is repeated.
    for table in ["artifacts", "transfers"] {
        let calls = pipeline.fake.journal().count();
        let mut body = small_job();
        body["prompt"] = json!("a bottle [[fault:late:700]]");
        let id = pipeline.submit(&body).await;
        let bought = async || (pipeline.fake.journal().count() > calls).then_some(());
        pipeline
            .until("the provider was called", Duration::from_secs(10), bought)
            .await;
        run(&mut owner, &fill(table)).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(pipeline.job(&id).await["artifacts"], json!([]), "{table}");
        run(&mut owner, &remove_trigger(table)).await;
        assert_eq!(pipeline.ended(&id).await["state"], "succeeded", "{table}");
        assert_eq!(pipeline.fake.journal().count(), calls + 1, "{table}");
    }
    all_succeed(&pipeline, &ids).await;
    run(&mut owner, "DROP FUNCTION no_room()").await;
    owner.close().await.unwrap();
    pipeline.close().await;
}

/// The same with a disk that is really full: the tables are on a small one.
#[tokio::test]
async fn a_database_on_a_full_disk_goes_on_when_there_is_room() {
    let Some(disk) = Disk::mount(16 * 1024) else {
        return;
    };
    // A separate server, because a full disk affects all its databases.
    let (_data, servers, named) = TestServers::own(Durability::Reduced).await;
    let pipeline = Pipeline::start_on(named, Options::default()).await;
    let mut owner = pipeline.owner().await;
    let tablespace = "small";
    let data: String = sqlx::query_scalar("SHOW data_directory")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    let folder = disk.path().join("tables");
    std::fs::create_dir(&folder).unwrap();
    let as_postgres = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(data).unwrap());
    std::os::unix::fs::chown(&folder, Some(as_postgres), None).unwrap();
    run(
        &mut owner,
        &format!(
            "CREATE TABLESPACE {tablespace} LOCATION '{}'",
            folder.display()
        ),
    )
    .await;
    for kind in ["TABLE", "INDEX"] {
        run(
            &mut owner,
            &format!("ALTER {kind} ALL IN TABLESPACE pg_default SET TABLESPACE {tablespace}"),
        )
        .await;
    }
    run(
        &mut owner,
        &format!("CREATE TEMPORARY TABLE ballast (it text) TABLESPACE {tablespace}; ALTER TABLE ballast ALTER it SET STORAGE PLAIN"),
    )
    .await;
    let full = loop {
        let more = "INSERT INTO ballast (it) SELECT repeat('x', 7000) FROM generate_series(1, 20)";
        if let Err(error) = owner.execute(more).await {
            break error;
        }
    };
    let code = full
        .as_database_error()
        .unwrap()
        .code()
        .unwrap()
        .into_owned();
    assert_eq!(code, "53100", "{full}");

    let mut body = small_job();
    body["prompt"] = json!("a bottle ".repeat(200));
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let key = format!("job-{number}");
        let answer = submit(&pipeline, &key, &body).await;
        if answer.0 == StatusCode::ACCEPTED {
            accepted.push(answer.2["id"].as_str().unwrap().to_owned());
            continue;
        }
        assert_unavailable(&answer, &key);
        refused.push(key);
        if refused.len() == 5 {
            break;
        }
    }
    assert_eq!(refused.len(), 5, "{} were accepted", accepted.len());
    assert_eq!(pipeline.get("/v1/credits").await.0, StatusCode::OK);
    assert_eq!(common::verify::verify(&pipeline.reader).await.unwrap(), []);

    disk.resize(256 * 1024);
    for key in &refused {
        let (status, _, job) = submit(&pipeline, key, &body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        accepted.push(job["id"].as_str().unwrap().to_owned());
    }
    all_succeed(&pipeline, &accepted).await;
    assert_eq!(
        jobs(&pipeline).await,
        i64::try_from(accepted.len()).unwrap()
    );
    owner.close().await.unwrap();
    pipeline.close().await;
    servers.stop().await;
}

/// Redis is not the source of truth: while it refuses writes, jobs are still accepted and done.
#[tokio::test]
async fn a_redis_that_takes_no_writes_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path()).await.unwrap();
    let pipeline = Pipeline::start_with(Options {
        redis: Some(redis.url()),
        ..Options::default()
    })
    .await;
    let mut admin = connect_to_redis(&redis.url()).await;
    let mut set = async |name: &str, value: &str| {
        let mut command = redis::cmd("CONFIG");
        let command = command.arg("SET").arg(name).arg(value);
        command.query_async::<()>(&mut admin).await.unwrap();
    };
    let write = async || {
        let mut connection = connect_to_redis(&redis.url()).await;
        let mut command = redis::cmd("SET");
        command
            .arg("a test")
            .arg("a value")
            .query_async::<()>(&mut connection)
            .await
    };
    let jobs_are_made = async |why: &str| {
        let refused = write().await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        let ids = join_all((0..5).map(|_| async { pipeline.submit(&small_job()).await })).await;
        all_succeed(&pipeline, &ids).await;
    };

    set("maxmemory-policy", "noeviction").await;
    set("maxmemory", "1mb").await;
    set("maxmemory", "1").await;
    jobs_are_made("OOM").await;
    set("maxmemory", "0").await;
    write().await.unwrap();

    // It cannot save because its folder is gone, so it refuses writes, as with a full disk.
    set("stop-writes-on-bgsave-error", "yes").await;
    set("save", "1 1").await;
    std::fs::remove_dir_all(folder.path()).unwrap();
    write().await.unwrap();
    let failed = async || write().await.is_err().then_some(());
    pipeline
        .until("Redis refuses a write", Duration::from_secs(20), failed)
        .await;
    jobs_are_made("MISCONF").await;
    set("stop-writes-on-bgsave-error", "no").await;
    write().await.unwrap();
    let id = pipeline.submit(&small_job()).await;
    all_succeed(&pipeline, &[id]).await;
    assert_eq!(pipeline.fake.journal().count(), 11);
    pipeline.close().await;
    redis.stop().await;
}
