//! Bodies: whether they are what the route takes, and their bytes, decoded where they came compressed.
//!
//! gzip and zstd are taken. What comes out is bounded as what comes in: a small body that grows without end is refused as a large
//! one is, and never held whole.

use std::io::{self, Read};

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use super::single;
use crate::error::{Code, Problem};

/// Largest body, as it comes and decoded: 20 MiB of pictures in base64, and room for words.
pub const MAX_BODY: usize = 29 * 1024 * 1024;

/// The bytes of a body that is declared as JSON.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        declared_as_json(request.headers())?;
        Ok(Self(body(request, state).await?))
    }
}

/// The bytes of a body that may as well be empty.
#[derive(Debug)]
pub struct AnyBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for AnyBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Ok(Self(body(request, state).await?))
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let coding = coding(request.headers())?;
    let bytes = Bytes::from_request(request, state)
        .await
        .map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::from(Code::BodyTooLarge)
            } else {
                Problem::new(Code::MalformedJson, "The body broke off: send it again.")
            }
        })?;
    match coding {
        None => Ok(bytes),
        // Megabytes would stall every other request of this thread.
        Some(coding) => tokio::task::spawn_blocking(move || coding.decode(&bytes, MAX_BODY))
            .await
            .map_err(|_| Problem::from(Code::Internal))?,
    }
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
        "The body is declared as {kind}: send JSON, with `Content-Type: application/json`.{advice}"
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
                named.join(", "),
                Code::UnsupportedEncoding.advice()
            ),
        )),
    }
}

impl Coding {
    /// The body as it was before. It has at most `most` bytes.
    fn decode(self, bytes: &[u8], most: usize) -> Result<Bytes, Problem> {
        let mut decoded = Vec::new();
        let read = match self {
            Self::Gzip => MultiGzDecoder::new(bytes)
                .take(most as u64 + 1)
                .read_to_end(&mut decoded)
                .map(drop),
            Self::Zstd => zstd(bytes, most + 1, &mut decoded),
        };
        if decoded.len() > most {
            return Err(Code::BodyTooLarge.into());
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
        Ok(decoded.into())
    }
}

/// Decodes frame after frame, until `most` bytes are there.
fn zstd(mut bytes: &[u8], most: usize, decoded: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() && decoded.len() < most {
        match StreamingDecoder::new(&mut bytes) {
            Ok(frame) => {
                let room = (most - decoded.len()) as u64;
                frame.take(room).read_to_end(decoded)?;
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
    use std::io::Write;

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
            let decode =
                |bytes: &[u8], most| coding.decode(bytes, most).map_err(|problem| problem.code());
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
        let refused = Coding::Gzip.decode(&bomb, MAX_BODY).unwrap_err();
        assert_eq!(refused.code(), Code::BodyTooLarge);
    }
}
