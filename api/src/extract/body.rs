//! Bodies: checks their declared type, reads their bytes and decompresses them (gzip and zstd).
//!
//! The limit of size applies before and after decompression. So a small body that expands without end is refused like a large body,
//! and is never in memory as a whole.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use domain::id::TenantId;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use tokio::runtime::Handle;

use super::single;
use crate::app::App;
use crate::error::{Code, Problem, truncate};

/// The largest body in bytes, as sent and decompressed: 20 MiB of images, which take 27 MiB in base64, and 2 MiB for everything
/// else.
pub const MAX_BODY: usize = 29 * 1024 * 1024;
/// How long the rest of a refused body is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes of a body that is declared as JSON. A large body keeps its memory permit until the last part of it is dropped.
#[derive(Debug)]
pub struct JsonBody(
    /// The decompressed bytes, which are not parsed yet.
    pub Bytes,
);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        check_declared_as_json(request.headers())?;
        // Twice the size of the body is reserved: for the bytes, and for what is parsed from them.
        Ok(Self(body(request, app, 2).await?))
    }
}

/// The bytes of a body of any type, which may be empty. They keep their memory permit like those of [`JsonBody`].
#[derive(Debug)]
pub struct AnyBody(
    /// The decompressed bytes.
    pub Bytes,
);

impl FromRequest<Arc<App>> for AnyBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(body(request, app, 1).await?))
    }
}

/// Reads a body, and decompresses it. Memory for `times` times its size is reserved first. If the length is declared, the memory is
/// reserved before a byte is read. Otherwise it is reserved step by step as the body grows.
async fn body(request: Request, app: &App, times: usize) -> Result<Bytes, Problem> {
    let coding = coding(request.headers())?;
    let declared = declared_length(request.headers());
    let tenant = request.extensions().get::<TenantId>().copied();
    let mut permit = app
        .budget
        .body(app.shares.for_tenant_or_nobody(tenant), times);
    let mut frames = request.into_body().into_data_stream();
    if declared > MAX_BODY {
        discard(frames).await;
        return Err(Code::BodyTooLarge.into());
    }
    if let Err(problem) = permit.grow(declared).await {
        discard(frames).await;
        return Err(problem);
    }
    let mut bytes = Vec::with_capacity(declared);
    while let Some(frame) = frames.next().await {
        let cut_off = "The body was cut off: send it again.";
        let frame = frame.map_err(|_| Problem::new(Code::MalformedJson, cut_off))?;
        if bytes.len() + frame.len() > MAX_BODY {
            return Err(Code::BodyTooLarge.into());
        }
        permit.grow(bytes.len() + frame.len()).await?;
        bytes.extend_from_slice(&frame);
    }
    let Some(coding) = coding else {
        return Ok(permit.hold(bytes));
    };
    // The compressed and the decompressed bytes are in memory together, so each has a permit.
    let mut decoded_permit = app
        .budget
        .body(app.shares.for_tenant_or_nobody(tenant), times);
    let runtime = Handle::current();
    // Decompressing megabytes here would stall every other request of this thread.
    tokio::task::spawn_blocking(move || {
        let bytes = coding.decode(&bytes, MAX_BODY, |length| {
            runtime.block_on(decoded_permit.grow(length))
        })?;
        drop(permit);
        Ok(decoded_permit.hold(bytes))
    })
    .await
    .map_err(|_| Problem::from(Code::Internal))?
}

/// The value of `Content-Length`; 0 if it is missing or not a number.
fn declared_length(headers: &HeaderMap) -> usize {
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    declared.unwrap_or_default()
}

/// Reads and drops the rest of a refused body: at most [`MAX_BODY`] bytes, for at most [`DISCARD_TIMEOUT`]. A client that is still
/// sending would otherwise see a reset connection instead of the answer.
async fn discard(mut frames: BodyDataStream) {
    let mut left = MAX_BODY;
    let read = async {
        while let Some(Ok(frame)) = frames.next().await {
            left = left.saturating_sub(frame.len());
            if left == 0 {
                break;
            }
        }
    };
    let _in_time = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}

/// Checks that `Content-Type` is JSON.
fn check_declared_as_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(declared) = single(headers, &header::CONTENT_TYPE)? else {
        let detail = "The body has no Content-Type: send `Content-Type: application/json`.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    };
    let kind = declared.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let advice = match kind.to_ascii_lowercase().as_str() {
        "application/json" => return Ok(()),
        "multipart/form-data" | "application/x-www-form-urlencoded" => {
            " Send the fields of a form as the fields of one JSON object. Upload a file unchanged with POST /v1/uploads, and put the id of the upload into the JSON."
        }
        "application/gzip" | "application/x-gzip" | "application/zstd" => {
            " If the body is compressed, say so in `Content-Encoding`: gzip or zstd."
        }
        _ => "",
    };
    let detail = format!(
        "The body is declared as {}: send JSON, with `Content-Type: application/json`.{advice}",
        truncate(kind)
    );
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

/// How a body is compressed (a content coding of RFC 9110, 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Zstd,
}

/// Reads the coding of a body. Returns `None` if the body is not compressed.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let names: Vec<String> = values
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty() && name != "identity")
        .collect();
    match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        ["gzip" | "x-gzip"] => Ok(Some(Coding::Gzip)),
        ["zstd"] => Ok(Some(Coding::Zstd)),
        _ => Err(Problem::new(
            Code::UnsupportedEncoding,
            format!(
                "The body is encoded as {}. {}",
                truncate(&names.join(", ")),
                Code::UnsupportedEncoding.advice()
            ),
        )),
    }
}

impl Coding {
    /// Decompresses a body into at most `max` bytes. `grow` is called with the new length before the output grows, and may refuse
    /// it.
    fn decode(
        self,
        bytes: &[u8],
        max: usize,
        grow: impl FnMut(usize) -> Result<(), Problem>,
    ) -> Result<Vec<u8>, Problem> {
        let mut decoded = BoundedOutput {
            bytes: Vec::new(),
            max,
            reserve: grow,
            refused: None,
        };
        let read = match self {
            Self::Gzip => io::copy(&mut MultiGzDecoder::new(bytes), &mut decoded).map(drop),
            Self::Zstd => zstd(bytes, &mut decoded),
        };
        if let Some(problem) = decoded.refused {
            return Err(problem);
        }
        read.map_err(|_| {
            let name = match self {
                Self::Gzip => "gzip",
                Self::Zstd => "zstd",
            };
            let detail = format!(
                "Content-Encoding does not fit the body: it is not complete {name} data. Compress it again, or send it uncompressed."
            );
            Problem::new(Code::InvalidHeader, detail)
        })?;
        Ok(decoded.bytes)
    }
}

/// The decompressed bytes so far. The output refuses to grow beyond its bound.
struct BoundedOutput<G> {
    bytes: Vec<u8>,
    /// The bound, in bytes.
    max: usize,
    /// Called with the new length before the output grows. It may refuse.
    reserve: G,
    /// Why no more bytes are accepted. `io::Error` cannot carry a problem, so the problem is kept here.
    refused: Option<Problem>,
}

impl<G: FnMut(usize) -> Result<(), Problem>> Write for BoundedOutput<G> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len() + part.len();
        let reserved = if length > self.max {
            Err(Code::BodyTooLarge.into())
        } else {
            (self.reserve)(length)
        };
        if let Err(problem) = reserved {
            self.refused = Some(problem);
            // Any error ends the decompression. The caller answers with `refused`.
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decompresses all zstd frames of a body, one after the other. Skippable frames (RFC 8878, 3.1.2) are passed over; the last one
/// may be cut off.
fn zstd(mut bytes: &[u8], decoded: &mut impl Write) -> io::Result<()> {
    while !bytes.is_empty() {
        // The decoder advances `bytes`: here past the head of the frame, and while it is read, past its contents.
        match StreamingDecoder::new(&mut bytes) {
            Ok(mut frame) => {
                io::copy(&mut frame, decoded)?;
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => bytes = bytes.get(length as usize..).unwrap_or_default(),
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_json_body_must_be_declared_as_json() {
        let refused = |value: &str| {
            let declared = check_declared_as_json(&headers(&[(header::CONTENT_TYPE, value)]));
            declared
                .err()
                .map(|problem| problem.body("", "")["detail"].to_string())
        };
        assert_eq!(refused("application/json"), None);
        assert_eq!(refused("Application/JSON; charset=utf-8"), None);
        for (kind, says) in [
            ("text/plain", "declared as text/plain: send JSON"),
            (
                "multipart/form-data; boundary=x",
                "unchanged with POST /v1/uploads",
            ),
            ("application/x-www-form-urlencoded", "one JSON object"),
            ("application/gzip", "`Content-Encoding`"),
        ] {
            let detail = refused(kind).unwrap();
            assert!(detail.contains(says), "{kind}: {detail}");
        }
        assert!(check_declared_as_json(&HeaderMap::new()).is_err());
    }

    #[test]
    fn unknown_content_codings_are_refused_and_named() {
        let of = |values: &[&str]| {
            let pairs: Vec<_> = values
                .iter()
                .map(|value| (header::CONTENT_ENCODING, *value))
                .collect();
            coding(&headers(&pairs)).map_err(|problem| problem.body("", "")["detail"].to_string())
        };
        for plain in [&[][..], &["identity"], &[""]] {
            assert_eq!(of(plain), Ok(None));
        }
        for gzip in ["gzip", "GZIP", "x-gzip", "identity, gzip"] {
            assert_eq!(of(&[gzip]), Ok(Some(Coding::Gzip)), "{gzip}");
        }
        assert_eq!(of(&["zstd"]), Ok(Some(Coding::Zstd)));
        for (values, named) in [
            (&["br"][..], "br"),
            (&["deflate"], "deflate"),
            (&["gzip, gzip"], "gzip, gzip"),
            (&["gzip", "zstd"], "gzip, zstd"),
            (&["bogus"], "bogus"),
        ] {
            let detail = of(values).unwrap_err();
            assert!(
                detail.contains(named) && detail.contains("`Content-Encoding: gzip` or `zstd`"),
                "{detail}"
            );
        }
    }

    #[test]
    fn a_body_is_decompressed_within_its_limit() {
        let words = b"a bottle on wet slate ".repeat(1_000);
        let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        for (coding, whole) in [(Coding::Gzip, gzip(&words)), (Coding::Zstd, zstd(&words))] {
            let decode = |bytes: &[u8], max| {
                let decoded = coding.decode(bytes, max, |_| Ok(()));
                decoded.map_err(|problem| problem.code())
            };
            assert_eq!(decode(&whole, words.len()).unwrap(), words);
            // Several frames one after the other are one body.
            assert_eq!(
                decode(&[&whole[..], &whole].concat(), 44_000)
                    .unwrap()
                    .len(),
                44_000
            );
            assert_eq!(decode(&whole, words.len() - 1), Err(Code::BodyTooLarge));
            assert_eq!(
                decode(&whole[..whole.len() / 2], 100_000),
                Err(Code::InvalidHeader)
            );
            assert_eq!(decode(b"{}", 100), Err(Code::InvalidHeader));
        }
        let bomb = gzip(&vec![0; 40_000_000]);
        assert!(bomb.len() < 50_000);
        let refused = Coding::Gzip
            .decode(&bomb, MAX_BODY, |_| Ok(()))
            .unwrap_err();
        assert_eq!(refused.code(), Code::BodyTooLarge);
    }
}
