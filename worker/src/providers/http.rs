//! One HTTP exchange with a provider, bounded in every direction.
//!
//! What breaks is told as a sign of the outcome table: whether anything was sent decides who may have been billed. An answer is
//! read once there is room for it ([`Memory`]); until then it stays with its provider, and nobody's clock runs.

mod base64_extractor;
mod error_text;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::clock;
use common::memory::{Memory, MemoryPermit, with_permit};
use common::outcome::table::{self, Dialect};
use common::outcome::{Failure, readable};
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

use super::ProviderSettings;
use crate::memory::{OVERFLOW_BYTES, TYPICAL_RESPONSE_BYTES};
use base64_extractor::Base64Extractor;
pub(super) use base64_extractor::{Base64, ExtractedBody};
use error_text::ErrorText;

/// Largest answer that is read: a 4K picture in base64, and room.
const MAX_BODY_BYTES: usize = OVERFLOW_BYTES / 3 * 4;
/// So much is read of an answer that is no success; far less of it is held ([`Words`]).
const MAX_ERROR_BYTES: usize = 1 << 20;
/// What is sent at once. The rest waits in one piece, and is let go when all of it was sent.
const UPLOAD_CHUNK_BYTES: usize = 64 << 10;
/// Connections that are kept for the next calls.
const IDLE_CONNECTIONS: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For questions that are answered without work.
const POLL_TIMEOUT: Duration = Duration::from_secs(30);

/// A provider's connections.
pub(super) struct Http {
    client: reqwest::Client,
    idle: Duration,
    memory: Memory,
}

/// How long an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// Until the answer begins.
    first_byte: Duration,
    /// All of it, but for the wait for room.
    whole: Duration,
}

impl Timeouts {
    /// A model works while nothing is said.
    pub(super) fn for_generation(time: Duration) -> Self {
        Self {
            first_byte: time,
            whole: time,
        }
    }

    /// Nothing is worked on, but what was made may take as long to come.
    pub(super) fn for_poll(time: Duration) -> Self {
        Self {
            first_byte: POLL_TIMEOUT.min(time),
            whole: time,
        }
    }
}

/// A whole answer.
pub(super) struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: ExtractedBody,
}

/// An exchange that broke.
pub(super) struct ExchangeError {
    sign: &'static str,
    detail: String,
}

impl ExchangeError {
    fn new(sign: &'static str, detail: impl Into<String>) -> Self {
        Self {
            sign,
            detail: detail.into(),
        }
    }

    pub(super) fn failure(self, dialect: Dialect) -> Failure {
        Failure::new(table::class(dialect, self.sign), self.detail)
    }
}

impl Http {
    pub(super) fn new(account: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("platen/", env!("CARGO_PKG_VERSION")))
            // A connection for each call: many in one share a window, and answers that wait unread would stop the others.
            .http1_only()
            // One that has carried a picture keeps half a megabyte to read into.
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build()?;
        Ok(Self {
            client,
            idle: account.idle,
            memory: account.memory.clone(),
        })
    }

    pub(super) fn post(&self, url: &str) -> RequestBuilder {
        self.client.post(url)
    }

    /// With a body of JSON, which keeps its room until it is sent.
    pub(super) fn post_json(
        &self,
        url: &str,
        body: &impl Serialize,
        room: Option<MemoryPermit>,
    ) -> RequestBuilder {
        let json = serde_json::to_vec(body).expect("what we send is JSON");
        let json = with_permit(json, room);
        let length = json.len();
        let parts = (0..length)
            .step_by(UPLOAD_CHUNK_BYTES)
            .map(move |at| json.slice(at..length.min(at + UPLOAD_CHUNK_BYTES)));
        self.client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, length)
            // The client keeps no copy of a stream.
            .body(Body::wrap_stream(stream::iter(
                parts.map(Ok::<_, std::convert::Infallible>),
            )))
    }

    pub(super) fn get(&self, url: &str) -> RequestBuilder {
        self.client.get(url)
    }

    /// Sends and reads to the end. Files in a success are lifted out of it; of any other answer the words are kept. It never
    /// pauses for longer than the idle time.
    pub(super) async fn exchange(
        &self,
        request: RequestBuilder,
        patience: Timeouts,
    ) -> Result<Received, ExchangeError> {
        let (mut response, left) = begin(request, patience).await?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let body = if status.is_success() {
            let room = self.room(&response).await?;
            let mut lifter = Base64Extractor::default();
            let read = self.read(response, left, MAX_BODY_BYTES, Some(room), |chunk| {
                lifter.push(chunk);
                lifter.len()
            });
            let room = read.await?;
            lifter.finish(room)
        } else {
            let mut words = ErrorText::default();
            let read = self.read(response, left, MAX_ERROR_BYTES, None, |chunk| {
                words.push(chunk);
                0
            });
            // However its words end, the status says what it is.
            let _broken = read.await;
            ExtractedBody::text_only(words.finish())
        };
        Ok(Received {
            status,
            headers,
            body,
        })
    }

    /// Fetches a file.
    pub(super) async fn download(
        &self,
        request: RequestBuilder,
        patience: Timeouts,
    ) -> Result<(StatusCode, Bytes), ExchangeError> {
        let (response, left) = begin(request, patience).await?;
        let status = response.status();
        if !status.is_success() {
            return Ok((status, Bytes::new()));
        }
        let room = self.room(&response).await?;
        let mut file = Vec::new();
        let room = self
            .read(response, left, OVERFLOW_BYTES, Some(room), |chunk| {
                file.extend_from_slice(chunk);
                file.len()
            })
            .await?;
        Ok((status, with_permit(file, room)))
    }

    /// Room for an answer: nothing that is held of it is longer than what comes.
    async fn room(&self, response: &Response) -> Result<MemoryPermit, ExchangeError> {
        let told = response.content_length();
        let told = told.and_then(|length| usize::try_from(length).ok());
        let room = self
            .memory
            .acquire(
                told.unwrap_or(TYPICAL_RESPONSE_BYTES)
                    .min(TYPICAL_RESPONSE_BYTES),
            )
            .await;
        room.map_err(|none| ExchangeError::new("stall", none.to_string()))
    }

    /// Reads to the end; `take` says how much is held so far.
    async fn read(
        &self,
        mut response: Response,
        left: Duration,
        most: usize,
        mut room: Option<MemoryPermit>,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> Result<Option<MemoryPermit>, ExchangeError> {
        let (mut read, mut waited) = (0, Duration::ZERO);
        loop {
            let began = Instant::now();
            let idle = self.idle.min(left.saturating_sub(waited));
            let chunk = match timeout(idle, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(room),
                Ok(Err(error)) => {
                    let detail = format!("the answer broke off: {}", describe(error));
                    return Err(ExchangeError::new("cut", detail));
                }
                Err(_) if idle < self.idle => {
                    let detail = "the answer did not come to its end in time";
                    return Err(ExchangeError::new("stall", detail));
                }
                Err(_) => {
                    let detail = format!("the answer paused for {} s", self.idle.as_secs());
                    return Err(ExchangeError::new("stall", detail));
                }
            };
            waited += began.elapsed();
            read += chunk.len();
            if read > most {
                let detail = format!("an answer of more than {most} bytes");
                return Err(ExchangeError::new("oversized", detail));
            }
            let held = take(&chunk);
            if let Some(room) = room.as_mut().filter(|room| held > room.bytes()) {
                let gone = room.acquire_overflow().await;
                gone.map_err(|none| ExchangeError::new("stall", none.to_string()))?;
            }
        }
    }
}

/// Sends, and waits until the answer begins; with it comes the time that is left.
async fn begin(
    request: RequestBuilder,
    Timeouts { first_byte, whole }: Timeouts,
) -> Result<(Response, Duration), ExchangeError> {
    let began = Instant::now();
    match timeout(first_byte, request.send()).await {
        Ok(Ok(response)) => Ok((response, whole.saturating_sub(began.elapsed()))),
        Ok(Err(error)) => {
            // Neither sent anything.
            let sign = if error.is_connect() || error.is_builder() {
                "connect"
            } else {
                "reset"
            };
            Err(ExchangeError::new(sign, describe(error)))
        }
        Err(_) => {
            let detail = format!("no answer within {} s", first_byte.as_secs());
            Err(ExchangeError::new("hang", detail))
        }
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
    readable(text, 1_000)
}

/// An HTTP status, and what the provider said with it.
pub(super) fn describe_status(status: StatusCode, message: &str) -> String {
    let (status, message) = (status.as_u16(), excerpt(message));
    if message.is_empty() {
        format!("HTTP {status}")
    } else {
        format!("HTTP {status}: {message}")
    }
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
