//! Uploads: encoded again, stored in every kind of bucket, and named in jobs until their owner deletes them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::id::UploadId;
use domain::retention::Retention;
use imaging::inspect;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::disk::objects;
use tests::gcs::{Gcs, oracle as gcs_oracle};
use tests::pipeline::small_job;
use tests::s3::S3;
use tests::{Options, Pipeline};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");
const PLACE: &[u8] = b"51.5072N 0.1276W";

/// A photo with a comment that holds the place where it was taken.
fn photo() -> Vec<u8> {
    let mut photo = PHOTO[..2].to_vec();
    photo.extend([0xFF, 0xFE, 0, 2 + 16]);
    photo.extend(PLACE);
    photo.extend(&PHOTO[2..]);
    photo
}

/// Whether a file still holds the place.
fn has_place(file: &[u8]) -> bool {
    file.windows(PLACE.len()).any(|window| window == PLACE)
}

/// Sends a request. Returns the status and the JSON of the answer; null if it has no body.
async fn ask(
    pipeline: &Pipeline,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> (StatusCode, Value) {
    let answer = pipeline.request(method, path).body(body).send().await;
    let answer = answer.unwrap();
    let status = answer.status();
    (status, answer.json().await.unwrap_or_default())
}

/// A job whose input is this upload.
fn job_with(upload: &Value) -> Value {
    let mut body = small_job();
    body["inputs"] = json!([{"upload": upload["id"], "role": "product"}]);
    body
}

fn path(upload: &Value) -> String {
    format!("/v1/uploads/{}", upload["id"].as_str().unwrap())
}

#[tokio::test]
async fn an_upload_can_be_used_until_its_owner_deletes_it() {
    let mut pipeline = Pipeline::start().await;
    let retention = pipeline
        .request(Method::PUT, "/v1/retention")
        .json(&Retention::EPHEMERAL);
    assert_eq!(retention.send().await.unwrap().status(), StatusCode::OK);

    let post = "/v1/uploads?name=the%20bottle";
    let (status, upload) = ask(&pipeline, Method::POST, post, photo()).await;
    assert_eq!(status, StatusCode::CREATED, "{upload}");
    assert_eq!(upload["name"], "the bottle");
    assert_eq!(upload["media_type"], "image/jpeg");
    let kept = pipeline.download(upload["url"].as_str().unwrap()).await;
    assert_eq!(upload["bytes"], kept.len());
    assert!(has_place(&photo()) && !has_place(&kept));
    let (_, listed) = pipeline.get("/v1/uploads").await;
    assert_eq!(listed["data"][0]["id"], upload["id"]);
    assert_eq!(listed["has_more"], false);

    for _ in 0..2 {
        let job = pipeline.submit(&job_with(&upload)).await;
        let job = pipeline.ended(&job).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    pipeline.stop_workers().await;
    let open = pipeline.submit(&job_with(&upload)).await;
    let (status, problem) = ask(&pipeline, Method::DELETE, &path(&upload), Vec::new()).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(problem["code"], "upload_in_use");
    pipeline.start_worker().await;
    let job = pipeline.ended(&open).await;
    assert_eq!(job["state"], "succeeded", "{job}");

    for _ in 0..2 {
        let deleted = ask(&pipeline, Method::DELETE, &path(&upload), Vec::new()).await;
        assert_eq!(deleted.0, StatusCode::NO_CONTENT);
    }
    let receipt = pipeline.until(
        "the upload has a receipt",
        Duration::from_secs(20),
        async || {
            let (_, receipts) = pipeline.get("/v1/receipts?limit=100").await;
            let receipts = receipts["data"].as_array().unwrap().clone();
            (receipts.into_iter()).find(|receipt| receipt["upload"] == upload["id"])
        },
    );
    let receipt = receipt.await;
    assert_eq!(
        (&receipt["class"], &receipt["job"]),
        (&json!("upload"), &Value::Null)
    );
    let link = pipeline.anonymous(Method::GET, upload["url"].as_str().unwrap());
    assert_eq!(link.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let (status, problem) = pipeline.get(&path(&upload)).await;
    assert_eq!(status, StatusCode::GONE, "{problem}");
    let (status, problem) = pipeline.post("/v1/jobs", &job_with(&upload)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["errors"][0]["pointer"], "/inputs/0/upload");
    let (findings, _) = pipeline.deep(Duration::ZERO).await;
    assert_eq!(findings, []);
    pipeline.close().await;
}

/// A photo as a phone writes it: turned by EXIF, and with the place where it was taken.
fn sideways() -> Vec<u8> {
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let photo = photo();
    let mut turned = photo[..2].to_vec();
    turned.extend([0xFF, 0xE1, 0, u8::try_from(2 + exif.len()).unwrap()]);
    turned.extend(exif);
    turned.extend(&photo[2..]);
    turned
}

#[tokio::test]
async fn the_model_gets_the_same_file_inline_or_uploaded() {
    let pipeline = Pipeline::start().await;
    let (status, upload) = ask(&pipeline, Method::POST, "/v1/uploads", sideways()).await;
    assert_eq!(status, StatusCode::CREATED, "{upload}");
    let kept = pipeline.download(upload["url"].as_str().unwrap()).await;
    let mut inline = small_job();
    inline["inputs"] = json!([{"data": STANDARD.encode(sideways()), "media_type": "image/jpeg", "role": "product"}]);
    for body in [job_with(&upload), inline] {
        let job = pipeline.ended(&pipeline.submit(&body).await).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }

    let journal = pipeline.fake.journal();
    let sent: Vec<String> = (journal.calls().iter())
        .map(|call| String::from_utf8(journal.raw_body(call.number).unwrap().into()).unwrap())
        .collect();
    assert_eq!(sent.len(), 2);
    for body in sent {
        assert!(
            body.contains(&STANDARD.encode(&kept)),
            "the upload's bytes are sent"
        );
    }
    let (_, stored) = inspect(PHOTO).unwrap();
    let (_, shown) = inspect(&kept).unwrap();
    assert_eq!((shown.width, shown.height), (stored.height, stored.width));
    assert!(!has_place(&kept));
    pipeline.close().await;
}

#[tokio::test]
async fn a_damaged_image_is_refused_before_credits_are_held() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let whole = photo();
    let mut cut = whole[..whole.len() / 2].to_vec();
    cut.extend([0xFF, 0xD9]);
    let files_and_words: [(&[u8], &str); 8] = [
        (&cut, "JPEG"),
        (&whole[..whole.len() / 2], "JPEG"),
        (b"", "empty"),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "GIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif", "AVIF"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip"),
        (STANDARD.encode(PHOTO).leak().as_bytes(), "base64"),
    ];
    for (file, word) in files_and_words {
        let mut body = small_job();
        body["inputs"] =
            json!([{"data": STANDARD.encode(file), "media_type": "image/jpeg", "role": "product"}]);
        for path in ["/v1/jobs", "/v1/jobs?dry_run=true"] {
            let (status, problem) = pipeline.post(path, &body).await;
            assert_eq!(
                status,
                StatusCode::UNPROCESSABLE_ENTITY,
                "{word}: {problem}"
            );
            assert_eq!(problem["errors"][0]["pointer"], "/inputs/0/data");
            let detail = problem["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains(word), "{word}: {detail}");
        }
        let (status, problem) = ask(&pipeline, Method::POST, "/v1/uploads", file.to_vec()).await;
        assert_eq!(
            status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{word}: {problem}"
        );
        assert!(
            problem["detail"].as_str().unwrap().contains(word),
            "{word}: {problem}"
        );
    }
    assert_eq!(pipeline.balance().await, (1_000, 0));
    assert_eq!(objects(pipeline.bucket.path()).len(), 0);
    pipeline.close().await;
}

#[tokio::test]
async fn an_upload_is_idempotent_and_must_be_an_image() {
    let pipeline = Pipeline::start().await;
    let post = async || {
        let request = pipeline.request(Method::POST, "/v1/uploads");
        let request = request.header("Idempotency-Key", "one").body(photo());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json::<Value>().await.unwrap())
    };
    let (one, other) = tokio::join!(post(), post());
    let again = post().await;
    for answer in [&other, &again] {
        assert_eq!(&one, answer);
    }
    assert_eq!(one.0, StatusCode::CREATED);
    assert_eq!(objects(pipeline.bucket.path()).len(), 1);

    let request = pipeline.request(Method::POST, "/v1/uploads");
    let request = request.header("Idempotency-Key", "one").body(PHOTO);
    let reused = request.send().await.unwrap();
    assert_eq!(reused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let mut bomb = photo();
    bomb.truncate(3_000);
    for (body, status) in [
        (Vec::new(), StatusCode::UNPROCESSABLE_ENTITY),
        (b"<svg/>".to_vec(), StatusCode::UNPROCESSABLE_ENTITY),
        (bomb, StatusCode::UNPROCESSABLE_ENTITY),
        (vec![0; 20 * 1024 * 1024 + 1], StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answer = ask(&pipeline, Method::POST, "/v1/uploads", body).await;
        assert_eq!(answer.0, status, "{}", answer.1);
        assert!(answer.1["detail"].as_str().unwrap().len() > 20);
    }
    let unnamed = format!("/v1/uploads?name={}", "x".repeat(201));
    let (status, _) = ask(&pipeline, Method::POST, &unnamed, photo()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        objects(pipeline.bucket.path()).len(),
        1,
        "nothing is left behind"
    );
    let (status, problem) = ask(&pipeline, Method::POST, "/v1/uploads/direct", Vec::new()).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (_, uploads) = pipeline.get("/v1/uploads").await;
    assert_eq!(uploads["direct_uploads"], false);
    assert_eq!(problem["code"], "no_direct_uploads");
    pipeline.close().await;
}

async fn check_direct_upload(pipeline: Pipeline) {
    let (status, direct) = ask(&pipeline, Method::POST, "/v1/uploads/direct", Vec::new()).await;
    assert_eq!(status, StatusCode::OK, "{direct}");
    let (_, uploads) = pipeline.get("/v1/uploads").await;
    assert_eq!(uploads["direct_uploads"], true);
    let complete = direct["links"]["complete"].as_str().unwrap();
    let (status, problem) = ask(&pipeline, Method::POST, complete, Vec::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    let put = reqwest::Client::builder().build().unwrap();
    let put = put.put(direct["url"].as_str().unwrap()).body(photo());
    let put = put.send().await.unwrap();
    assert!(put.status().is_success(), "{put:?}");

    let named = format!("{complete}?name=bottle");
    let complete = async || ask(&pipeline, Method::POST, &named, Vec::new()).await;
    let (one, other) = tokio::join!(complete(), complete());
    for (status, upload) in [&one, &other, &complete().await] {
        assert_eq!(*status, StatusCode::CREATED, "{upload}");
        assert_eq!(upload["id"], direct["id"]);
        assert_eq!(upload["name"], "bottle");
    }
    let upload = one.1;
    let kept = pipeline.download(upload["url"].as_str().unwrap()).await;
    assert!(!has_place(&kept));
    let job = pipeline.submit(&job_with(&upload)).await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
    // The file as it was sent is deleted.
    let (findings, progress) = pipeline.deep(Duration::ZERO).await;
    assert_eq!((findings, progress.listed), (Vec::new(), 4));

    let never = format!("/v1/uploads/{}/complete", UploadId::new());
    let (status, _) = ask(&pipeline, Method::POST, &never, Vec::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    pipeline.close().await;
}

#[tokio::test]
async fn a_file_goes_straight_into_s3() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    let options = Options {
        bucket: Some(s3.address()),
        ..Options::default()
    };
    check_direct_upload(Pipeline::start_with(options).await).await;
    s3.stop().await;
}

#[tokio::test]
async fn a_file_goes_straight_into_google_cloud_storage() {
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    assert!(gcs_oracle("key", &account, "").status.success());
    let gcs = Gcs::start().await;
    let more = [("GOOGLE_SERVICE_ACCOUNT", account.to_str().unwrap())];
    let options = Options {
        bucket: Some(gcs.address("of/ours", &more)),
        ..Options::default()
    };
    check_direct_upload(Pipeline::start_with(options).await).await;
}
