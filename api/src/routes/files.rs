//! `GET /files/{key}`: a file of the bucket, for everyone who has a signed link to it.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use axum::response::IntoResponse;
use bucket::{BadLink, Bucket, BucketError, Signed};
use bytes::Bytes;
use common::memory::{MemoryPermit, with_permit};
use domain::file_name::attachment;
use domain::generation::image::MediaType;
use domain::{artifact, clock};
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::budget::CHUNK_BYTES;
use crate::download;
use crate::error::{Code, Problem, Result, sentence};

/// How many bytes at the beginning of a file are needed to find its type.
const SIGNATURE_BYTES: usize = 64;

/// The parameters of a signed link.
#[derive(Debug, Deserialize)]
pub struct Link {
    /// Until when the link works, in seconds since 1970.
    expires: i64,
    /// The name under which a browser saves the file.
    name: Option<String>,
    /// The id of the key that signed the link. Links of older versions have no id.
    #[serde(rename = "kid")]
    key_id: Option<String>,
    /// The signature of the path and the other parameters, in hex.
    signature: String,
}

/// Serves a file. This route is not in `/openapi.json`, because clients follow `artifacts[].url` and need not know how the link is
/// built.
pub async fn handler(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<impl IntoResponse> {
    let Query(Link {
        expires,
        name,
        key_id,
        signature,
    }) = Query::try_from_uri(&uri).map_err(|_| bad_link(BadLink::Forged))?;
    let signed = Signed {
        file_name: name.as_deref(),
        expires,
        key_id: key_id.as_deref(),
        signature: &signature,
    };
    app.bucket
        .check_link(&key, signed, clock::now())
        .map_err(bad_link)?;
    let permit = app.budget.download().await?;
    // The first read gives the type and the size of the file. If the whole file is requested, this read is also the first chunk, so
    // nothing is read twice.
    let is_whole = method == Method::GET
        && !headers.contains_key(header::RANGE)
        && !headers.contains_key(header::IF_NONE_MATCH);
    let first_bytes = if is_whole {
        CHUNK_BYTES
    } else {
        SIGNATURE_BYTES
    };
    let Some(begin) = app.bucket.part(&key, 0, first_bytes as u64).await? else {
        // A missing file means that it was deleted only if the bucket is the right one.
        app.owner.must_be_usable().await?;
        return Err(Problem::new(Code::NotFound, "This file was deleted."));
    };
    let media_type =
        imaging::media_type(&begin.bytes).map_or("application/octet-stream", MediaType::as_str);
    let length = usize::try_from(begin.whole).map_err(|_| Code::Internal)?;
    // An object key is never written twice, so the key identifies the bytes.
    let tag = download::tag(&key);
    let name = name.unwrap_or_else(|| artifact::file_name(&key));
    let about = [
        (header::CONTENT_TYPE, media_type.to_owned()),
        (header::CONTENT_DISPOSITION, attachment(&name)),
        // Whatever the bytes are, a browser may show them but must not run scripts in them.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; sandbox".to_owned(),
        ),
        (
            header::CACHE_CONTROL,
            "private, max-age=900, immutable".to_owned(),
        ),
        // Pages of other origins may embed the images, because the signed link is the protection.
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin".to_owned(),
        ),
    ];
    let answer = download::answer(&method, &headers, tag, length, |range| {
        Body::from_stream(chunks(app.bucket.clone(), key, begin.bytes, range, permit))
    });
    // A problem (416) is JSON and must not get the headers of the file.
    Ok(if answer.extensions().get::<Problem>().is_some() {
        answer
    } else {
        (about, answer).into_response()
    })
}

/// Streams a range of a file in chunks. A chunk is read only after the previous chunk was written to the socket. So only one chunk
/// is in memory, however slow the client is. `begin` holds the first bytes of the file, which were read already. `permit` is the
/// permit for the memory of the download.
fn chunks(
    bucket: Bucket,
    key: String,
    begin: Bytes,
    range: Range<usize>,
    permit: MemoryPermit,
) -> impl Stream<Item = std::result::Result<Bytes, BucketError>> {
    // Each chunk carries the semaphore's only permit until hyper drops the chunk.
    let (one_chunk, permit) = (Arc::new(Semaphore::new(1)), Arc::new(permit));
    let file = (bucket, key);
    stream::try_unfold((range, begin, file), move |(left, begin, file)| {
        let (one_chunk, permit) = (Arc::clone(&one_chunk), Arc::clone(&permit));
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let chunk_permit = one_chunk.acquire_owned().await;
            let end = left.end.min(left.start + CHUNK_BYTES);
            let chunk = match begin.get(left.start..end.min(begin.len())) {
                Some(chunk) if !chunk.is_empty() => begin.slice_ref(chunk),
                _ => {
                    let (bucket, key) = &file;
                    let part = bucket.part(key, left.start as u64, (end - left.start) as u64);
                    let part = part.await.inspect_err(|error| {
                        tracing::warn!(%error, "A file could not be read to its end");
                    })?;
                    part.map(|part| part.bytes).unwrap_or_default()
                }
            };
            // The file was deleted during the download. The error cuts the connection, so the client sees that the file is not
            // complete.
            if chunk.is_empty() {
                return Err(BucketError::Deleted(file.1));
            }
            let left = left.start + chunk.len()..left.end;
            let chunk = with_permit(chunk, (chunk_permit, permit));
            // `begin` is used up: it has at most as many bytes as a chunk.
            Ok(Some((chunk, (left, Bytes::new(), file))))
        }
    })
}

/// The answer to a link that is not valid.
fn bad_link(error: BadLink) -> Problem {
    let detail = format!("{} {}", sentence(&error), Code::BadLink.advice());
    Problem::new(Code::BadLink, detail)
}
