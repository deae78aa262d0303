//! `/`: the web studio. It is one page, compiled into the program, that calls `/v1` like any other client.

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

/// The hashes of the page's scripts, and those of its styles, as its content security policy names them.
static HASHES: LazyLock<[String; 2]> =
    LazyLock::new(|| ["script", "style"].map(|tag| hashes(PAGE, tag)));

static CONTENT: LazyLock<StaticContent> =
    LazyLock::new(|| StaticContent::new("text/html; charset=utf-8", PAGE));

/// Serves the page.
pub async fn handler(AppState(app): AppState<Arc<App>>, headers: HeaderMap) -> impl IntoResponse {
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
        CONTENT.respond(&headers),
    )
}

/// The content security policy of the page: only its own scripts and styles run, and nothing is loaded from other origins, except images
/// and videos from `store`, the origin of the store if it signs links.
fn policy(store: Option<&str>) -> String {
    let [scripts, styles] = &*HASHES;
    let store = store.map(|origin| format!(" {origin}")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' data: blob:{store}; \
         media-src 'self'{store}; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// The sources, for a content security policy, of all `tag` elements of a page: the hash of the content of each.
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
    fn the_policy_allows_only_the_api_and_the_store() {
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
    fn the_policy_names_every_element_by_its_hash() {
        assert_eq!(hashes("<p>", "script"), "'none'");
        // echo -n 'alert(1)' | openssl dgst -sha256 -binary | base64
        assert_eq!(
            hashes("<script type=\"module\">alert(1)</script>", "script"),
            "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
        );
    }
}
