//! What the fake was asked and what it answered: the vendor's side of the story, for tests that count calls.

use super::schema::decode_bytes;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Calls remembered; the oldest go first.
const MOST_CALLS: usize = 100_000;
/// Request bodies kept word for word, and how many bytes they may take together.
const MOST_BODIES: usize = 64;
const MOST_BODY_BYTES: usize = 64 * 1024 * 1024;

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// 0 for the first call since the start; never reused.
    pub number: u64,
    /// Microseconds since the fake started.
    pub received_us: u64,
    /// The same for the answer. `None` while the call is under way, and for ever if the caller went away.
    pub answered_us: Option<u64>,
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The model the path names.
    pub model: String,
    /// The labels of the request: Platen writes its job and call there.
    pub labels: BTreeMap<String, String>,
    /// The request, with `{"sha256", "bytes"}` in place of each `inlineData.data`.
    pub body: Value,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// `ok`, `text`, `refused_request`, or the word of the [`Fault`](super::Fault) that was met.
    pub outcome: Option<String>,
    /// The SHA-256 of the picture in the answer, in hex.
    pub picture_sha256: Option<String>,
}

/// The handle on a running fake's journal. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Mutex<Shared>>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    calls: VecDeque<Arc<Call>>,
    bodies: VecDeque<(u64, Bytes)>,
    received: u64,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Every call remembered, oldest first.
    pub fn calls(&self) -> Vec<Arc<Call>> {
        self.shared().calls.iter().cloned().collect()
    }

    /// How many calls are remembered.
    pub fn count(&self) -> usize {
        self.shared().calls.len()
    }

    /// The calls that carry this label, oldest first.
    pub fn labelled(&self, key: &str, value: &str) -> Vec<Arc<Call>> {
        let mut calls = self.calls();
        calls.retain(|call| call.labels.get(key).is_some_and(|label| label == value));
        calls
    }

    /// How many calls ended with each outcome; `open` are those not answered.
    pub fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut outcomes = BTreeMap::new();
        for call in &self.shared().calls {
            let outcome = call.outcome.as_deref().unwrap_or("open");
            *outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
        outcomes
    }

    /// The request of a call word for word, while it is among the latest 64.
    pub fn raw_body(&self, number: u64) -> Option<Bytes> {
        let shared = self.shared();
        let (_, body) = shared.bodies.iter().find(|(of, _)| *of == number)?;
        Some(body.clone())
    }

    /// Forgets every call. Numbers go on.
    pub fn clear(&self) {
        let mut shared = self.shared();
        shared.calls.clear();
        shared.bodies.clear();
    }

    /// Writes down a call as it comes in; returns its number.
    pub(super) fn open(&self, received: Received) -> u64 {
        let received_us = self.now_us();
        let mut shared = self.shared();
        let number = shared.received;
        shared.received += 1;
        shared.calls.push_back(Arc::new(Call {
            number,
            received_us,
            answered_us: None,
            method: received.method,
            path: received.path,
            model: received.model,
            labels: labels(&received.body),
            body: without_data(&received.body),
            status: None,
            outcome: None,
            picture_sha256: None,
        }));
        shared.bodies.push_back((number, received.raw));
        shared.trim();
        number
    }

    /// Completes a call with its answer.
    pub(super) fn close(&self, number: u64, status: u16, outcome: &str, picture: Option<String>) {
        let answered_us = self.now_us();
        let mut shared = self.shared();
        // From the back: an answer mostly belongs to one of the latest calls.
        if let Some(call) = (shared.calls.iter_mut().rev()).find(|call| call.number == number) {
            let call = Arc::make_mut(call);
            call.answered_us = Some(answered_us);
            call.status = Some(status);
            call.outcome = Some(outcome.to_owned());
            call.picture_sha256 = picture;
        }
    }

    /// Microseconds since the fake started: the clock its calls are stamped with.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call as it arrives.
pub(super) struct Received {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) model: String,
    pub(super) body: Value,
    pub(super) raw: Bytes,
}

impl Shared {
    fn trim(&mut self) {
        while self.calls.len() > MOST_CALLS {
            self.calls.pop_front();
        }
        let mut held: usize = self.bodies.iter().map(|(_, body)| body.len()).sum();
        while self.bodies.len() > MOST_BODIES || held > MOST_BODY_BYTES {
            let Some((_, body)) = self.bodies.pop_front() else {
                break;
            };
            held -= body.len();
        }
    }
}

fn labels(body: &Value) -> BTreeMap<String, String> {
    let labels = body.get("labels").and_then(Value::as_object);
    (labels.into_iter().flatten())
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A copy of a body in which every blob's `data` is only described.
fn without_data(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_data).collect(),
        Value::Object(fields) => (fields.iter())
            .map(|(name, value)| {
                let blob = matches!(name.as_str(), "inlineData" | "inline_data");
                let value = match value {
                    Value::Object(fields) if blob => described(fields),
                    value => without_data(value),
                };
                (name.clone(), value)
            })
            .collect(),
        value => value.clone(),
    }
}

fn described(blob: &serde_json::Map<String, Value>) -> Value {
    let mut blob = blob.clone();
    if let Some(Value::String(data)) = blob.get("data") {
        let bytes = decode_bytes(data).unwrap_or_default();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        blob.insert(
            "data".to_owned(),
            json!({"sha256": sha256, "bytes": bytes.len()}),
        );
    }
    Value::Object(blob)
}
