//! One HTTP exchange with a provider, with limits on time and size.
//!
//! A failed exchange becomes an answer signal of the outcome table. A call may have been billed
//! only if something was sent. An answer is read only when a memory permit for it is free
//! ([`Memory`]). Until then the answer stays with the provider, and no timeout runs.

mod base64_extractor;
mod error_text;
mod extracted_body;
mod file_decoder;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::memory::{Memory, MemoryPermit, with_permit};
use domain::clock;
use domain::outcome::table::{self, Dialect};
use domain::outcome::{Failure, readable};
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
use error_text::ErrorText;
pub(super) use extracted_body::{Base64, ExtractedBody};

/// The largest answer that is read, in bytes: the largest image in base64.
const MAX_BODY_BYTES: usize = OVERFLOW_BYTES / 3 * 4;
/// How many bytes are read of an answer whose status is not a success. Far less of the text is kept
/// ([`ErrorText`]).
const MAX_ERROR_BYTES: usize = 1 << 20;
/// The size of the chunks in which a body is sent. The whole body stays in memory until the last
/// chunk is sent.
const UPLOAD_CHUNK_BYTES: usize = 64 << 10;
/// The number of idle connections to a host that are kept for the next calls.
const IDLE_CONNECTIONS: usize = 16;
/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer to a poll or a download may take to begin. It is short, because no model
/// works meanwhile.
const GET_TIMEOUT: Duration = Duration::from_secs(30);

/// The HTTP client of one provider.
pub(super) struct Http {
    client: reqwest::Client,
    /// The longest pause in an answer while it is read.
    idle: Duration,
    /// The memory that answers are read into.
    memory: Memory,
}

/// The timeouts of an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// The time until the answer begins.
    first_byte: Duration,
    /// The time until the answer ends. The wait for a memory permit does not count.
    whole: Duration,
}

impl Timeouts {
    /// The timeouts of a call, whose answer begins only when the model has finished.
    pub(super) fn for_generation(timeout: Duration) -> Self {
        Self {
            first_byte: timeout,
            whole: timeout,
        }
    }

    /// The timeouts of a poll or a download, whose answer begins soon. The transfer of an image may
    /// still take long.
    pub(super) fn for_get(timeout: Duration) -> Self {
        Self {
            first_byte: GET_TIMEOUT.min(timeout),
            whole: timeout,
        }
    }
}

/// An answer that was read to its end.
pub(super) struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: ExtractedBody,
}

/// A failed exchange, and its answer signal.
pub(super) struct ExchangeError {
    answer_signal: &'static str,
    detail: String,
}

impl ExchangeError {
    fn new(answer_signal: &'static str, detail: impl Into<String>) -> Self {
        Self {
            answer_signal,
            detail: detail.into(),
        }
    }

    /// The failure that the outcome table has for this error.
    pub(super) fn into_failure(self, dialect: Dialect) -> Failure {
        Failure::new(table::class(dialect, self.answer_signal), self.detail)
    }
}

impl Http {
    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Returns an error if TLS cannot be set up.
    pub(super) fn new(settings: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would send the prompt and our key to another host.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("platen/", env!("CARGO_PKG_VERSION")))
            // HTTP/1.1, so that each call has its own connection. In HTTP/2 all calls share one
            // flow control window, and an answer that waits unread would block the others.
            .http1_only()
            // A connection that has carried an image keeps a read buffer of half a megabyte.
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build()?;
        Ok(Self {
            client,
            idle: settings.idle,
            memory: settings.memory.clone(),
        })
    }

    pub(super) fn post(&self, url: &str) -> RequestBuilder {
        self.client.post(url)
    }

    /// Builds a POST with a JSON body. The body holds its memory permit until it is sent.
    pub(super) fn post_json(
        &self,
        url: &str,
        body: &impl Serialize,
        permit: Option<MemoryPermit>,
    ) -> RequestBuilder {
        let json = serde_json::to_vec(body).expect("what we send is JSON");
        let json = with_permit(json, permit);
        let length = json.len();
        let chunks = (0..length)
            .step_by(UPLOAD_CHUNK_BYTES)
            .map(move |at| json.slice(at..length.min(at + UPLOAD_CHUNK_BYTES)));
        self.client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, length)
            // A stream of small parts: the client copies what it sends into its own buffer. It
            // would copy a body of one part whole, without a permit for that memory.
            .body(Body::wrap_stream(stream::iter(
                chunks.map(Ok::<_, std::convert::Infallible>),
            )))
    }

    pub(super) fn get(&self, url: &str) -> RequestBuilder {
        self.client.get(url)
    }

    /// Sends the request and reads the answer to its end. Files in a successful answer are
    /// extracted. Of any other answer only the text is kept.
    ///
    /// # Errors
    ///
    /// Returns an error if the request cannot be sent, if no answer begins in time, or if a
    /// successful answer breaks off, ends late, is too large, or pauses for longer than the idle
    /// time.
    pub(super) async fn exchange(
        &self,
        request: RequestBuilder,
        timeouts: Timeouts,
    ) -> Result<Received, ExchangeError> {
        let (mut response, time_left) = begin(request, timeouts).await?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let body = if status.is_success() {
            let permit = self.memory_permit(&response).await?;
            // Four characters of base64 are three bytes of the file.
            let mut extractor = Base64Extractor::with_capacity(typical_bytes(&response) / 4 * 3);
            let read = self.read(response, time_left, MAX_BODY_BYTES, Some(permit), |chunk| {
                extractor.push(chunk);
                extractor.len()
            });
            let permit = read.await?;
            let (text, files) = extractor.finish();
            ExtractedBody::new(text, files, permit)
        } else {
            let mut text = ErrorText::default();
            let read = self.read(response, time_left, MAX_ERROR_BYTES, None, |chunk| {
                text.push(chunk);
                // There is no permit that the text could exceed.
                0
            });
            // The status classifies the answer even if its text breaks off.
            let _result = read.await;
            ExtractedBody::text_only(text.finish())
        };
        Ok(Received {
            status,
            headers,
            body,
        })
    }

    /// Downloads a file. The file is empty if the status is not a success.
    ///
    /// # Errors
    ///
    /// Returns an error if the request cannot be sent, if no answer begins in time, or if a
    /// successful answer breaks off, ends late, is too large, or pauses for longer than the idle
    /// time.
    pub(super) async fn download(
        &self,
        request: RequestBuilder,
        timeouts: Timeouts,
    ) -> Result<(StatusCode, Bytes), ExchangeError> {
        let (response, time_left) = begin(request, timeouts).await?;
        let status = response.status();
        if !status.is_success() {
            return Ok((status, Bytes::new()));
        }
        let permit = self.memory_permit(&response).await?;
        let mut file = Vec::with_capacity(typical_bytes(&response));
        let permit = self
            .read(response, time_left, OVERFLOW_BYTES, Some(permit), |chunk| {
                file.extend_from_slice(chunk);
                file.len()
            })
            .await?;
        Ok((status, with_permit(file, permit)))
    }

    /// Waits for memory for an answer ([`typical_bytes`]). The length of the answer is enough,
    /// because what is kept of an answer is never longer than the answer.
    async fn memory_permit(&self, response: &Response) -> Result<MemoryPermit, ExchangeError> {
        let permit = self.memory.acquire(typical_bytes(response)).await;
        permit.map_err(|error| ExchangeError::new("stall", error.to_string()))
    }

    /// Reads an answer of at most `max_bytes` to its end, within `time_left`. `consume` gets each
    /// chunk and returns how many bytes are kept so far. If they exceed the permit, this function
    /// waits until the permit may be exceeded ([`MemoryPermit::acquire_overflow`]). Returns the
    /// permit.
    async fn read(
        &self,
        mut response: Response,
        time_left: Duration,
        max_bytes: usize,
        mut permit: Option<MemoryPermit>,
        mut consume: impl FnMut(&[u8]) -> usize,
    ) -> Result<Option<MemoryPermit>, ExchangeError> {
        // Only the time spent on the network counts. The wait for the overflow is our own.
        let (mut bytes_read, mut waited) = (0, Duration::ZERO);
        loop {
            let started = Instant::now();
            let idle = self.idle.min(time_left.saturating_sub(waited));
            let chunk = match timeout(idle, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(permit),
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
            waited += started.elapsed();
            bytes_read += chunk.len();
            if bytes_read > max_bytes {
                let detail = format!("an answer of more than {max_bytes} bytes");
                return Err(ExchangeError::new("oversized", detail));
            }
            let kept = consume(&chunk);
            if let Some(permit) = permit.as_mut().filter(|permit| kept > permit.bytes()) {
                let overflow = permit.acquire_overflow().await;
                overflow.map_err(|error| ExchangeError::new("stall", error.to_string()))?;
            }
        }
    }
}

/// The length of an answer, but at most that of a typical answer, in bytes. An answer that does not
/// state its length counts as typical.
fn typical_bytes(response: &Response) -> usize {
    let length = response.content_length();
    let length = length.and_then(|length| usize::try_from(length).ok());
    length.map_or(TYPICAL_RESPONSE_BYTES, |length| {
        length.min(TYPICAL_RESPONSE_BYTES)
    })
}

/// Sends the request and waits until the answer begins. Returns the time that is left for the rest
/// of the answer.
async fn begin(
    request: RequestBuilder,
    Timeouts { first_byte, whole }: Timeouts,
) -> Result<(Response, Duration), ExchangeError> {
    let started = Instant::now();
    match timeout(first_byte, request.send()).await {
        Ok(Ok(response)) => Ok((response, whole.saturating_sub(started.elapsed()))),
        Ok(Err(error)) => {
            // If the client could not connect or build the request, nothing was sent, so the call
            // is free.
            let answer_signal = if error.is_connect() || error.is_builder() {
                "connect"
            } else {
                "reset"
            };
            Err(ExchangeError::new(answer_signal, describe(error)))
        }
        Err(_) => {
            let detail = format!("no answer within {} s", first_byte.as_secs());
            Err(ExchangeError::new("hang", detail))
        }
    }
}

impl Received {
    /// How long the provider asks to wait, from the header `Retry-After`, in seconds or as a date
    /// (RFC 9110, 10.2.3).
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = value.parse::<f64>() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        let retry_at = OffsetDateTime::parse(value, &Rfc2822).ok()?;
        Duration::try_from(retry_at - clock::now()).ok()
    }

    /// The value of a header. Returns `None` if the header is missing or is not text.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }
}

/// See [`super::extract_files`].
pub(super) fn extract_files<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Vec<Option<Vec<u8>>>) {
    let mut extractor = Base64Extractor::default();
    chunks.into_iter().for_each(|chunk| extractor.push(chunk));
    extractor.finish()
}

/// A text of a provider, cleaned and cut to a thousand characters.
pub(super) fn excerpt(text: &str) -> String {
    readable(text, 1_000)
}

/// An HTTP status and the provider's message, for a failure's detail.
pub(super) fn describe_status(status: StatusCode, message: &str) -> String {
    let (status, message) = (status.as_u16(), excerpt(message));
    if message.is_empty() {
        format!("HTTP {status}")
    } else {
        format!("HTTP {status}: {message}")
    }
}

/// Why an answer cannot be parsed. Nothing of the answer is quoted, because it may repeat the
/// prompt.
pub(super) fn describe_parse_error(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let category = error.classify();
    format!("an answer that cannot be read: {category:?} at line {line}, column {column}")
}

/// An error with its causes, but without the URL, because the URL may contain a key.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
