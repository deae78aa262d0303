//! Idempotency keys for the actions of operators.

use anyhow::ensure;
use domain::id::RequestId;
use domain::idempotency::{self, Request};

/// Makes a request that takes effect once per idempotency key. Without `key` the request gets a new key, so it is never a
/// repetition. If a key is repeated, `command` must be the same as the first time.
///
/// # Errors
///
/// Returns an error if the key does not have 1 to 255 visible ASCII characters.
pub(super) fn idempotent_request(key: Option<String>, command: &str) -> anyhow::Result<Request> {
    let key = key.unwrap_or_else(|| RequestId::new().0.to_string());
    let is_usable =
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(
        is_usable,
        "--idempotency-key takes 1 to 255 visible ASCII characters"
    );
    Ok(Request {
        key,
        hash: idempotency::request_hash("platen admin", command, b""),
    })
}
