//! Bodies: whether they are what the route takes, and their bytes, decoded where they came compressed.
//!
//! gzip and zstd are taken. What comes out is bounded as what comes in: a small body that grows without end is refused as a large
//! one is, and never held whole.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use common::id::TenantId;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use tokio::runtime::Handle;

use super::single;
use crate::app::App;
use crate::error::{Code, Problem, truncate};

/// Largest body, as it comes and decoded: 20 MiB of pictures in base64, and room for words.
pub const MAX_BODY: usize = 29 * 1024 * 1024;
/// How long the rest of a refused body is read.
const DISCARDING: Duration = Duration::from_secs(5);

/// The bytes of a body that is declared as JSON. Large ones hold their room in the api's memory until the last of them is dropped.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        declared_as_json(request.headers())?;
        // The bytes, and what is read of them.
        Ok(Self(body(request, app, 2).await?))
    }
}

/// The bytes of a body that may as well be empty; they hold their room as those of [`JsonBody`].
#[derive(Debug)]
pub struct AnyBody(pub Bytes);

impl FromRequest<Arc<App>> for AnyBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(body(request, app, 1).await?))
    }
}

/// Reads a body once there is room for `times` its bytes: for as many as it declares, before a byte is read; for one that declares
/// nothing as it grows.
async fn body(request: Request, app: &App, times: usize) -> Result<Bytes, Problem> {
    let coding = coding(request.headers())?;
    let declared = declared_length(request.headers());
    let tenant = request.extensions().get::<TenantId>().copied();
    let mut room = app.budget.body(app.shares.of_some(tenant), times);
    let mut frames = request.into_body().into_data_stream();
    if declared > MAX_BODY {
        discard(frames).await;
        return Err(Code::BodyTooLarge.into());
    }
    if let Err(problem) = room.grow(declared).await {
        discard(frames).await;
        return Err(problem);
    }
    let mut bytes = Vec::with_capacity(declared);
    while let Some(frame) = frames.next().await {
        let broken = "The body broke off: send it again.";
        let frame = frame.map_err(|_| Problem::new(Code::MalformedJson, broken))?;
        if bytes.len() + frame.len() > MAX_BODY {
            return Err(Code::BodyTooLarge.into());
        }
        room.grow(bytes.len() + frame.len()).await?;
        bytes.extend_from_slice(&frame);
    }
    let Some(coding) = coding else {
        return Ok(room.hold(bytes));
    };
    let mut decoded = app.budget.body(app.shares.of_some(tenant), times);
    let runtime = Handle::current();
    // Megabytes would stall every other request of this thread.
    tokio::task::spawn_blocking(move || {
        let bytes = coding.decode(&bytes, MAX_BODY, |length| {
            runtime.block_on(decoded.grow(length))
        })?;
        drop(room);
        Ok(decoded.hold(bytes))
    })
    .await
    .map_err(|_| Problem::from(Code::Internal))?
}

/// What `Content-Length` says; nothing where it is missing.
fn declared_length(headers: &HeaderMap) -> usize {
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    declared.unwrap_or_default()
}

/// Reads the rest of a refused body and keeps nothing of it, for a while: a client that still sends would not see the answer.
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
    let _in_time = tokio::time::timeout(DISCARDING, read).await;
}

fn declared_as_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(declared) = single(headers, &header::CONTENT_TYPE)? else {
        let detail = "The body has no Content-Type: send `Content-Type: application/json`.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    };
    let kind = declared.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let advice = match kind.to_ascii_lowercase().as_str() {
        "application/json" => return Ok(()),
        "multipart/form-data" | "application/x-www-form-urlencoded" => {
            " The fields of a form become the fields of one JSON object; a file goes to POST /v1/uploads as it is, and is named by its id."
        }
        "application/gzip" | "application/x-gzip" | "application/zstd" => {
            " That a body is compressed stands in `Content-Encoding`: gzip or zstd."
        }
        _ => "",
    };
    let detail = format!(
        "The body is declared as {}: send JSON, with `Content-Type: application/json`.{advice}",
        truncate(kind)
    );
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Zstd,
}

/// The coding of a body; `None` for one that is sent plainly.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
    let named = headers.get_all(header::CONTENT_ENCODING).iter();
    let named: Vec<String> = named
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty() && name != "identity")
        .collect();
    match named.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        ["gzip" | "x-gzip"] => Ok(Some(Coding::Gzip)),
        ["zstd"] => Ok(Some(Coding::Zstd)),
        _ => Err(Problem::new(
            Code::UnsupportedEncoding,
            format!(
                "The body is encoded as {}. {}",
                truncate(&named.join(", ")),
                Code::UnsupportedEncoding.advice()
            ),
        )),
    }
}

impl Coding {
    /// The body as it was before. It has at most `most` bytes; `grow` gives room for so many, or says why there is none.
    fn decode(
        self,
        bytes: &[u8],
        most: usize,
        grow: impl FnMut(usize) -> Result<(), Problem>,
    ) -> Result<Vec<u8>, Problem> {
        let mut decoded = Decoded {
            bytes: Vec::new(),
            most,
            grow,
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
                "Content-Encoding does not fit the body: it is not whole {name}. Encode it again, or send it plainly."
            );
            Problem::new(Code::InvalidHeader, detail)
        })?;
        Ok(decoded.bytes)
    }
}

/// What comes out of a compressed body, within its bound.
struct Decoded<G> {
    bytes: Vec<u8>,
    most: usize,
    grow: G,
    /// Why no more is taken.
    refused: Option<Problem>,
}

impl<G: FnMut(usize) -> Result<(), Problem>> Write for Decoded<G> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len() + part.len();
        let room = if length > self.most {
            Err(Code::BodyTooLarge.into())
        } else {
            (self.grow)(length)
        };
        if let Err(problem) = room {
            self.refused = Some(problem);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes frame after frame.
fn zstd(mut bytes: &[u8], decoded: &mut impl Write) -> io::Result<()> {
    while !bytes.is_empty() {
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
    fn json_is_declared() {
        let refused = |value: &str| {
            let declared = declared_as_json(&headers(&[(header::CONTENT_TYPE, value)]));
            declared
                .err()
                .map(|problem| problem.body("", "")["detail"].to_string())
        };
        assert_eq!(refused("application/json"), None);
        assert_eq!(refused("Application/JSON; charset=utf-8"), None);
        for (kind, says) in [
            ("text/plain", "declared as text/plain: send JSON"),
            ("multipart/form-data; boundary=x", "POST /v1/uploads"),
            ("application/x-www-form-urlencoded", "one JSON object"),
            ("application/gzip", "`Content-Encoding`"),
        ] {
            let detail = refused(kind).unwrap();
            assert!(detail.contains(says), "{kind}: {detail}");
        }
        assert!(declared_as_json(&HeaderMap::new()).is_err());
    }

    #[test]
    fn known_codings_are_taken_and_others_are_named() {
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
    fn a_body_is_decoded_within_its_bound() {
        let words = b"a bottle on wet slate ".repeat(1_000);
        let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        for (coding, whole) in [(Coding::Gzip, gzip(&words)), (Coding::Zstd, zstd(&words))] {
            let decode = |bytes: &[u8], most| {
                let decoded = coding.decode(bytes, most, |_| Ok(()));
                decoded.map_err(|problem| problem.code())
            };
            assert_eq!(decode(&whole, words.len()).unwrap(), words);
            // One frame after the other is one body.
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
