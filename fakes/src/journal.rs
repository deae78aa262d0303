//! The calls that the fake received and how it answered, for tests that count calls.

use super::blob::without_data;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// How many calls are kept. The oldest are dropped first.
const MAX_CALLS: usize = 100_000;
/// How many request bodies are kept unchanged.
const MAX_BODIES: usize = 64;
/// How many bytes the kept bodies may have together.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// The number of the call. It is 0 for the first call since the start, and is never reused.
    pub number: u64,
    /// The vendor whose protocol the call used: `vertex`, `gemini`, `interactions`, `openai` or
    /// `identity`.
    pub vendor: &'static str,
    /// Whether the call asked for images. Polls, cancellations and downloads do not.
    pub creates: bool,
    /// When the request was read, in microseconds since the fake started.
    pub received_us: u64,
    /// When the answer was ready, in microseconds since the fake started. `None` while the call is running, and for
    /// ever if the caller closed the connection.
    pub answered_us: Option<u64>,
    /// The HTTP method.
    pub method: String,
    /// The path of the URL.
    pub path: String,
    /// The model that the path or the body names.
    pub model: String,
    /// The labels of the request. Platen writes the ids of its job and call there.
    pub labels: BTreeMap<String, String>,
    /// The request, with `{"sha256", "bytes"}` in place of each file in it.
    pub body: Value,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// `ok`, `text`, `refused_request`, the word of the [`Fault`](super::Fault) that was played, or `throttle` beyond
    /// the admission limit. For a poll: the status of the interaction. `None` while the call is running.
    pub outcome: Option<String>,
    /// The SHA-256 of the image in the answer, in hex.
    pub picture_sha256: Option<String>,
}

/// The journal of a running fake. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Mutex<Shared>>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    /// The kept calls, oldest first.
    calls: VecDeque<Arc<Call>>,
    /// The kept bodies, oldest first, each with the number of its call.
    bodies: VecDeque<(u64, Bytes)>,
    /// How many calls were received since the start. This is the number of the next call.
    received: u64,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::default(),
            started: Instant::now(),
        }
    }

    /// All calls that are kept, oldest first.
    pub fn calls(&self) -> Vec<Arc<Call>> {
        self.shared().calls.iter().cloned().collect()
    }

    /// How many of the kept calls asked for images.
    pub fn count(&self) -> usize {
        self.shared().created().count()
    }

    /// The calls with this label, oldest first.
    pub fn labelled(&self, key: &str, value: &str) -> Vec<Arc<Call>> {
        let mut calls = self.calls();
        calls.retain(|call| call.labels.get(key).is_some_and(|label| label == value));
        calls
    }

    /// How many calls that asked for images ended with each outcome. `open` counts calls without an answer.
    pub fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut outcomes = BTreeMap::new();
        for call in self.shared().created() {
            let outcome = call.outcome.as_deref().unwrap_or("open");
            *outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
        outcomes
    }

    /// The unchanged body of the call with this number. Returns `None` if the body was empty or is no longer kept: only
    /// the latest 64 bodies are, and only as many as have 64 MiB together.
    pub fn raw_body(&self, number: u64) -> Option<Bytes> {
        let shared = self.shared();
        let (_, body) = shared.bodies.iter().find(|(call, _)| *call == number)?;
        Some(body.clone())
    }

    /// Drops all calls. Later calls continue the numbers.
    pub fn clear(&self) {
        let mut shared = self.shared();
        shared.calls.clear();
        shared.bodies.clear();
    }

    /// Records a call that was received, and returns its number.
    pub(super) fn open(&self, received: ReceivedCall) -> u64 {
        let received_us = self.now_us();
        let mut shared = self.shared();
        let number = shared.received;
        shared.received += 1;
        shared.calls.push_back(Arc::new(Call {
            number,
            vendor: received.vendor,
            creates: received.creates,
            received_us,
            answered_us: None,
            method: received.method,
            path: received.path,
            model: received.entry.model,
            labels: received.entry.labels,
            body: received.entry.body,
            status: None,
            outcome: None,
            picture_sha256: None,
        }));
        if !received.raw.is_empty() {
            shared.bodies.push_back((number, received.raw));
        }
        shared.trim();
        number
    }

    /// Records the answer to a call.
    pub(super) fn close(
        &self,
        number: u64,
        status: u16,
        outcome: &str,
        image_sha256: Option<String>,
    ) {
        let answered_us = self.now_us();
        let mut shared = self.shared();
        // The search begins at the end, because most answers belong to one of the latest calls.
        if let Some(call) = (shared.calls.iter_mut().rev()).find(|call| call.number == number) {
            let call = Arc::make_mut(call);
            call.answered_us = Some(answered_us);
            call.status = Some(status);
            call.outcome = Some(outcome.to_owned());
            call.picture_sha256 = image_sha256;
        }
    }

    /// The microseconds since the fake started, by the clock of [`Call::received_us`].
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was received.
pub(super) struct ReceivedCall {
    pub(super) vendor: &'static str,
    pub(super) creates: bool,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) entry: Entry,
    pub(super) raw: Bytes,
}

/// The parts of a request that the journal keeps.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) model: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) body: Value,
}

impl Entry {
    /// The entry of a request in JSON.
    pub(super) fn from_json(model: &str, body: &Value) -> Self {
        let labels = body.get("labels").and_then(Value::as_object);
        Self {
            model: model.to_owned(),
            labels: (labels.into_iter().flatten())
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            body: without_data(body),
        }
    }
}

impl Shared {
    /// The kept calls that asked for images, oldest first.
    fn created(&self) -> impl Iterator<Item = &Arc<Call>> {
        self.calls.iter().filter(|call| call.creates)
    }

    /// Drops the oldest calls and bodies beyond the limits.
    fn trim(&mut self) {
        while self.calls.len() > MAX_CALLS {
            self.calls.pop_front();
        }
        let mut total: usize = self.bodies.iter().map(|(_, body)| body.len()).sum();
        while self.bodies.len() > MAX_BODIES || total > MAX_BODY_BYTES {
            let Some((_, body)) = self.bodies.pop_front() else {
                break;
            };
            total -= body.len();
        }
    }
}
