//! `GET /files/{key}`: an object of the bucket, for whoever holds a signed link to it.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use common::artifact;
use common::bucket::{BadLink, Bucket, BucketError, Signed};
use common::clock;
use common::file_name::attachment;
use common::generation::image::MediaType;
use common::memory::{MemoryPermit, with_permit};
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::budget::CHUNK_BYTES;
use crate::download;
use crate::error::{Code, Problem, Result, sentence};

/// As many bytes at the beginning of a file say what it is.
const SIGNATURE: usize = 64;

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
    let room = app.budget.download().await?;
    // Of a range only the first bytes are read twice: they say what the file is.
    let is_whole = method == Method::GET
        && !asked.contains_key(header::RANGE)
        && !asked.contains_key(header::IF_NONE_MATCH);
    let begin = if is_whole { CHUNK_BYTES } else { SIGNATURE };
    let Some(begin) = app.bucket.part(&key, 0, begin as u64).await? else {
        // Of a file of ours another's bucket says nothing.
        app.owner.usable().await?;
        return Err(Problem::new(Code::NotFound, "This file was deleted."));
    };
    let media_type =
        imaging::media_type(&begin.bytes).map_or("application/octet-stream", MediaType::as_str);
    let length = usize::try_from(begin.whole).map_err(|_| Code::Internal)?;
    // A key is never written twice, so it stands for its bytes.
    let tag = download::tag(&key);
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
    let answer = download::answer(&method, &asked, tag, length, |range| {
        Body::from_stream(pieces(app.bucket.clone(), key, begin.bytes, range, room))
    });
    Ok(if answer.extensions().get::<Problem>().is_some() {
        answer
    } else {
        (about, answer).into_response()
    })
}

/// A file in pieces: each is read when the one before is on its way, so there is one at a time in memory however slowly it is taken.
fn pieces(
    bucket: Bucket,
    key: String,
    begin: Bytes,
    range: Range<usize>,
    room: MemoryPermit,
) -> impl Stream<Item = std::result::Result<Bytes, BucketError>> {
    let (one, room) = (Arc::new(Semaphore::new(1)), Arc::new(room));
    let file = (bucket, key);
    stream::try_unfold((range, begin, file), move |(left, begin, file)| {
        let (one, room) = (Arc::clone(&one), Arc::clone(&room));
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let turn = one.acquire_owned().await;
            let end = left.end.min(left.start + CHUNK_BYTES);
            let piece = match begin.get(left.start..end.min(begin.len())) {
                Some(piece) if !piece.is_empty() => begin.slice_ref(piece),
                _ => {
                    let (bucket, key) = &file;
                    let part = bucket.part(key, left.start as u64, (end - left.start) as u64);
                    let part = part.await.inspect_err(|error| {
                        tracing::warn!(%error, "A file could not be read to its end");
                    })?;
                    // It was deleted meanwhile: then the download breaks off.
                    part.map(|part| part.bytes).unwrap_or_default()
                }
            };
            if piece.is_empty() {
                return Err(BucketError::Deleted(file.1));
            }
            let left = left.start + piece.len()..left.end;
            let piece = with_permit(piece, (turn, room));
            Ok(Some((piece, (left, Bytes::new(), file))))
        }
    })
}

fn bad(link: BadLink) -> Problem {
    let detail = format!("{} {}", sentence(&link), Code::BadLink.advice());
    Problem::new(Code::BadLink, detail)
}
