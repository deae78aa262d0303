//! `/`: the web studio, one page that is compiled in and talks to `/v1` like any other client.

use std::sync::{Arc, LazyLock};

use axum::extract::State as AppState;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::download::StaticContent;

const PAGE: &str = include_str!("../../../console/index.html");

/// The page's own scripts and styles, as its policy names them.
static HASHES: LazyLock<[String; 2]> =
    LazyLock::new(|| ["script", "style"].map(|tag| hashes(PAGE, tag)));

static STILL: LazyLock<StaticContent> =
    LazyLock::new(|| StaticContent::new("text/html; charset=utf-8", PAGE));

pub async fn handler(AppState(app): AppState<Arc<App>>, asked: HeaderMap) -> impl IntoResponse {
    (
        [
            (
                header::CONTENT_SECURITY_POLICY,
                policy(app.bucket.link_origin()),
            ),
            (header::REFERRER_POLICY, "no-referrer".to_owned()),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin".to_owned(),
            ),
        ],
        STILL.respond(&asked),
    )
}

/// Nothing from elsewhere runs, loads or frames, but for pictures and films at the store, where it signs the links to them.
fn policy(store: Option<&str>) -> String {
    let [scripts, styles] = &*HASHES;
    let store = store.map(|origin| format!(" {origin}")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' data: blob:{store}; \
         media-src 'self'{store}; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// What a browser may run or apply of a page: the content of each of its `tag` elements.
fn hashes(page: &str, tag: &str) -> String {
    let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
    let sources: Vec<String> = page
        .split(open.as_str())
        .skip(1)
        .filter_map(|rest| rest.split_once('>')?.1.split_once(close.as_str()))
        .map(|(content, _)| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(content))))
        .collect();
    if sources.is_empty() {
        "'none'".to_owned()
    } else {
        sources.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_store_is_allowed_besides_the_api_itself() {
        let ours = policy(None);
        assert!(
            ours.contains("; img-src 'self' data: blob:; media-src 'self'; "),
            "{ours}"
        );
        let store = policy(Some("https://s3.example:9000"));
        let sources = "; img-src 'self' data: blob: https://s3.example:9000; media-src 'self' https://s3.example:9000; ";
        assert!(store.contains(sources), "{store}");
        assert_eq!(store.replace(" https://s3.example:9000", ""), ours);
    }

    #[test]
    fn every_element_is_named_by_its_hash() {
        assert_eq!(hashes("<p>", "script"), "'none'");
        // echo -n 'alert(1)' | openssl dgst -sha256 -binary | base64
        assert_eq!(
            hashes("<script type=\"module\">alert(1)</script>", "script"),
            "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
        );
    }
}
