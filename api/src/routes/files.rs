//! `GET /files/{key}`: an object of the bucket, for whoever holds a signed link to it.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use axum::response::IntoResponse;
use common::artifact;
use common::bucket::{BadLink, Signed};
use common::clock;
use common::file_name::attachment;
use serde::Deserialize;

use crate::app::App;
use crate::download;
use crate::error::{Code, Problem, Result, sentence};

/// What makes a path a link.
#[derive(Debug, Deserialize)]
pub struct Link {
    /// Until when it works, in seconds since 1970.
    expires: i64,
    /// What the file is called when it is kept.
    name: Option<String>,
    /// Which key signed it; links of before keys had an id have none.
    #[serde(rename = "kid")]
    key_id: Option<String>,
    /// Proof that we made it.
    signature: String,
}

/// Not in `/openapi.json`: clients follow `artifacts[].url` and need not know how it is made.
pub async fn handler(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    method: Method,
    uri: Uri,
    asked: HeaderMap,
) -> Result<impl IntoResponse> {
    let Query(Link {
        expires,
        name,
        key_id,
        signature,
    }) = Query::try_from_uri(&uri).map_err(|_| bad(BadLink::Forged))?;
    let signed = Signed {
        file_name: name.as_deref(),
        expires,
        key_id: key_id.as_deref(),
        signature: &signature,
    };
    app.bucket
        .check_link(&key, signed, clock::now())
        .map_err(bad)?;
    let Some(bytes) = app.bucket.get(&key).await? else {
        // Of a file of ours another's bucket says nothing.
        app.owner.usable().await?;
        return Err(Problem::new(Code::NotFound, "This file was deleted."));
    };
    let media_type = imaging::inspect(&bytes)
        .map_or("application/octet-stream", |(media_type, _)| {
            media_type.as_str()
        });
    let name = name.unwrap_or_else(|| artifact::file_name(&key));
    let about = [
        (header::CONTENT_TYPE, media_type.to_owned()),
        (header::CONTENT_DISPOSITION, attachment(&name)),
        // Whatever the bytes turn out to be, they are shown and never run.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; sandbox".to_owned(),
        ),
        (
            header::CACHE_CONTROL,
            "private, max-age=900, immutable".to_owned(),
        ),
        // Studios on other origins show pictures too; the link is what protects them.
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin".to_owned(),
        ),
    ];
    let answer = download::answer(&method, &asked, bytes);
    Ok(if answer.extensions().get::<Problem>().is_some() {
        answer
    } else {
        (about, answer).into_response()
    })
}

fn bad(link: BadLink) -> Problem {
    let detail = format!("{} {}", sentence(&link), Code::BadLink.advice());
    Problem::new(Code::BadLink, detail)
}
