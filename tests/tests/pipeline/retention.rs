//! Files are kept as long as promised, and no longer: shown by looking for their bytes.
#![expect(clippy::print_stdout, reason = "says how soon they were gone")]

use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bucket::{Address, Bucket};
use common::people::operator::tenants;
use domain::generation::image::MAX_INPUT_BYTES;
use domain::operator::Actor;
use domain::retention::Retention;
use futures::TryStreamExt;
use image::{ImageFormat, RgbImage};
use rand::RngExt;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use storage::database;
use tests::disk::{files, objects};
use tests::fleet::Role;
use tests::gcs::Gcs;
use tests::pipeline::{OPERATOR_KEY, TESTER, small_job};
use tests::real::Real;
use tests::s3::S3;
use tests::servers::connect_to_redis;
use tests::{Options, Pipeline};
use time::format_description::well_known::Rfc3339;

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");
/// Files of an ephemeral job are gone so soon after its end.
const GONE: Duration = Duration::from_mins(1);

/// An image nobody has seen before: noise, which no encoder makes smaller.
fn photo() -> Vec<u8> {
    let noise = (0..96 * 96 * 3)
        .map(|_| rand::rng().random::<u8>())
        .collect();
    let noise = RgbImage::from_raw(96, 96, noise).unwrap();
    let mut photo = Cursor::new(Vec::new());
    noise.write_to(&mut photo, ImageFormat::Png).unwrap();
    photo.into_inner()
}

/// What would give a photo away, wherever it stood: parts of it as it was sent, and as it is kept.
fn traces(photo: &[u8]) -> Vec<Vec<u8>> {
    let kept = imaging::clean(photo, MAX_INPUT_BYTES).unwrap().bytes;
    [traces_of_file(photo), traces_of_file(&kept)].concat()
}

/// Parts of a file as they are, in base64 and in hex.
fn traces_of_file(file: &[u8]) -> Vec<Vec<u8>> {
    let tail = file.len() - 4096;
    let windows = (0..31).map(|part| &file[tail + part * 128..][..66]);
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

/// Words nobody has written before, for a prompt.
fn words() -> String {
    hex::encode(rand::rng().random::<[u8; 24]>())
}

/// What would give words away, wherever they stood: as they are, in base64 and in hex.
fn traces_of(words: &str) -> Vec<Vec<u8>> {
    let words = words.as_bytes();
    vec![
        words.to_vec(),
        STANDARD.encode(&words[..48]).into_bytes(),
        STANDARD.encode(&words[1..46]).into_bytes(),
        STANDARD.encode(&words[2..47]).into_bytes(),
        hex::encode(words).into_bytes(),
    ]
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
    let bucket = Bucket::open(&pipeline.config.bucket().unwrap(), SecretString::default()).unwrap();
    let objects: Vec<_> = bucket.list().try_collect().await.unwrap();
    for object in objects {
        let bytes = bucket.get(&object.key).await.unwrap();
        if bytes.is_some_and(|bytes| tells(&bytes, traces)) {
            found.push(object.key);
        }
    }
    let redis = pipeline.config.redis_url().unwrap().expose_secret();
    let mut redis = connect_to_redis(redis).await;
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
        json!([{"data": STANDARD.encode(photo), "media_type": "image/png", "role": "product"}]);
    body
}

/// An upload of this photo; returns its id and its bytes as they are kept.
async fn upload(pipeline: &Pipeline, photo: Vec<u8>) -> (String, Vec<u8>) {
    let sent = pipeline.request(Method::POST, "/v1/uploads").body(photo);
    let sent = sent.send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::CREATED);
    let upload: Value = sent.json().await.unwrap();
    let kept = pipeline.download(upload["url"].as_str().unwrap()).await;
    (upload["id"].as_str().unwrap().to_owned(), kept)
}

fn naming(upload: &str) -> Value {
    let mut body = small_job();
    body["inputs"] = json!([{"upload": upload, "role": "product"}]);
    body
}

/// Uploads are kept for one second, which is less than the API lets a tenant say.
async fn uploads_go_at_once(pipeline: &Pipeline) {
    let mut owner = pipeline.owner().await;
    owner
        .execute("UPDATE retention SET uploads = 1")
        .await
        .unwrap();
    owner.close().await.unwrap();
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

/// Whatever a job's end, its inputs and its prompt are found nowhere soon after it; nor is an upload that no job needs any more.
async fn inputs_are_gone(pipeline: &mut Pipeline, folders: &[&Path]) {
    set(pipeline, Retention::EPHEMERAL).await;
    let photos: Vec<Vec<u8>> = (0..5).map(|_| photo()).collect();
    let mut all: Vec<Vec<u8>> = photos.iter().flat_map(|photo| traces(photo)).collect();
    let (prompt, direction) = (words(), words());
    all.extend([&prompt, &direction].map(|words| traces_of(words)).concat());
    let with = |photo: &[u8], says: &str| {
        let mut body = with(photo, &format!("{says} {prompt}"));
        body["art_direction"] = json!(direction);
        body
    };

    let mut later = with(&photos[2], "one to be canceled before it begins");
    let in_an_hour = domain::clock::now() + Duration::from_hours(1);
    later["run_at"] = json!(in_an_hour.format(&Rfc3339).unwrap());
    let queued = pipeline.submit(&later).await;
    let (upload, kept) = upload(pipeline, PHOTO.to_vec()).await;
    let named = pipeline.submit(&naming(&upload)).await;
    assert_eq!(pipeline.ended(&named).await["state"], "succeeded");
    for known in [
        traces(&photos[2]),
        traces_of(&prompt),
        traces_of(&direction),
        traces_of_file(&kept),
    ] {
        let found = search(pipeline, folders, &known).await;
        assert!(!found.is_empty(), "it is looked for well");
    }
    all.extend(traces_of_file(&kept));

    let succeeded = pipeline.submit(&with(&photos[0], "a bottle")).await;
    let refused = pipeline
        .submit(&with(&photos[1], "something forbidden"))
        .await;
    let running = pipeline
        .submit(&with(&photos[3], "[[fault:late:3000]] slow"))
        .await;
    pipeline
        .until("the job is running", Duration::from_secs(20), async || {
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
    uploads_go_at_once(pipeline).await;
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
            .until(
                "input and prompt have receipts",
                Duration::from_secs(20),
                async || {
                    let mut classes = receipts(pipeline, id).await;
                    classes.sort_unstable();
                    (classes == ["input", "prompt"]).then_some(())
                },
            )
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
    let act = Actor {
        by: "a test",
        reason: "a customer asks about it",
    };
    let hold = cli::commands::legal_hold::add(
        &pipeline.config,
        None,
        act,
        (pipeline.tenant, held.parse().unwrap()),
        domain::retention::Purpose::Support,
        7,
    );
    let hold = hold.await.unwrap();
    // Of what there is, too: originals at once, renditions a little later.
    let soon = Retention {
        originals: Some(0),
        renditions: Some(1),
        ..Retention::default()
    };
    set(&pipeline, soon).await;
    let after = pipeline.submit(&small_job()).await;
    pipeline.ended(&after).await;
    for id in [&before, &after] {
        let gone = pipeline.until(
            "all outputs have receipts",
            Duration::from_secs(20),
            async || {
                let mut classes = receipts(&pipeline, id).await;
                classes.sort_unstable();
                (classes == ["original", "rendition", "thumbnail"]).then_some(())
            },
        );
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
    cli::commands::legal_hold::remove(&pipeline.config, None, act, pipeline.tenant, hold)
        .await
        .unwrap();
    pipeline
        .until(
            "the held files have receipts",
            Duration::from_secs(20),
            async || (receipts(&pipeline, &held).await.len() == 3).then_some(()),
        )
        .await;
    assert_eq!(objects(pipeline.bucket.path()), Vec::<PathBuf>::new());
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
        json!({"inputs": null, "originals": null, "renditions": null, "uploads": null, "prompts": null})
    );
    for (class, seconds) in [
        ("inputs", 999_999_999),
        ("uploads", 59),
        ("prompts", 315_360_001),
    ] {
        let put = pipeline
            .request(Method::PUT, "/v1/retention")
            .json(&json!({class: seconds}));
        let refused = put.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], format!("/{class}"));
    }
    pipeline.close().await;
}

/// The time of an upload counts from the last job that named it, and does not run while one is open.
#[tokio::test]
async fn an_upload_goes_when_no_job_has_needed_it_for_its_time() {
    let pipeline = Pipeline::start().await;
    set(&pipeline, Retention::EPHEMERAL).await;
    let (needed, _) = upload(&pipeline, PHOTO.to_vec()).await;
    let (used, _) = upload(&pipeline, PHOTO.to_vec()).await;
    let (never_used, _) = upload(&pipeline, PHOTO.to_vec()).await;
    let mut owner = pipeline.owner().await;
    // All were kept two days ago, which is longer than a day; since then one was used, and an open job names another.
    let mut later = naming(&needed);
    let in_an_hour = domain::clock::now() + Duration::from_hours(1);
    later["run_at"] = json!(in_an_hour.format(&Rfc3339).unwrap());
    let open = pipeline.submit(&later).await;
    let aged = "UPDATE uploads SET created_at = created_at - interval '2 days'";
    owner.execute(aged).await.unwrap();
    let job = pipeline.submit(&naming(&used)).await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
    let id: domain::id::UploadId = used.parse().unwrap();
    let aged = "UPDATE uploads SET last_used_at = created_at WHERE id <> $1";
    sqlx::query(aged)
        .bind(id.0)
        .execute(&mut owner)
        .await
        .unwrap();
    owner.close().await.unwrap();
    let state = async |upload: &str| pipeline.get(&format!("/v1/uploads/{upload}")).await.0;
    let gone = async |upload: &str| {
        pipeline
            .until("the upload is gone", Duration::from_secs(20), async || {
                (state(upload).await == StatusCode::GONE).then_some(())
            })
            .await;
    };
    gone(&never_used).await;
    for kept in [&used, &needed] {
        assert_eq!(state(kept).await, StatusCode::OK, "{kept}");
    }
    uploads_go_at_once(&pipeline).await;
    gone(&used).await;
    // Longer than its time: an open job keeps what it names.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(&needed).await, StatusCode::OK);
    let cancel = format!("/v1/jobs/{open}/cancel");
    let (_, canceled) = pipeline.post(&cancel, &json!({})).await;
    assert_eq!(canceled["state"], "canceled");
    gone(&needed).await;
    for upload in [&never_used, &used, &needed] {
        let receipt = pipeline.until(
            "the upload has a receipt",
            Duration::from_secs(20),
            async || {
                let (_, receipts) = pipeline.get("/v1/receipts?limit=100").await;
                let receipts = receipts["data"].as_array().unwrap().clone();
                (receipts.into_iter()).find(|receipt| receipt["upload"] == json!(upload))
            },
        );
        assert_eq!(receipt.await["class"], "upload");
    }
    pipeline.close().await;
}

/// Its text goes, all else stays, and what needs the text says so.
#[tokio::test]
async fn a_prompt_goes_in_its_time_and_its_job_cannot_be_done_once_more() {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["prompt"] = json!("[[fault:invalid]] a bottle");
    body["art_direction"] = json!("film grain");
    let (gone, held) = (pipeline.submit(&body).await, pipeline.submit(&body).await);
    for job in [&gone, &held] {
        assert_eq!(pipeline.ended(job).await["state"], "failed");
    }
    let until = domain::clock::now() + Duration::from_hours(1);
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, database::DatabaseRole::Api, 1)
        .await
        .unwrap();
    let of = (pipeline.tenant, held.parse().unwrap());
    tenants::add_legal_hold(
        &pool,
        TESTER,
        of,
        domain::retention::Purpose::Support,
        until,
    )
    .await
    .unwrap();
    pool.close().await;
    let asked_for = async |job: &str| -> Value {
        let id: domain::id::JobId = job.parse().unwrap();
        sqlx::query_scalar("SELECT generation FROM job_requests WHERE job_id = $1")
            .bind(id.0)
            .fetch_one(&pipeline.reader)
            .await
            .unwrap()
    };
    // What the provider said may quote the prompt.
    let said = async |job: &str| -> i64 {
        let id: domain::id::JobId = job.parse().unwrap();
        sqlx::query_scalar("SELECT count(detail) FROM calls WHERE job_id = $1")
            .bind(id.0)
            .fetch_one(&pipeline.reader)
            .await
            .unwrap()
    };
    assert!(said(&gone).await > 0 && said(&held).await > 0);
    let before = asked_for(&gone).await;
    let prompts = Retention {
        prompts: Some(0),
        ..Retention::default()
    };
    set(&pipeline, prompts).await;
    pipeline
        .until(
            "the prompt has a receipt",
            Duration::from_secs(20),
            async || (receipts(&pipeline, &gone).await == ["prompt"]).then_some(()),
        )
        .await;
    let mut expected = before.clone();
    let fields = expected.as_object_mut().unwrap();
    assert!(fields.remove("prompt").is_some() && fields.remove("art_direction").is_some());
    assert_eq!(asked_for(&gone).await, expected);
    assert_eq!(asked_for(&held).await, before, "a hold keeps it");
    assert!(said(&gone).await == 0 && said(&held).await > 0);
    let (_, receipt) = pipeline.get(&format!("/v1/receipts?job={gone}")).await;
    let receipt = &receipt["data"][0];
    assert_eq!(receipt["sha256"], Value::Null);
    assert_eq!(
        receipt["bytes"],
        "[[fault:invalid]] a bottlefilm grain".len()
    );
    assert_eq!(pipeline.job(&gone).await["state"], "failed");

    let redrive = pipeline
        .anonymous(Method::POST, "/v1/admin/jobs/redrive")
        .bearer_auth(OPERATOR_KEY)
        .json(&json!({"reason": "a test"}));
    let redriven: Value = redrive.send().await.unwrap().json().await.unwrap();
    let of = |job: &str| {
        let outcomes = redriven["data"].as_array().unwrap();
        outcomes
            .iter()
            .find(|outcome| outcome["job"] == *job)
            .unwrap()
            .clone()
    };
    let skipped = of(&gone)["skipped"].as_str().unwrap().to_owned();
    assert!(skipped.contains("prompt was deleted"), "{skipped}");
    let again = of(&held)["new"].as_str().unwrap().to_owned();
    pipeline.ended(&again).await;
    pipeline.close().await;
}

/// Whoever deletes is killed half-way, twenty times: all that is due is gone in the end, with one receipt each.
#[tokio::test]
async fn a_deletion_that_is_killed_half_way_is_finished_by_another() {
    const JOBS: usize = 40;
    // Of each job four outputs in three files, and its prompt.
    const FILES: i64 = 40 * (4 * 3 + 1);
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
        prompts: Some(0),
        ..Retention::default()
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
            .until(
                "the next file is deleted",
                Duration::from_mins(1),
                async || (gone().await > before.min(FILES - 1)).then_some(()),
            )
            .await;
        workers[0].kill().await.unwrap();
        half_way += usize::from(gone().await < FILES);
    }
    println!("{half_way} of 20 kills left something to do");
    workers[0].start().unwrap();
    pipeline
        .until(
            "every file is deleted",
            Duration::from_mins(1),
            async || (gone().await == FILES).then_some(()),
        )
        .await;
    assert_eq!(objects(pipeline.bucket.path()), Vec::<PathBuf>::new());
    assert!(half_way > 0);
    assert!(workers[0].stop().await.unwrap().success());
    real.pipeline.close().await;
}
