//! Requests, with their idempotency keys, for the actions of operators.

use anyhow::ensure;
use domain::id::RequestId;
use domain::idempotency::{self, Request};

/// A request with a new idempotency key, so the request is never a repetition. `command` says what is done.
pub(super) fn new_request(command: &str) -> Request {
    request(RequestId::new().0.to_string(), command)
}

/// A request that takes effect once for each `key`; without a key, a new request. `command` says what is done. When a key is used
/// again, `command` must be the same as the first time.
///
/// # Errors
///
/// Returns an error if the key does not have 1 to 255 visible ASCII characters.
pub(super) fn repeatable_request(key: Option<String>, command: &str) -> anyhow::Result<Request> {
    let Some(key) = key else {
        return Ok(new_request(command));
    };
    let is_usable =
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(
        is_usable,
        "--idempotency-key must have 1 to 255 visible ASCII characters"
    );
    Ok(request(key, command))
}

fn request(key: String, command: &str) -> Request {
    Request {
        key,
        hash: idempotency::request_hash("platen admin", command, b""),
    }
}
