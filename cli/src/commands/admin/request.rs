//! The idempotency of operators' actions.

use anyhow::ensure;
use domain::id::RequestId;
use domain::idempotency::{self, Request};

/// A request that is done once for each idempotency key. Without a key it gets a new one, so it is never a repetition.
/// `command` must be the same when a key is repeated.
///
/// # Errors
///
/// The key is not 1 to 255 visible ASCII characters.
pub(super) fn request(key: Option<String>, command: &str) -> anyhow::Result<Request> {
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
