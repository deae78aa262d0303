//! The guarantees of a bucket, tested with each kind: a folder, S3 and Google Cloud Storage, the latter two also under a prefix.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use bucket::{
    Address, Bucket, BucketError, ContentDisposition, FileKind, Link, ListedObject, StoredObject,
};
use bytes::Bytes;
use domain::clock;
use futures::{StreamExt, TryStreamExt, stream};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tests::gcs::Gcs;
use tests::s3::{self, Mood, S3};

/// A bucket of one kind, and the server and folder behind it.
struct Kind {
    name: &'static str,
    bucket: Bucket,
    _server: (tempfile::TempDir, Option<S3>, Option<Gcs>),
}

fn open(address: &Address) -> Bucket {
    Bucket::open(address, SecretString::from("key")).unwrap()
}

async fn start_s3() -> (tempfile::TempDir, S3) {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    (folder, s3)
}

async fn all_kinds() -> [Kind; 5] {
    let folder = tempfile::tempdir().unwrap();
    let local = open(&Address::Folder(folder.path().to_owned()));
    let (of_s3, s3) = start_s3().await;
    let (of_prefixed, prefixed) = start_s3().await;
    let gcs = async |prefix: &str| {
        let gcs = Gcs::start().await;
        let folder = tempfile::tempdir().unwrap();
        (open(&gcs.address(prefix, &[])), (folder, None, Some(gcs)))
    };
    let (google, of_google) = gcs("").await;
    let (google_prefixed, of_google_prefixed) = gcs("of/ours").await;
    [
        Kind {
            name: "folder",
            bucket: local,
            _server: (folder, None, None),
        },
        Kind {
            name: "S3",
            bucket: open(&s3.address()),
            _server: (of_s3, Some(s3), None),
        },
        Kind {
            name: "S3 under a prefix",
            bucket: open(&s3::address(&prefixed.endpoint(), "of/ours")),
            _server: (of_prefixed, Some(prefixed), None),
        },
        Kind {
            name: "GCS",
            bucket: google,
            _server: of_google,
        },
        Kind {
            name: "GCS under a prefix",
            bucket: google_prefixed,
            _server: of_google_prefixed,
        },
    ]
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn list(bucket: &Bucket) -> Vec<ListedObject> {
    let mut objects = bucket.list();
    let mut listed: Vec<ListedObject> = objects.by_ref().try_collect().await.unwrap();
    assert!(
        objects.next().await.is_none(),
        "a stream that has ended stays ended"
    );
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    listed
}

#[tokio::test]
async fn a_key_is_written_once() {
    for Kind { name, bucket, .. } in &all_kinds().await {
        let first = bucket.put_new("t/1/a", bytes("one")).await.unwrap();
        let sha256 = Sha256::digest("one").into();
        assert_eq!(first, StoredObject { sha256, bytes: 3 }, "{name}");
        let again = bucket.put_new("t/1/a", bytes("one")).await.unwrap();
        assert_eq!(again, first, "{name}: the same bytes are success");
        let another = bucket.put_new("t/1/a", bytes("two")).await;
        assert!(
            matches!(another, Err(BucketError::TakenByAnother(_))),
            "{name}: {another:?}"
        );
        assert_eq!(bucket.get("t/1/a").await.unwrap().unwrap(), "one", "{name}");
        bucket.probe().await.unwrap();
        assert_eq!(list(bucket).await.len(), 1, "{name}: it tidies up");
    }
}

#[tokio::test]
async fn listing_and_measuring_agree_with_what_was_stored() {
    for Kind { name, bucket, .. } in &all_kinds().await {
        let large = Bytes::from(vec![7; 9_000_000]);
        let stored = bucket.put_new("t/2/b.png", large.clone()).await.unwrap();
        bucket.put_new("t/1/a", bytes("one!")).await.unwrap();
        let listed = list(bucket).await;
        let named = |key: &str| listed.iter().find(|object| object.key == key).unwrap();
        assert_eq!(named("t/1/a").bytes, 4, "{name}");
        assert_eq!(named("t/2/b.png").bytes, 9_000_000, "{name}");
        let age = clock::now() - named("t/1/a").modified;
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
async fn a_missing_object_is_not_an_error() {
    for Kind { name, bucket, .. } in &all_kinds().await {
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
async fn all_pages_are_listed_at_s3() {
    let (folder, s3) = start_s3().await;
    let bucket = open(&s3.address());
    for number in 0..1_050 {
        let tenant = folder.path().join(format!("pictures/t/{}", number % 7));
        std::fs::create_dir_all(&tenant).unwrap();
        std::fs::write(tenant.join(number.to_string()), "one").unwrap();
    }
    assert_eq!(list(&bucket).await.len(), 1_050);
}

#[tokio::test]
async fn all_pages_are_listed_at_google() {
    let gcs = Gcs::start().await;
    let bucket = open(&gcs.address("", &[]));
    let put = async |number: usize| bucket.put_new(&format!("t/{number}"), bytes("one")).await;
    let written = stream::iter(0..1_050).map(put).buffer_unordered(16);
    let written: Vec<StoredObject> = written.try_collect().await.unwrap();
    assert_eq!((written.len(), list(&bucket).await.len()), (1_050, 1_050));
}

/// Follows a link by a plain HTTP client. Returns the status, the content type and the content disposition.
async fn follow(url: &str) -> (u16, Option<String>, Option<String>) {
    let answer = reqwest::get(url).await.unwrap();
    let header = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
    (
        answer.status().as_u16(),
        header("content-type"),
        header("content-disposition"),
    )
}

async fn link(bucket: &Bucket, seconds: u64) -> String {
    let shown = ContentDisposition {
        media_type: "image/png",
        file_name: "Größe 2.png",
    };
    let lifetime = Duration::from_secs(seconds);
    let link = bucket.link("t/1/a.png", shown, clock::now(), lifetime);
    match link.await.unwrap() {
        Link::Store(url) => url,
        Link::Local(path) => panic!("{path}"),
    }
}

/// Links to folders are served by our own API: `pipeline/isolation.rs` tests them. The fake of Google Cloud Storage checks no
/// signatures: `gcs_links.rs` compares ours with those of Google's library.
#[tokio::test]
async fn links_signed_for_s3_open_one_file_and_expire() {
    for prefix in ["", "of/ours"] {
        let (_folder, s3) = start_s3().await;
        let bucket = open(&s3::address(&s3.endpoint(), prefix));
        bucket.put_new("t/1/a.png", bytes("one")).await.unwrap();
        bucket.put_new("t/1/b.png", bytes("two")).await.unwrap();
        let url = link(&bucket, 60).await;
        let (status, media_type, disposition) = follow(&url).await;
        assert_eq!(status, 200, "{url}");
        assert_eq!(media_type.as_deref(), Some("image/png"));
        assert_eq!(
            disposition.as_deref(),
            Some("attachment; filename=\"Gr__e 2.png\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%202.png")
        );
        let last = if url.ends_with('0') { "1" } else { "0" };
        let forged = format!("{}{last}", &url[..url.len() - 1]);
        for altered in [
            url.replace("/a.png?", "/b.png?"),
            url.replace("Expires=60", "Expires=6000"),
            url.replace("attachment", "inline"),
            forged,
            url.split('?').next().unwrap().to_owned(),
        ] {
            assert_eq!(follow(&altered).await.0, 403, "{altered}");
        }
        let short = link(&bucket, 1).await;
        tokio::time::timeout(Duration::from_secs(20), async {
            while follow(&short).await.0 == 200 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(follow(&short).await.0, 403);
    }
}

#[tokio::test]
async fn a_bucket_can_be_served_through_the_api() {
    let (_folder, s3) = start_s3().await;
    let bucket = open(&s3.address()).serve_through_api();
    let shown = ContentDisposition {
        media_type: "image/png",
        file_name: "a.png",
    };
    let link = bucket.link("t/1/a.png", shown, clock::now(), Duration::from_mins(1));
    assert!(
        matches!(link.await.unwrap(), Link::Local(path) if path.starts_with("/files/t/1/a.png?"))
    );
}

#[tokio::test]
async fn prefixes_are_separate() {
    let (_folder, s3) = start_s3().await;
    let [ours, theirs] =
        ["ours", "theirs"].map(|prefix| open(&s3::address(&s3.endpoint(), prefix)));
    ours.put_new("t/1/a", bytes("one")).await.unwrap();
    theirs.put_new("t/1/a", bytes("two")).await.unwrap();
    assert_eq!(list(&ours).await.len(), 1);
    assert_eq!(ours.get("t/1/a").await.unwrap().unwrap(), "one");
    assert_eq!(list(&open(&s3.address())).await.len(), 2);
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_not_shown() {
    let (_folder, s3) = start_s3().await;
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
    let (_folder, s3) = start_s3().await;
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
async fn requests_to_a_hanging_store_time_out() {
    let (folder, s3) = start_s3().await;
    let bucket = open(&s3.address());
    let bounded = async |what| {
        let started = Instant::now();
        bucket.put_new("t/1/a", bytes("one")).await.unwrap_err();
        bucket.get("t/1/a").await.unwrap_err();
        let took = started.elapsed();
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

/// Bytes that change on the way are refused by the store, and nothing is stored.
#[tokio::test]
async fn a_store_refuses_bytes_with_another_checksum() {
    let (_folder, s3) = start_s3().await;
    let gcs = Gcs::start().await;
    let buckets = [open(&s3.address()), open(&gcs.address("", &[]))];
    s3.set_mood(Mood::ReceivesOtherBytes);
    gcs.set_receives_other_bytes(true);
    for bucket in &buckets {
        let refused = bucket.put_new("t/1/a", bytes("one")).await.unwrap_err();
        assert!(
            matches!(refused, BucketError::Store(_)) && refused.is_transient(),
            "{refused:?}"
        );
        assert_eq!(bucket.get("t/1/a").await.unwrap(), None);
    }
    s3.set_mood(Mood::Well);
    gcs.set_receives_other_bytes(false);
    for bucket in &buckets {
        bucket.put_new("t/1/a", bytes("one")).await.unwrap();
        assert_eq!(bucket.get("t/1/a").await.unwrap().unwrap(), "one");
    }
}

/// A store that answers with the checksum of what it has stored is not asked for the object. An object that was there
/// already is compared.
#[tokio::test]
async fn what_a_store_verified_is_not_read_back() {
    let (_folder, s3) = start_s3().await;
    let gcs = Gcs::start().await;
    let buckets = [open(&s3.address()), open(&gcs.address("of/ours", &[]))];
    let gets = || (s3.gets(), gcs.gets());
    for bucket in &buckets {
        let large = Bytes::from(vec![7; 9_000_000]);
        bucket.put_new("t/1/a", bytes("one")).await.unwrap();
        bucket.put_new("t/1/b", large).await.unwrap();
    }
    assert_eq!(gets(), (0, 0));
    for bucket in &buckets {
        bucket.put_new("t/1/a", bytes("one")).await.unwrap();
    }
    assert_eq!(gets(), (1, 1));
}

/// Some stores refuse the header of a checksum. AWS's own variable turns it off, and the object is read back.
#[tokio::test]
async fn a_store_without_checksums_is_read_back() {
    let (_folder, s3) = start_s3().await;
    let variables = s3::variables(&s3.endpoint()).map(|(name, value)| (name.to_owned(), value));
    let off = ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required");
    let off = (off.0.to_owned(), off.1.to_owned());
    let address = Address::parse("s3://pictures", variables.into_iter().chain([off]));
    let bucket = open(&address.unwrap());
    bucket.put_new("t/1/a", bytes("one")).await.unwrap();
    assert_eq!(s3.gets(), 1);
}

/// Two processes write one key at the same moment: one file, no file half written, none left over.
#[tokio::test]
async fn writes_of_one_key_at_the_same_moment_agree() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = open(&Address::Folder(folder.path().to_owned()));
    let large = Bytes::from(vec![7; 3_000_000]);
    let puts = (0..8).map(|_| bucket.put_new("t/1/a", large.clone()));
    let stored = futures::future::try_join_all(puts).await.unwrap();
    assert!(stored.iter().all(|one| *one == stored[0]));
    let files = std::fs::read_dir(folder.path().join("t/1")).unwrap();
    assert_eq!(files.count(), 1);
    // What a process left that died while it wrote does not disturb.
    std::fs::write(folder.path().join("t/1/b#1"), "half").unwrap();
    bucket.put_new("t/1/b", bytes("one")).await.unwrap();
    assert_eq!(list(&bucket).await.len(), 2);
}

/// The store verifies no checksum and keeps other bytes than were written. The write fails, and can be repeated.
#[tokio::test]
async fn a_write_that_reads_back_differently_fails() {
    let (folder, s3) = start_s3().await;
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

/// Links and pipes in a folder are listed with their kind, but never read, written or removed: a link may lead out of the bucket, and
/// reading a pipe may block for ever.
#[tokio::test]
async fn links_and_pipes_in_a_folder_are_not_followed() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = open(&Address::Folder(folder.path().to_owned()));
    bucket.put_new("t/1/a", bytes("one")).await.unwrap();
    std::fs::write(elsewhere.path().join("secret"), "anothers").unwrap();
    let at = |name: &str| folder.path().join("t").join(name);
    symlink(elsewhere.path(), at("folder")).unwrap();
    symlink(elsewhere.path().join("secret"), at("file")).unwrap();
    symlink(elsewhere.path().join("new"), at("dangling")).unwrap();
    symlink(folder.path(), at("loop")).unwrap();
    mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();

    let listed: Vec<(String, FileKind)> = list(&bucket)
        .await
        .into_iter()
        .map(|object| (object.key, object.kind))
        .collect();
    let link = |name: &str| (format!("t/{name}"), FileKind::SymbolicLink);
    assert_eq!(
        listed,
        [
            ("t/1/a".to_owned(), FileKind::Object),
            link("dangling"),
            link("file"),
            link("folder"),
            link("loop"),
            ("t/pipe".to_owned(), FileKind::Special),
        ]
    );
    for key in [
        "t/folder/secret",
        "t/folder/new",
        "t/file",
        "t/dangling",
        "t/loop/t/1/a",
        "t/pipe",
    ] {
        let tried = async {
            [
                bucket.get(key).await.err(),
                bucket.measure(key).await.err(),
                bucket.put_new(key, bytes("two")).await.err(),
                bucket.delete(key).await.err(),
            ]
        };
        let tried = tokio::time::timeout(Duration::from_secs(10), tried).await;
        for error in tried.unwrap() {
            assert!(
                matches!(error, Some(BucketError::Irregular { .. })),
                "{key}: {error:?}"
            );
        }
    }
    let secret = std::fs::read_to_string(elsewhere.path().join("secret"));
    assert_eq!(secret.unwrap(), "anothers");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    assert!(at("file").is_symlink() && at("pipe").exists());
    assert_eq!(bucket.get("t/1/a").await.unwrap().unwrap(), "one");
}

/// A missing folder may be a disk that is not mounted. Creating it would write to the wrong disk.
#[tokio::test]
async fn a_missing_folder_is_not_created() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("bucket");
    let address = Address::Folder(folder.clone());
    assert!(Bucket::open(&address, SecretString::from("key")).is_err());
    address.make_folder().unwrap();
    let bucket = open(&address);
    std::fs::remove_dir(&folder).unwrap();
    let put = bucket.put_new("t/1/a", bytes("one")).await.unwrap_err();
    assert!(put.is_no_folder() && put.is_transient(), "{put}");
    assert!(!folder.exists());
    let mut listed = bucket.list();
    assert!(listed.next().await.unwrap().is_err());
}
