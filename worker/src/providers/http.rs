//! One HTTP exchange with a provider, bounded in every direction.
//!
//! What breaks is told as a sign of the outcome table: whether anything was sent decides who may have been billed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::clock;
use common::outcome::Failure;
use common::outcome::table::{self, Dialect};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

/// Largest answer that is read: a 4K picture in base64, and room.
const MOST_BYTES: usize = 64 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(5);
/// For questions that are answered without work.
pub(super) const PROMPT_ANSWER: Duration = Duration::from_secs(30);

/// A provider's connections.
pub(super) struct Http {
    client: reqwest::Client,
    idle: Duration,
}

/// A whole answer.
pub(super) struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An exchange that broke.
pub(super) struct Broken {
    sign: &'static str,
    detail: String,
}

impl Broken {
    pub(super) fn failure(self, dialect: Dialect) -> Failure {
        Failure::new(table::class(dialect, self.sign), self.detail)
    }
}

impl Http {
    pub(super) fn new(idle: Duration) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("platen/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, idle })
    }

    pub(super) fn post(&self, url: &str) -> RequestBuilder {
        self.client.post(url)
    }

    pub(super) fn get(&self, url: &str) -> RequestBuilder {
        self.client.get(url)
    }

    /// Sends and reads to the end. The answer begins within `first_byte` and never pauses for longer than the idle
    /// time; how long all of it may take is the caller's to bound.
    pub(super) async fn exchange(
        &self,
        request: RequestBuilder,
        first_byte: Duration,
    ) -> Result<Received, Broken> {
        let broken = |sign, detail| Broken { sign, detail };
        let mut response = match timeout(first_byte, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                // Neither sent anything.
                let sign = if error.is_connect() || error.is_builder() {
                    "connect"
                } else {
                    "reset"
                };
                return Err(broken(sign, describe(error)));
            }
            Err(_) => {
                let detail = format!("no answer within {} s", first_byte.as_secs());
                return Err(broken("hang", detail));
            }
        };
        let mut body = BytesMut::new();
        loop {
            let chunk = match timeout(self.idle, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    let detail = format!("the answer broke off: {}", describe(error));
                    return Err(broken("cut", detail));
                }
                Err(_) => {
                    let detail = format!("the answer paused for {} s", self.idle.as_secs());
                    return Err(broken("stall", detail));
                }
            };
            if body.len() + chunk.len() > MOST_BYTES {
                let detail = format!("an answer of more than {MOST_BYTES} bytes");
                return Err(broken("oversized", detail));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Received {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: body.freeze(),
        })
    }
}

impl Received {
    /// How long the provider asks to wait, where it says so: seconds or a date (RFC 9110, 10.2.3).
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let said = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = said.parse::<f64>() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        let until = OffsetDateTime::parse(said, &Rfc2822).ok()?;
        Duration::try_from(until - clock::now()).ok()
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }
}

/// The words of a provider, as far as they are kept.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(1_000).collect()
}

/// Why an answer cannot be read, without a word of it: it may repeat the prompt.
pub(super) fn unreadable(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let category = error.classify();
    format!("an answer that cannot be read: {category:?} at line {line}, column {column}")
}

/// An error with its causes, without the URL: it may carry a key.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
