//! What was answered to a POST, kept with its effect, so that repeating it repeats the answer and nothing else.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Which request it is: the same key for another request is refused.
pub type RequestHash = [u8; 32];

/// A POST that may be repeated.
#[derive(Clone, Debug)]
pub struct Request {
    /// As the client sent it, or one we made.
    pub key: String,
    pub hash: RequestHash,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            location: None,
            body: Vec::new(),
        }
    }

    /// With a body.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        Self {
            body: serde_json::to_vec(body).expect("an answer is JSON"),
            ..Self::empty(status)
        }
    }
}

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was answered before, like this.
    Answered(Answer),
    /// The key was used for another request.
    AnotherRequest,
}

/// Hash of what makes two requests the same: method, path and body, byte for byte.
pub fn request_hash(method: &str, path: &str, body: &[u8]) -> RequestHash {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), path.as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
