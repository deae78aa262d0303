//! The bucket holds what rows name, as it was stored, and nothing else for longer than the grace.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::verify::deep::Progress;
use domain::artifact::{input_key, rendition_key};
use domain::call::original_key;
use domain::generation::image::Format;
use domain::id::{CallId, JobId, TenantId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Connection;
use storage::verify::Finding;
use tests::disk::objects;
use tests::pipeline::small_job;
use tests::{Options, Pipeline};
use time::format_description::well_known::Rfc3339;

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");
const GRACE: Duration = Duration::from_hours(24);
const OLD: Duration = Duration::from_hours(30);
const YOUNG: Duration = Duration::from_hours(23);

fn path(pipeline: &Pipeline, key: &str) -> PathBuf {
    pipeline.bucket.path().join(key)
}

/// Writes an object that looks as if it were `age` old.
fn plant(pipeline: &Pipeline, key: &str, age: Duration) -> PathBuf {
    let path = path(pipeline, key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "not a picture").unwrap();
    set_age(&path, age);
    path
}

fn set_age(path: &Path, age: Duration) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::from(domain::clock::now() - age))
        .unwrap();
}

async fn deep_verify(pipeline: &Pipeline) -> (Vec<Finding>, Progress) {
    pipeline.deep(GRACE).await
}

fn job_id(id: &str) -> JobId {
    id.parse().unwrap()
}

fn with_photo() -> Value {
    let mut body = small_job();
    body["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    body
}

/// A job that waits for its `run_at`, in an hour.
async fn waiting_job(pipeline: &Pipeline) -> JobId {
    let mut body = with_photo();
    let later = domain::clock::now() + Duration::from_hours(1);
    body["run_at"] = json!(later.format(&Rfc3339).unwrap());
    job_id(&pipeline.submit(&body).await)
}

/// Adds a call to a job, as a worker leaves it that died during the call; with `named`: after it
/// named an original with these bytes.
async fn add_call(pipeline: &Pipeline, job: JobId, named: Option<&[u8]>) -> CallId {
    let mut owner = pipeline.owner().await;
    let call = CallId::new();
    sqlx::query("UPDATE jobs SET fence = 1, calls_started = calls_started + 1 WHERE id = $1")
        .bind(job.0)
        .execute(&mut owner)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO calls (id, tenant_id, job_id, fence, output_idx, provider, model, ended_at, outcome, object_key, sha256, bytes, media_type, width, height)
         SELECT $1, tenant_id, id, 1, 0, 'vertex', 'a model', CASE WHEN $3 THEN now() END, CASE WHEN $3 THEN 'ok' END,
                CASE WHEN $3 THEN $4 END, CASE WHEN $3 THEN sha256($5) END, CASE WHEN $3 THEN length($5) END, CASE WHEN $3 THEN 'image/png' END,
                CASE WHEN $3 THEN 1 END, CASE WHEN $3 THEN 1 END
         FROM jobs WHERE id = $2",
    )
    .bind(call.0)
    .bind(job.0)
    .bind(named.is_some())
    .bind(original_key(pipeline.tenant, call))
    .bind(named.unwrap_or_default())
    .execute(&mut owner)
    .await
    .unwrap();
    owner.close().await.unwrap();
    call
}

async fn cancel(pipeline: &Pipeline, job: JobId) {
    let (_, canceled) = pipeline
        .post(&format!("/v1/jobs/{job}/cancel"), &json!({}))
        .await;
    assert_eq!(canceled["state"], "canceled", "{canceled}");
}

#[tokio::test]
async fn a_missing_or_altered_file_is_reported() {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["outputs"] = json!(3);
    pipeline.ended(&pipeline.submit(&body).await).await;
    let (findings, progress) = deep_verify(&pipeline).await;
    assert_eq!(findings, []);
    assert_eq!((progress.read, progress.listed), (9, 9));

    let renditions: Vec<String> = sqlx::query_scalar(
        "SELECT object_key FROM artifacts WHERE role = 'rendition' ORDER BY output_idx",
    )
    .fetch_all(&pipeline.reader)
    .await
    .unwrap();
    let [gone, flipped, cut] = [0, 1, 2].map(|index: usize| path(&pipeline, &renditions[index]));
    let kept = [&gone, &flipped, &cut].map(|path| std::fs::read(path).unwrap());
    std::fs::remove_file(&gone).unwrap();
    let mut bytes = kept[1].clone();
    bytes[100] ^= 1;
    std::fs::write(&flipped, bytes).unwrap();
    std::fs::write(&cut, &kept[2][..100]).unwrap();
    let (findings, _) = deep_verify(&pipeline).await;
    for (key, expected) in renditions.iter().zip([
        "is not in the bucket",
        "has other bytes",
        "has 100 bytes instead of",
    ]) {
        let names_it = |finding: &&Finding| finding.text.contains(key.as_str());
        let found: Vec<&Finding> = findings.iter().filter(names_it).collect();
        assert!(
            found.len() == 1 && found[0].invariant == "I7" && found[0].text.contains(expected),
            "{findings:#?}"
        );
    }
    assert_eq!(findings.len(), 3);

    for (path, bytes) in [gone, flipped, cut].iter().zip(kept) {
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(deep_verify(&pipeline).await.0, []);
    pipeline.close().await;
}

#[tokio::test]
async fn an_original_that_can_be_adopted_must_exist() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let job = waiting_job(&pipeline).await;
    let call = add_call(&pipeline, job, Some(b"not a picture")).await;
    let (findings, _) = deep_verify(&pipeline).await;
    assert!(
        findings.len() == 1 && findings[0].text.contains(&call.0.to_string()),
        "{findings:#?}"
    );
    plant(&pipeline, &original_key(pipeline.tenant, call), OLD);
    assert_eq!(deep_verify(&pipeline).await.0, []);
    cancel(&pipeline, job).await;
    pipeline.close().await;
}

#[tokio::test]
async fn an_old_object_without_a_row_is_reported() {
    let pipeline = Pipeline::start().await;
    pipeline.ended(&pipeline.submit(&with_photo()).await).await;
    for file in objects(pipeline.bucket.path()) {
        set_age(&file, OLD);
    }
    let tenant = pipeline.tenant;
    plant(
        &pipeline,
        &original_key(tenant, CallId::new()),
        Duration::ZERO,
    );
    assert_eq!(deep_verify(&pipeline).await.0, []);
    let unnamed = original_key(tenant, CallId::new());
    let of_another = original_key(TenantId::new(), CallId::new());
    let strange = "notes/read me".to_owned();
    for key in [&unnamed, &of_another, &strange] {
        plant(&pipeline, key, OLD);
    }
    let (findings, _) = deep_verify(&pipeline).await;
    assert_eq!(findings.len(), 3, "{findings:#?}");
    for (key, expected) in [
        (unnamed, "no row names it"),
        (of_another, "its key belongs to no tenant"),
        (strange, "its key belongs to no tenant"),
    ] {
        assert!(
            findings.iter().any(|finding| finding.invariant == "I19"
                && finding.text.starts_with(&key)
                && finding.text.contains(expected)),
            "{key}: {findings:#?}"
        );
    }
    pipeline.close().await;
}

/// No worker runs, so nothing deletes the file.
#[tokio::test]
async fn an_object_with_a_planned_deletion_is_not_unnamed() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let upload = pipeline.request(Method::POST, "/v1/uploads").body(PHOTO);
    let upload: Value = upload.send().await.unwrap().json().await.unwrap();
    let address = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
    let answer = pipeline.request(Method::DELETE, &address).send().await;
    assert_eq!(answer.unwrap().status(), StatusCode::NO_CONTENT);
    let files = objects(pipeline.bucket.path());
    assert_eq!(files.len(), 1);
    set_age(&files[0], OLD);
    assert_eq!(deep_verify(&pipeline).await.0, []);

    // It is overdue when the time to delete it is over for longer than the grace.
    let (findings, _) = pipeline.deep(Duration::ZERO).await;
    let [finding] = &findings[..] else {
        panic!("{findings:#?}");
    };
    assert_eq!(finding.invariant, "I17");
    assert!(finding.text.contains("it was to be deleted at"));
    pipeline.close().await;
}

/// Two workers sweep at the same time, every few milliseconds.
#[tokio::test]
async fn the_sweeper_deletes_only_objects_that_no_row_names() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    pipeline.config.timing.sweep_every = Duration::from_millis(30);
    pipeline.start_worker().await;
    pipeline.start_worker().await;
    let tenant = pipeline.tenant;
    let ended = pipeline.submit(&with_photo()).await;
    pipeline.ended(&ended).await;
    let ended = job_id(&ended);
    let waiting = waiting_job(&pipeline).await;
    let named = add_call(&pipeline, waiting, Some(b"not a picture")).await;
    let called = add_call(&pipeline, waiting, None).await;
    // The row comes before its object here: in the other order the sweeper could delete it in
    // between.
    let named_objects = objects(pipeline.bucket.path());
    for file in &named_objects {
        set_age(file, OLD);
    }
    assert_eq!(
        named_objects.len(),
        5,
        "two inputs, an original, a rendition, its thumbnail"
    );
    let kept = [
        plant(&pipeline, &original_key(tenant, named), OLD),
        plant(&pipeline, &original_key(tenant, CallId::new()), YOUNG),
        plant(&pipeline, "notes/read me", OLD),
        plant(
            &pipeline,
            &original_key(TenantId::new(), CallId::new()),
            OLD,
        ),
    ];
    let kept_while_waiting = [
        plant(&pipeline, &original_key(tenant, called), OLD),
        plant(
            &pipeline,
            &rendition_key(tenant, waiting, 1, 0, Format::Png),
            OLD,
        ),
    ];
    let orphans = [
        original_key(tenant, CallId::new()),
        rendition_key(tenant, ended, 7, 0, Format::Png),
        input_key(tenant, ended, 5),
        input_key(tenant, JobId::new(), 0),
        format!("t/{}/old/thing", tenant.0),
    ];
    let swept = async |paths: &[PathBuf]| {
        pipeline
            .until(
                "the orphans are swept",
                Duration::from_secs(20),
                async || (!paths.iter().any(|path| path.exists())).then_some(()),
            )
            .await;
    };
    // When the second round is swept, a whole sweep has run since everything else was planted.
    for _ in 0..2 {
        let planted = orphans.clone().map(|key| plant(&pipeline, &key, OLD));
        swept(&planted).await;
    }
    for path in named_objects.iter().chain(&kept).chain(&kept_while_waiting) {
        assert!(path.exists(), "{} was swept away", path.display());
    }

    cancel(&pipeline, waiting).await;
    swept(&kept_while_waiting).await;
    for path in named_objects.iter().chain(&kept) {
        assert!(path.exists(), "{} was swept away", path.display());
    }
    let (findings, _) = deep_verify(&pipeline).await;
    assert!(
        findings.len() == 2
            && findings
                .iter()
                .all(|finding| finding.text.contains("the sweeper does not remove it")),
        "{findings:#?}"
    );
    pipeline.close().await;
}
