//! Builds the URL of an operation. The id of an operation comes from the provider.

use reqwest::Url;

/// The longest id of an interaction that is used, in bytes.
pub(super) const MAX_ID_LENGTH: usize = 500;

/// The URL of one interaction. `collection` is the URL of all interactions, and `operation` is the
/// id of the interaction. Returns `None` if the id is longer than [`MAX_ID_LENGTH`], or cannot be
/// exactly one path segment: the id comes from the provider, and must not lead to another address.
pub(super) fn url(collection: &str, operation: &str) -> Option<Url> {
    if operation.is_empty()
        || operation.len() > MAX_ID_LENGTH
        || matches!(operation, "." | "..")
        || operation.contains(char::is_control)
    {
        return None;
    }
    let mut url = Url::parse(collection).ok()?;
    url.path_segments_mut().ok()?.push(operation);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_always_one_segment_of_the_url() {
        let base = "http://127.0.0.1:1/v1beta/interactions";
        let url = |operation| url(base, operation).map(|url| url.to_string());
        assert_eq!(url("v1_Ab-9").unwrap(), format!("{base}/v1_Ab-9"));
        assert_eq!(
            url("../a?b#c%2F").unwrap(),
            format!("{base}/..%2Fa%3Fb%23c%252F")
        );
        assert_eq!(url("."), None);
        assert_eq!(url("a\nb"), None);
    }
}
