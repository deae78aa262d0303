//! The bucket is another database's, or not there, or not adopted yet: nothing is deleted, nothing is lost, and nothing is promised.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bucket::{Bucket, MARKER};
use common::files::ownership::{self, AdoptError};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::Executor;
use storage::database::{self, DatabaseRole};
use tests::Pipeline;
use tests::disk::files;
use tests::fleet::{self, Process};
use tests::pipeline::{TESTER, adopt, small_job};
use tests::real::Real;

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");
const SOON: Duration = Duration::from_secs(30);

fn with_a_photo() -> Value {
    let mut body = small_job();
    body["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    body
}

/// Nothing is kept but renditions: what has ended is due at once.
async fn keep_little(pipeline: &Pipeline) {
    let little = json!({"inputs": 0, "originals": 0, "prompts": 0});
    let put = pipeline.request(Method::PUT, "/v1/retention").json(&little);
    assert_eq!(put.send().await.unwrap().status(), StatusCode::OK);
}

/// Receipts of prompts, and of files.
async fn receipts(pipeline: &Pipeline) -> (i64, i64) {
    sqlx::query_as(
        "SELECT count(*) FILTER (WHERE class = 'prompt'), count(*) FILTER (WHERE class <> 'prompt') FROM deletions WHERE deleted_at IS NOT NULL",
    )
    .fetch_one(&pipeline.reader)
    .await
    .unwrap()
}

async fn until_receipts(pipeline: &Pipeline, expected: (i64, i64)) {
    let look = async || (receipts(pipeline).await == expected).then_some(());
    pipeline
        .until("there are as many receipts as expected", SOON, look)
        .await;
}

/// What an api or a worker says of its readiness, on the port of its metrics.
async fn readiness(pipeline: &Pipeline, process: &Process) -> (StatusCode, String) {
    let url = format!("http://{}/readyz", process.metrics_address());
    let answer = pipeline.anonymous(Method::GET, &url).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

async fn until_ready(pipeline: &Pipeline, processes: [&Process; 2], expected: StatusCode) {
    for process in processes {
        let look = async || (readiness(pipeline, process).await.0 == expected).then_some(());
        pipeline
            .until("the readiness is as expected", SOON, look)
            .await;
    }
}

/// A process that must not start, and what it says.
async fn refused(orders: &fleet::Orders, role: fleet::Role, number: usize) -> String {
    let mut process = Process::new(role, number, orders).unwrap();
    process.start().unwrap();
    let ended = tokio::time::timeout(SOON, process.wait()).await;
    assert!(!ended.unwrap().unwrap().success());
    process.last_words()
}

/// Proof 2 (A.1): a folder is swapped under running processes, as when a volume is unmounted, and others start on other folders.
#[tokio::test]
async fn while_the_bucket_is_not_ours_no_receipt_is_written_and_no_file_is_lost() {
    let mut real = Real::start(50..=100).await;
    let mut api = real.orders.start_one(fleet::Role::Api).await.unwrap();
    let mut worker = real.orders.start_one(fleet::Role::Worker).await.unwrap();
    real.pipeline.url = format!("http://{}", api.address());
    let pipeline = &real.pipeline;
    let mut due = Vec::new();
    for _ in 0..12 {
        due.push(pipeline.submit(&with_a_photo()).await);
    }
    for id in &due {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    // Its call is made before the swap, and answered after it.
    real.fake.faults().latency(4_000..=4_000);
    let (under_way, calls) = (
        pipeline.submit(&small_job()).await,
        real.fake.journal().count(),
    );
    let called = async || (real.fake.journal().count() > calls).then_some(());
    pipeline
        .until("the provider was called", SOON, called)
        .await;

    let bucket = pipeline.bucket.path();
    let aside = bucket.with_extension("aside");
    fs::rename(bucket, &aside).unwrap();
    fs::create_dir(bucket).unwrap();
    until_ready(pipeline, [&api, &worker], StatusCode::SERVICE_UNAVAILABLE).await;
    for process in [&api, &worker] {
        let (_, says) = readiness(pipeline, process).await;
        assert!(says.contains("lacks this database's marker"), "{says}");
    }
    keep_little(pipeline).await;
    // Prompts need no bucket: that they are gone shows that the turn of deletions has come.
    until_receipts(pipeline, (12, 0)).await;
    let (status, refused_job) = pipeline.post("/v1/jobs", &with_a_photo()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refused_job}");
    let upload = pipeline.request(Method::POST, "/v1/uploads").body(PHOTO);
    let upload = upload.send().await.unwrap();
    assert_eq!(upload.status(), StatusCode::SERVICE_UNAVAILABLE);
    let meanwhile = pipeline.submit(&small_job()).await;

    // Others start on folders that are not ours.
    let (empty, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(
        foreign.path().join(MARKER),
        format!("{}\n", uuid::Uuid::now_v7()),
    )
    .unwrap();
    let missing = empty.path().join("not mounted");
    for (number, (folder, says)) in [
        (empty.path(), "lacks this database's marker"),
        (foreign.path(), "is not this database's"),
        (&missing, "is not a folder"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut orders = real.orders.clone();
        orders.config.bucket = Some(bucket::Address::Folder(folder.to_owned()));
        for role in [fleet::Role::Api, fleet::Role::Worker] {
            let words = refused(&orders, role, number + 10).await;
            assert!(words.contains(says), "{words}");
        }
    }
    assert!(!missing.exists(), "nobody makes a folder that is missing");
    assert!(files(empty.path()).is_empty());

    // What was paid for waits, what was not is not begun, and nothing is written here.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(pipeline.job(&under_way).await["state"], "running");
    assert_eq!(pipeline.job(&meanwhile).await["attempts"], 0);
    assert_eq!(real.fake.journal().count(), calls + 1);
    assert_eq!(receipts(pipeline).await.1, 0);
    assert_eq!(files(bucket), Vec::<std::path::PathBuf>::new());

    fs::remove_dir(bucket).unwrap();
    fs::rename(&aside, bucket).unwrap();
    until_ready(pipeline, [&api, &worker], StatusCode::OK).await;
    for id in [&under_way, &meanwhile] {
        let job = pipeline.ended(id).await;
        assert_eq!(
            (job["state"].as_str(), job["attempts"].as_i64()),
            (Some("succeeded"), Some(1)),
            "{job}"
        );
    }
    assert_eq!(
        real.fake.journal().count(),
        calls + 2,
        "nothing is bought twice"
    );
    // Of 14 jobs the prompts and originals, and of twelve the inputs.
    until_receipts(pipeline, (14, 26)).await;
    let left = files(bucket);
    let left: Vec<_> = left
        .iter()
        .map(|file| file.strip_prefix(bucket).unwrap().display().to_string())
        .filter(|key| key != MARKER)
        .collect();
    assert_eq!(
        left.len(),
        28,
        "a rendition and a thumbnail of each job: {left:#?}"
    );
    assert_eq!(pipeline.deep(Duration::ZERO).await.0, []);

    // What they have written is theirs alone.
    for path in files(bucket)
        .iter()
        .flat_map(|file| [file.as_path(), file.parent().unwrap()])
    {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o077;
        let is_the_tests = path == bucket || path == bucket.join(MARKER);
        assert!(
            mode == 0 || is_the_tests,
            "{} is open to others",
            path.display()
        );
    }
    for process in [&mut api, &mut worker] {
        assert!(process.stop().await.unwrap().success());
    }
    drop((api, worker));
    real.pipeline.close().await;
}

#[tokio::test]
async fn until_a_bucket_is_adopted_files_are_kept_and_nothing_is_deleted() {
    let pipeline = Pipeline::start().await;
    let mut owner = pipeline.owner().await;
    owner.execute("DELETE FROM adopted_bucket").await.unwrap();
    let look = async || {
        let (status, readiness) = pipeline.get("/readyz").await;
        assert_eq!(status, StatusCode::OK, "{readiness}");
        let says = readiness["problems"][0].as_str()?.to_owned();
        says.contains("platen bucket adopt").then_some(())
    };
    pipeline
        .until("the readiness asks for an adopted bucket", SOON, look)
        .await;
    let job = pipeline.submit(&with_a_photo()).await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
    keep_little(&pipeline).await;
    until_receipts(&pipeline, (1, 0)).await;
    let (findings, _) = pipeline.deep(Duration::ZERO).await;
    let says: Vec<_> = findings
        .iter()
        .map(|finding| (finding.invariant, &*finding.says))
        .collect();
    let told = |words: &str| {
        says.iter()
            .filter(|(invariant, says)| *invariant == "I17" && says.contains(words))
            .count()
    };
    assert_eq!(
        (
            told("no bucket was adopted"),
            told("it was to be deleted at")
        ),
        (1, 2),
        "{says:#?}"
    );
    assert_eq!(says.len(), 3, "{says:#?}");

    // The marker is of before, so it is another's.
    let address = pipeline.config.bucket().unwrap();
    let bucket = Bucket::open(&address, SecretString::default()).unwrap();
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, DatabaseRole::Api, 1).await.unwrap();
    let adopted = ownership::adopt(&pool, &bucket, "here", TESTER, false).await;
    assert!(
        matches!(adopted, Err(AdoptError::AnothersMarker(_))),
        "{adopted:?}"
    );
    adopt(&pool, &address).await;
    until_receipts(&pipeline, (1, 2)).await;
    assert_eq!(pipeline.deep(Duration::ZERO).await.0, []);
    // A bucket that was lost is not taken for the one that was adopted.
    bucket.delete(MARKER).await.unwrap();
    let adopted = ownership::adopt(&pool, &bucket, "here", TESTER, false).await;
    assert!(
        matches!(adopted, Err(AdoptError::AnotherBucket)),
        "{adopted:?}"
    );
    pool.close().await;
    pipeline.close().await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// How many files a deep look tells of: with a receipt, links, pipes, and in all.
async fn told(pipeline: &Pipeline) -> (usize, usize, usize, usize) {
    let (findings, _) = pipeline.deep(Duration::ZERO).await;
    let about = |words: &str| {
        let about = findings
            .iter()
            .filter(|finding| finding.says.contains(words));
        about.count()
    };
    (
        about("a receipt says that it was deleted"),
        about("a symbolic link"),
        about("a pipe"),
        findings.len(),
    )
}

/// A volume is restored from a backup that had files which customers were told are gone; somebody has put a link and a pipe into it.
#[tokio::test]
async fn files_with_a_receipt_that_came_back_are_deleted_again_and_links_are_not_followed() {
    let mut pipeline = Pipeline::start().await;
    let job = pipeline.submit(&with_a_photo()).await;
    pipeline.ended(&job).await;
    let (backup, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = pipeline.bucket.path().to_owned();
    copy(&bucket, backup.path());
    keep_little(&pipeline).await;
    until_receipts(&pipeline, (1, 2)).await;
    pipeline.stop_workers().await;
    let kept = files(&bucket).len();
    copy(backup.path(), &bucket);
    assert_eq!(files(&bucket).len(), kept + 2);

    // A folder that looks like one of a job that no row names.
    let strangers = elsewhere.path().join("anothers.png");
    fs::write(&strangers, "anothers").unwrap();
    let tenant = bucket.join("t").join(pipeline.tenant.0.to_string());
    symlink(
        elsewhere.path(),
        tenant.join("j").join(uuid::Uuid::now_v7().to_string()),
    )
    .unwrap();
    symlink(&bucket, tenant.join("a loop")).unwrap();
    mkfifo(&tenant.join("a pipe"), Mode::S_IRWXU).unwrap();
    assert_eq!(told(&pipeline).await, (2, 2, 1, 5));

    pipeline.config.timing.sweep_every = Duration::from_millis(200);
    pipeline.config.timing.sweep_grace = Duration::ZERO;
    pipeline.start_worker().await;
    let swept = async || (told(&pipeline).await == (0, 2, 1, 3)).then_some(());
    pipeline
        .until("the sweeper told what it removed", SOON, swept)
        .await;
    assert!(strangers.exists(), "it lies outside of the bucket");
    assert!(
        bucket.join(MARKER).exists(),
        "the sweeper spares the marker"
    );
    pipeline.close().await;
}

/// A pipe in the bucket never answers. Before, a process that had opened it once could not be stopped but by `kill -9`.
#[tokio::test]
async fn a_file_that_hangs_on_open_keeps_no_process_from_ending() {
    let mut real = Real::start(50..=100).await;
    let mut api = real.orders.start_one(fleet::Role::Api).await.unwrap();
    let mut worker = real.orders.start_one(fleet::Role::Worker).await.unwrap();
    real.pipeline.url = format!("http://{}", api.address());
    let pipeline = &real.pipeline;
    let job = pipeline.submit(&small_job()).await;
    let job = pipeline.ended(&job).await;
    let url = job["artifacts"][0]["url"].as_str().unwrap();
    for file in files(&pipeline.bucket.path().join("t")) {
        fs::remove_file(&file).unwrap();
        mkfifo(&file, Mode::S_IRWXU).unwrap();
    }
    let answer = tokio::time::timeout(SOON, pipeline.anonymous(Method::GET, url).send()).await;
    assert_eq!(
        answer.unwrap().unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let began = Instant::now();
    assert!(api.stop().await.unwrap().success());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

    // The second signal ends a worker that would wait for its job.
    real.fake.faults().latency(60_000..=60_000);
    let calls = real.fake.journal().count();
    let mut again = real.orders.start_one(fleet::Role::Api).await.unwrap();
    real.pipeline.url = format!("http://{}", again.address());
    let pipeline = &real.pipeline;
    let slow = pipeline.submit(&small_job()).await;
    let called = async || (real.fake.journal().count() > calls).then_some(());
    pipeline
        .until("the provider was called", SOON, called)
        .await;
    worker.signal(Signal::SIGTERM).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(worker.ended().is_none(), "it waits for its job");
    worker.signal(Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), worker.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(130));
    let (status, _) = pipeline
        .post(&format!("/v1/jobs/{slow}/cancel"), &json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert!(again.stop().await.unwrap().success());
    drop((api, again, worker));
    // Whoever opened one would hang.
    fs::remove_dir_all(pipeline.bucket.path().join("t")).unwrap();
    real.pipeline.close().await;
}

/// A link that is out survives the change of the key that signed it, until that key is taken away.
#[tokio::test]
async fn a_signing_key_is_changed_without_breaking_links() {
    let real = Real::start(50..=100).await;
    let worker = real.orders.start_one(fleet::Role::Worker).await.unwrap();
    let pipeline = &real.pipeline;
    let job = pipeline.submit(&small_job()).await;
    let job = pipeline.ended(&job).await;
    let url = job["artifacts"][0]["url"].as_str().unwrap();
    let path = &url[url.find("/files/").unwrap()..];
    let mut orders = real.orders.clone();
    orders.config.signing_key = Some(SecretString::from(
        "a new key for tests, and for tests only",
    ));
    let old = "a key for tests, and for tests only".to_owned();
    for (previous, expected) in [(Some(old), StatusCode::OK), (None, StatusCode::FORBIDDEN)] {
        let name = "PLATEN_SIGNING_KEY_PREVIOUS".to_owned();
        orders.environment.retain(|(variable, _)| *variable != name);
        orders.environment.extend(previous.map(|key| (name, key)));
        let mut api = orders.start_one(fleet::Role::Api).await.unwrap();
        let url = format!("http://{}{path}", api.address());
        let opened = pipeline.anonymous(Method::GET, &url).send().await.unwrap();
        assert_eq!(opened.status(), expected);
        assert!(api.stop().await.unwrap().success());
    }
    drop(worker);
    real.pipeline.close().await;
}
