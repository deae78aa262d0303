//! Files are kept as long as promised, and no longer: shown by looking for their bytes.
#![expect(clippy::print_stdout, reason = "says how soon they were gone")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::bucket::{Address, Bucket};
use common::retention::Retention;
use futures::TryStreamExt;
use rand::RngExt;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tests::disk::files;
use tests::fleet::Role;
use tests::gcs::Gcs;
use tests::pipeline::small_job;
use tests::real::Real;
use tests::s3::S3;
use tests::{Options, Pipeline};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");
/// Files of an ephemeral job are gone so soon after its end.
const GONE: Duration = Duration::from_mins(1);

/// A photo nobody has seen before, for what follows its end marker.
fn photo() -> Vec<u8> {
    let mut photo = PHOTO.to_vec();
    photo.extend((0..4096).map(|_| rand::rng().random::<u8>()));
    photo
}

/// What would give a photo away, wherever it stood: parts of it as they are, in base64 and in hex.
fn traces(photo: &[u8]) -> Vec<Vec<u8>> {
    let tail = photo.len() - 4096;
    let windows = (0..32).map(|part| &photo[tail + part * 128..][..66]);
    windows
        .flat_map(|window| {
            [
                window.to_vec(),
                // Whatever came before it, one of three ways to write it is the one.
                STANDARD.encode(&window[..63]).into_bytes(),
                STANDARD.encode(&window[1..64]).into_bytes(),
                STANDARD.encode(&window[2..65]).into_bytes(),
                hex::encode(window).into_bytes(),
            ]
        })
        .collect()
}

fn tells(bytes: &[u8], traces: &[Vec<u8>]) -> bool {
    let starts: HashMap<&[u8], Vec<&Vec<u8>>> =
        traces.iter().fold(HashMap::default(), |mut starts, trace| {
            let found: &mut Vec<&Vec<u8>> = starts.entry(&trace[..8]).or_default();
            found.push(trace);
            starts
        });
    (0..bytes.len().saturating_sub(8)).any(|at| {
        let found = starts.get(&bytes[at..at + 8]);
        found.is_some_and(|traces| traces.iter().any(|trace| bytes[at..].starts_with(trace)))
    })
}

/// Where the traces are, of all places there are.
async fn search(pipeline: &Pipeline, folders: &[&Path], traces: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    for file in folders.iter().flat_map(|folder| files(folder)) {
        // Some vanish while they are looked at: that is what is wanted.
        if std::fs::read(&file).is_ok_and(|bytes| tells(&bytes, traces)) {
            found.push(file.display().to_string());
        }
    }
    let bucket = Bucket::open(&pipeline.config.bucket(), SecretString::default()).unwrap();
    let objects: Vec<_> = bucket.list().try_collect().await.unwrap();
    for object in objects {
        let bytes = bucket.get(&object.key).await.unwrap();
        if bytes.is_some_and(|bytes| tells(&bytes, traces)) {
            found.push(object.key);
        }
    }
    let redis = pipeline.config.redis_url().unwrap().expose_secret();
    let redis = redis::Client::open(redis).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut redis)
        .await
        .unwrap();
    for key in keys {
        let value: Option<Vec<u8>> = redis::cmd("DUMP")
            .arg(&key)
            .query_async(&mut redis)
            .await
            .unwrap();
        if tells(&value.unwrap_or_default(), traces) {
            found.push(format!("Redis: {}", String::from_utf8_lossy(&key)));
        }
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&pipeline.reader)
    .await
    .unwrap();
    for table in tables.iter().filter(|table| *table != "_sqlx_migrations") {
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT t::text FROM {table} t"
        )))
        .fetch_all(&pipeline.reader)
        .await
        .unwrap();
        if rows.iter().any(|row| tells(row.as_bytes(), traces)) {
            found.push(format!("Postgres: {table}"));
        }
    }
    found
}

fn with(photo: &[u8], prompt: &str) -> Value {
    let mut body = small_job();
    body["prompt"] = json!(prompt);
    body["inputs"] =
        json!([{"data": STANDARD.encode(photo), "media_type": "image/jpeg", "role": "product"}]);
    body
}

async fn set(pipeline: &Pipeline, retention: Retention) {
    let put = pipeline
        .anonymous(Method::PUT, "/v1/retention")
        .bearer_auth(&pipeline.key)
        .json(&retention);
    assert_eq!(put.send().await.unwrap().status(), StatusCode::OK);
    let (_, kept) = pipeline.get("/v1/retention").await;
    assert_eq!(kept, json!(retention));
}

async fn receipts(pipeline: &Pipeline, of: &str) -> Vec<String> {
    let (_, receipts) = pipeline
        .get(&format!("/v1/receipts?job={of}&limit=100"))
        .await;
    let receipts = receipts["data"].as_array().unwrap();
    receipts
        .iter()
        .map(|receipt| receipt["class"].as_str().unwrap().to_owned())
        .collect()
}

/// Whatever a job's end, its inputs are found nowhere soon after it.
async fn inputs_are_gone(pipeline: &mut Pipeline, folders: &[&Path]) {
    set(pipeline, Retention::EPHEMERAL).await;
    let photos: Vec<Vec<u8>> = (0..5).map(|_| photo()).collect();
    let all: Vec<Vec<u8>> = photos.iter().flat_map(|photo| traces(photo)).collect();

    let mut later = with(&photos[2], "one to be canceled before it begins");
    let in_an_hour = common::clock::now() + Duration::from_hours(1);
    later["run_at"] = json!(
        in_an_hour
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap()
    );
    let queued = pipeline.submit(&later).await;
    assert!(
        !search(pipeline, folders, &traces(&photos[2]))
            .await
            .is_empty(),
        "it is looked for well"
    );

    let succeeded = pipeline.submit(&with(&photos[0], "a bottle")).await;
    let refused = pipeline
        .submit(&with(&photos[1], "something forbidden"))
        .await;
    let running = pipeline
        .submit(&with(&photos[3], "[[fault:late:3000]] slow"))
        .await;
    pipeline
        .until(Duration::from_secs(20), async || {
            let (_, job) = pipeline.get(&format!("/v1/jobs/{running}")).await;
            (job["state"] == "running").then_some(())
        })
        .await;
    for id in [&queued, &running] {
        let (_, canceled) = pipeline
            .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
            .await;
        assert_eq!(canceled["state"], "canceled");
    }
    let expired = pipeline
        .anonymous(Method::POST, "/v1/jobs")
        .bearer_auth(&pipeline.key)
        .header("Cancel-After", "1s")
        .json(&with(&photos[4], "[[fault:late:3000]] too slow"));
    let expired: Value = expired.send().await.unwrap().json().await.unwrap();
    let expired = expired["id"].as_str().unwrap().to_owned();

    let mut ends = Vec::new();
    for id in [&succeeded, &refused, &queued, &running, &expired] {
        ends.push(
            pipeline.ended(id).await["state"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(
        ends,
        ["succeeded", "failed", "canceled", "canceled", "expired"]
    );
    let ended = Instant::now();
    let last = loop {
        let found = search(pipeline, folders, &all).await;
        if found.is_empty() || ended.elapsed() > GONE {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(last, Vec::<String>::new(), "{GONE:?} after the end");
    println!(
        "no trace is left {:.1} s after the last end",
        ended.elapsed().as_secs_f64()
    );
    for id in [&succeeded, &refused, &queued, &running, &expired] {
        pipeline
            .until(Duration::from_secs(20), async || {
                (receipts(pipeline, id).await == ["input"]).then_some(())
            })
            .await;
    }
    // What was made is kept for its day.
    let (_, job) = pipeline.get(&format!("/v1/jobs/{succeeded}")).await;
    let url = job["artifacts"][0]["url"].as_str().unwrap();
    assert!(!pipeline.download(url).await.is_empty());
}

#[tokio::test]
async fn inputs_are_found_nowhere_after_their_job_has_ended_with_a_folder_and_real_processes() {
    let mut real = Real::start(100..=300).await;
    real.orders
        .environment
        .push(("PLATEN_LOG".to_owned(), "debug".to_owned()));
    let mut workers = real.orders.start(Role::Worker, 2).await.unwrap();
    let mut apis = real.orders.start(Role::Api, 1).await.unwrap();
    let logs = real.orders.folder.clone();
    let bucket = real.pipeline.bucket.path().to_owned();
    real.pipeline.url = format!("http://{}", apis[0].address());
    inputs_are_gone(&mut real.pipeline, &[&bucket, &logs]).await;
    assert!(!files(&logs).is_empty(), "there are logs to look into");
    for process in workers.iter_mut().chain(&mut apis) {
        assert!(process.stop().await.unwrap().success());
    }
    real.pipeline.close().await;
}

#[tokio::test]
async fn inputs_are_found_nowhere_after_their_job_has_ended_with_s3() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    let mut pipeline = at(s3.address()).await;
    inputs_are_gone(&mut pipeline, &[folder.path()]).await;
    pipeline.close().await;
}

#[tokio::test]
async fn inputs_are_found_nowhere_after_their_job_has_ended_with_gcs() {
    let gcs = Gcs::start().await;
    let mut pipeline = at(gcs.address("of/ours", &[])).await;
    inputs_are_gone(&mut pipeline, &[]).await;
    pipeline.close().await;
}

async fn at(bucket: Address) -> Pipeline {
    Pipeline::start_with(Options {
        bucket: Some(bucket),
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn outputs_go_in_their_time_and_a_hold_keeps_them() {
    let pipeline = Pipeline::start().await;
    let before = pipeline.submit(&small_job()).await;
    let held = pipeline.submit(&small_job()).await;
    for id in [&before, &held] {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    let (_, job) = pipeline.get(&format!("/v1/jobs/{before}")).await;
    let artifact = job["artifacts"][0].clone();
    let hold = cli::admin::hold(
        &pipeline.config,
        None,
        (pipeline.tenant, held.parse().unwrap()),
        common::retention::Purpose::Support,
        "a customer asks about it",
        7,
    );
    let hold = hold.await.unwrap();
    // Of what there is, too: originals at once, renditions a little later.
    let soon = Retention {
        inputs: None,
        originals: Some(0),
        renditions: Some(1),
    };
    set(&pipeline, soon).await;
    let after = pipeline.submit(&small_job()).await;
    pipeline.ended(&after).await;
    for id in [&before, &after] {
        let gone = pipeline.until(Duration::from_secs(20), async || {
            let mut classes = receipts(&pipeline, id).await;
            classes.sort_unstable();
            (classes == ["original", "rendition", "thumbnail"]).then_some(())
        });
        gone.await;
        let (_, job) = pipeline.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(job["artifacts"], json!([]), "{job}");
    }
    let (status, problem) = pipeline
        .get(&format!(
            "/v1/artifacts/{}",
            artifact["id"].as_str().unwrap()
        ))
        .await;
    assert_eq!(status, StatusCode::GONE, "{problem}");
    let link = pipeline.anonymous(Method::GET, artifact["url"].as_str().unwrap());
    assert_eq!(link.send().await.unwrap().status(), StatusCode::NOT_FOUND);

    let (_, job) = pipeline.get(&format!("/v1/jobs/{held}")).await;
    assert_eq!(job["artifacts"].as_array().unwrap().len(), 3, "it is held");
    assert_eq!(receipts(&pipeline, &held).await, Vec::<String>::new());
    cli::admin::lift(&pipeline.config, None, pipeline.tenant, hold)
        .await
        .unwrap();
    pipeline
        .until(Duration::from_secs(20), async || {
            (receipts(&pipeline, &held).await.len() == 3).then_some(())
        })
        .await;
    assert_eq!(files(pipeline.bucket.path()), Vec::<PathBuf>::new());
    pipeline.close().await;
}

#[tokio::test]
async fn by_default_everything_is_kept() {
    let pipeline = Pipeline::start().await;
    let id = pipeline.submit(&with(&photo(), "a bottle")).await;
    pipeline.ended(&id).await;
    let planned: i64 = sqlx::query_scalar("SELECT count(*) FROM deletions")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap();
    assert_eq!(planned, 0);
    let (_, kept) = pipeline.get("/v1/retention").await;
    assert_eq!(
        kept,
        json!({"inputs": null, "originals": null, "renditions": null})
    );
    let put = pipeline
        .anonymous(Method::PUT, "/v1/retention")
        .bearer_auth(&pipeline.key)
        .json(&json!({"inputs": 999_999_999}));
    let refused = put.send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    pipeline.close().await;
}

/// Whoever deletes is killed half-way, twenty times: all that is due is gone in the end, with one receipt each.
#[tokio::test]
async fn a_deletion_that_is_killed_half_way_is_finished_by_another() {
    const JOBS: usize = 40;
    const FILES: i64 = 40 * 4 * 3;
    let real = Real::start(0..=0).await;
    let pipeline = &real.pipeline;
    let mut workers = real.orders.start(Role::Worker, 1).await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        let mut body = small_job();
        body["outputs"] = json!(4);
        jobs.push(pipeline.submit(&body).await);
    }
    for id in &jobs {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    workers[0].kill().await.unwrap();
    let now = Retention {
        inputs: Some(0),
        originals: Some(0),
        renditions: Some(0),
    };
    set(pipeline, now).await;
    let gone = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM deletions WHERE deleted_at IS NOT NULL")
            .fetch_one(&pipeline.reader)
            .await
            .unwrap()
    };
    let mut half_way = 0;
    for _ in 0..20 {
        let before = gone().await;
        workers[0].start().unwrap();
        // It has begun, and is not done.
        pipeline
            .until(Duration::from_mins(1), async || {
                (gone().await > before.min(FILES - 1)).then_some(())
            })
            .await;
        workers[0].kill().await.unwrap();
        half_way += usize::from(gone().await < FILES);
    }
    println!("{half_way} of 20 kills left something to do");
    workers[0].start().unwrap();
    pipeline
        .until(Duration::from_mins(1), async || {
            (gone().await == FILES).then_some(())
        })
        .await;
    assert_eq!(files(pipeline.bucket.path()), Vec::<PathBuf>::new());
    assert!(half_way > 0);
    assert!(workers[0].stop().await.unwrap().success());
    real.pipeline.close().await;
}
