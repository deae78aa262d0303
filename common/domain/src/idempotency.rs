//! Idempotency keys: the answer to a POST is stored in the same transaction as its effect. A
//! repeated request gets the same answer and has no effect.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Hash of a request ([`request_hash`]). It shows whether a key is used again for a different
/// request.
pub type RequestHash = [u8; 32];

/// The idempotency key and the hash of a POST or of an operator's action. They identify a
/// repetition.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's `Idempotency-Key`, or a key that we made.
    pub key: String,
    /// Hash of the request ([`request_hash`]).
    pub hash: RequestHash,
}

/// The answer to a POST, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The `Location` header, if there is one.
    pub location: Option<String>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            location: None,
            body: Vec::new(),
        }
    }

    /// An answer with a JSON body.
    ///
    /// # Panics
    /// `body` cannot be written as JSON, for example because a map has keys that are not text.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        Self {
            body: serde_json::to_vec(body).expect("an answer is JSON"),
            ..Self::empty(status)
        }
    }
}

/// What is stored under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// The same request was answered before. This is its answer.
    Answered(Answer),
    /// The key belongs to another request.
    AnotherRequest,
}

/// Hash of method, path and body. Two requests are the same if all three agree byte for byte.
pub fn request_hash(method: &str, path: &str, body: &[u8]) -> RequestHash {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), path.as_bytes(), body] {
        // The length comes first: otherwise bytes could move from one part to the next with the
        // same hash.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
