//! Our links to Google Cloud Storage beside Google's own signer: the same request, the same signature.
#![expect(clippy::print_stdout, reason = "says how many links were compared")]

use std::time::Duration;

use bucket::{Address, Bucket, ContentDisposition, Link};
use domain::clock;
use domain::file_name::attachment;
use object_store::path::Path as Key;
use secrecy::SecretString;
use serde_json::json;
use tests::gcs::{Gcs, oracle};

/// What stands in names that people and programs give to files.
const ODD: [&str; 26] = [
    " ", "%", "%20", "%2F", "+", "&", "=", "?", "#", "\"", "'", "<>", "{}", "[]", "|", "\\", "^",
    "`", "~", "*", "é", "日本", "🖼", ":", ";@$,!()", "..",
];

fn names() -> Vec<String> {
    let mut names: Vec<String> = ["a", "t/1/c/2", "t/1/j/2/3/0.png", "a/../b", "./a", "a//b"]
        .map(str::to_owned)
        .to_vec();
    for odd in ODD {
        names.extend([
            odd.to_owned(),
            format!("{odd}a"),
            format!("a{odd}"),
            format!("a/{odd}/b"),
            format!("a b{odd}c%"),
            format!("{odd}{odd}"),
            format!("t/{odd}.png"),
        ]);
    }
    names.extend(ODD.windows(2).map(<[&str]>::concat));
    names.push("long/".repeat(180));
    names
}

/// The server that plays Google's checks no signature, but it knows its objects' names: a link leads to what was stored.
#[tokio::test]
async fn a_link_names_the_object_that_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    assert!(oracle("key", &account, "").status.success());
    let gcs = Gcs::start().await;
    let more = [("GOOGLE_SERVICE_ACCOUNT", account.to_str().unwrap())];
    let bucket = Bucket::open(&gcs.address("of/ours", &more), SecretString::default()).unwrap();
    for (number, name) in [
        "t/1/c/2",
        "a b",
        "a%20b",
        "a+b",
        "é/日本.png",
        "a?b=c",
        "a#b",
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = number.to_string();
        bucket.put_new(name, bytes.clone().into()).await.unwrap();
        let shown = ContentDisposition {
            media_type: "image/png",
            file_name: "a.png",
        };
        let link = bucket.link(name, shown, clock::now(), Duration::from_mins(1));
        let Ok(Link::Store(url)) = link.await else {
            panic!("{name}")
        };
        assert!(url.starts_with(bucket.link_origin().unwrap()), "{url}");
        let got = reqwest::get(&url).await.unwrap().text().await.unwrap();
        assert_eq!(got, bytes, "{url}");
    }
}

#[tokio::test]
async fn our_links_to_gcs_are_those_googles_own_signer_makes() {
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    assert!(oracle("key", &account, "").status.success());
    let variables = [(
        "GOOGLE_SERVICE_ACCOUNT".to_owned(),
        account.to_str().unwrap().to_owned(),
    )];
    let mut links = Vec::new();
    for prefix in ["", "of/ours"] {
        let address = Address::parse(&format!("gs://pictures/{prefix}"), variables.clone());
        let bucket = Bucket::open(&address.unwrap(), SecretString::default()).unwrap();
        for (number, name) in names().into_iter().enumerate() {
            let seconds = [60, 900, 86_400][number % 3];
            let shown = ContentDisposition {
                media_type: ["image/png", "image/webp"][number % 2],
                file_name: ["a picture.png", "2-3-0.png", "ö;&=.png"][number % 3],
            };
            let lifetime = Duration::from_secs(seconds);
            let link = bucket.link(&name, shown, clock::now(), lifetime).await;
            let Ok(Link::Store(url)) = link else {
                panic!("{name}: {link:?}")
            };
            assert_eq!(bucket.link_origin(), Some("https://storage.googleapis.com"));
            assert!(
                url.starts_with("https://storage.googleapis.com/pictures/"),
                "{url}"
            );
            // The name the object really has: what a store may not take is escaped before.
            let (prefix, name) = (Key::from(prefix), Key::from(name));
            let key: Key = prefix.parts().chain(name.parts()).collect();
            links.push(json!({
                "bucket": "pictures",
                "key": key.as_ref(),
                "url": url,
                "seconds": seconds,
                "disposition": attachment(shown.file_name),
                "type": shown.media_type,
            }));
        }
    }
    assert!(links.len() >= 400);
    let said = oracle("check", &account, &json!(links).to_string());
    let text = String::from_utf8(said.stdout).unwrap();
    println!("{text}");
    assert!(said.status.success(), "{text}");
}
