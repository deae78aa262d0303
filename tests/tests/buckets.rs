//! What is promised of a bucket, demanded of every kind of it: a folder, S3, and S3 under a prefix.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::bucket::{Address, Bucket, BucketError, Listed, Stored};
use futures::{StreamExt, TryStreamExt};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tests::s3::{self, Mood, S3};

/// One of each kind, with what serves it.
struct Kind {
    name: &'static str,
    bucket: Bucket,
    _served: (tempfile::TempDir, Option<S3>),
}

fn open(address: &Address) -> Bucket {
    Bucket::open(address, SecretString::from("key")).unwrap()
}

async fn served() -> (tempfile::TempDir, S3) {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    (folder, s3)
}

async fn every_kind() -> [Kind; 3] {
    let folder = tempfile::tempdir().unwrap();
    let local = open(&Address::Folder(folder.path().to_owned()));
    let (of_s3, s3) = served().await;
    let (of_prefixed, prefixed) = served().await;
    [
        Kind {
            name: "folder",
            bucket: local,
            _served: (folder, None),
        },
        Kind {
            name: "S3",
            bucket: open(&s3.address()),
            _served: (of_s3, Some(s3)),
        },
        Kind {
            name: "S3 under a prefix",
            bucket: open(&s3::address(&prefixed.endpoint(), "of/ours")),
            _served: (of_prefixed, Some(prefixed)),
        },
    ]
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn list(bucket: &Bucket) -> Vec<Listed> {
    let mut objects = bucket.list();
    let mut listed: Vec<Listed> = objects.by_ref().try_collect().await.unwrap();
    assert!(objects.next().await.is_none(), "the end is told again");
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    listed
}

#[tokio::test]
async fn a_key_is_written_once() {
    for Kind { name, bucket, .. } in &every_kind().await {
        let first = bucket.put_new("t/1/a", bytes("one")).await.unwrap();
        let sha256 = Sha256::digest("one").into();
        assert_eq!(first, Stored { sha256, bytes: 3 }, "{name}");
        let again = bucket.put_new("t/1/a", bytes("one")).await.unwrap();
        assert_eq!(again, first, "{name}: the same bytes are success");
        let another = bucket.put_new("t/1/a", bytes("two")).await;
        assert!(
            matches!(another, Err(BucketError::TakenByAnother(_))),
            "{name}: {another:?}"
        );
        assert_eq!(bucket.get("t/1/a").await.unwrap().unwrap(), "one", "{name}");
        bucket.examine().await.unwrap();
        assert_eq!(list(bucket).await.len(), 1, "{name}: it tidies up");
    }
}

#[tokio::test]
async fn an_object_is_listed_and_measured_as_it_was_stored() {
    for Kind { name, bucket, .. } in &every_kind().await {
        let large = Bytes::from(vec![7; 9_000_000]);
        let stored = bucket.put_new("t/2/b.png", large.clone()).await.unwrap();
        bucket.put_new("t/1/a", bytes("one!")).await.unwrap();
        let listed = list(bucket).await;
        let named = |key: &str| listed.iter().find(|object| object.key == key).unwrap();
        assert_eq!(named("t/1/a").bytes, 4, "{name}");
        assert_eq!(named("t/2/b.png").bytes, 9_000_000, "{name}");
        let age = common::clock::now() - named("t/1/a").modified;
        assert!(age.abs() < Duration::from_mins(1), "{name}: {age}");
        assert_eq!(
            bucket.measure("t/2/b.png").await.unwrap(),
            Some(stored),
            "{name}"
        );
        assert_eq!(
            bucket.get("t/2/b.png").await.unwrap(),
            Some(large),
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_no_error() {
    for Kind { name, bucket, .. } in &every_kind().await {
        assert_eq!(list(bucket).await, [], "{name}");
        assert_eq!(bucket.get("nothing").await.unwrap(), None, "{name}");
        assert_eq!(bucket.measure("nothing").await.unwrap(), None, "{name}");
        bucket.delete("nothing").await.unwrap();
        bucket.put_new("something", bytes("one")).await.unwrap();
        bucket.delete("something").await.unwrap();
        assert_eq!(bucket.get("something").await.unwrap(), None, "{name}");
        bucket.put_new("something", bytes("two")).await.unwrap();
    }
}

#[tokio::test]
async fn more_objects_than_a_page_are_all_listed() {
    let (folder, s3) = served().await;
    let bucket = open(&s3.address());
    for number in 0..1_050 {
        let tenant = folder.path().join(format!("pictures/t/{}", number % 7));
        std::fs::create_dir_all(&tenant).unwrap();
        std::fs::write(tenant.join(number.to_string()), "one").unwrap();
    }
    assert_eq!(list(&bucket).await.len(), 1_050);
}

#[tokio::test]
async fn a_prefix_keeps_others_out() {
    let (_folder, s3) = served().await;
    let [ours, theirs] =
        ["ours", "theirs"].map(|prefix| open(&s3::address(&s3.endpoint(), prefix)));
    ours.put_new("t/1/a", bytes("one")).await.unwrap();
    theirs.put_new("t/1/a", bytes("two")).await.unwrap();
    assert_eq!(list(&ours).await.len(), 1);
    assert_eq!(ours.get("t/1/a").await.unwrap().unwrap(), "one");
    assert_eq!(list(&open(&s3.address())).await.len(), 2);
}

#[tokio::test]
async fn a_wrong_secret_is_refused_in_words() {
    let (_folder, s3) = served().await;
    let variables = s3::variables(&s3.endpoint()).map(|(name, value)| {
        let value = if name == "AWS_SECRET_ACCESS_KEY" {
            "guessed".to_owned()
        } else {
            value
        };
        (name.to_owned(), value)
    });
    let bucket = open(&Address::parse("s3://pictures", variables).unwrap());
    let refused = bucket
        .put_new("t/1/a", bytes("one"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("403") && !refused.contains("guessed"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_may_be_repeated() {
    let (_folder, s3) = served().await;
    let bucket = open(&s3.address());
    s3.set_mood(Mood::SwallowsReplies);
    bucket.put_new("t/1/a", bytes("one")).await.unwrap_err();
    s3.set_mood(Mood::Well);
    assert_eq!(
        bucket.get("t/1/a").await.unwrap().unwrap(),
        "one",
        "it was done"
    );
    assert_eq!(
        bucket.put_new("t/1/a", bytes("one")).await.unwrap().bytes,
        3
    );
    let another = bucket.put_new("t/1/a", bytes("two")).await;
    assert!(
        matches!(another, Err(BucketError::TakenByAnother(_))),
        "{another:?}"
    );
}

#[tokio::test]
async fn a_store_that_is_away_or_hangs_is_waited_for_no_longer_than_a_bound() {
    let (folder, s3) = served().await;
    let bucket = open(&s3.address());
    let bounded = async |what| {
        let asked = Instant::now();
        bucket.put_new("t/1/a", bytes("one")).await.unwrap_err();
        bucket.get("t/1/a").await.unwrap_err();
        let took = asked.elapsed();
        // Two requests: of 2 s each here, and as many again.
        assert!(took < Duration::from_secs(25), "{what}: {took:?}");
    };
    s3.set_mood(Mood::Refuses);
    bounded("answers 503").await;
    s3.set_mood(Mood::Hangs);
    bounded("hangs").await;
    s3.set_mood(Mood::Well);
    bucket.put_new("t/1/a", bytes("one")).await.unwrap();
    let port = s3.socket_address();
    s3.stop().await;
    bounded("is gone").await;
    let _s3 = S3::start_at(port, folder.path()).await;
    assert_eq!(bucket.get("t/1/a").await.unwrap().unwrap(), "one");
}

/// What the store was given and what it gives back are not the same: the write does not count, and may be repeated.
#[tokio::test]
async fn what_cannot_be_read_back_was_not_written() {
    let (folder, s3) = served().await;
    let bucket = open(&s3.address());
    s3.set_mood(Mood::Garbles);
    let garbled = bucket.put_new("t/1/a", bytes("one")).await;
    assert!(
        matches!(garbled, Err(BucketError::Garbled(_))),
        "{garbled:?}"
    );
    assert!(
        !folder.path().join("pictures/t/1/a").exists(),
        "it was removed"
    );
    s3.set_mood(Mood::Well);
    bucket.put_new("t/1/a", bytes("one")).await.unwrap();
}
