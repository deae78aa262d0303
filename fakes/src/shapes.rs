//! The names of the shapes in which servers that copy `OpenAI` send the same good answer: the values of the fault
//! `shape:<name>`. `openai/shape.rs` writes them.

/// `b64_json` is empty, and `url` has the address of the image.
pub(super) const EMPTY_BESIDE_ADDRESS: &str = "empty_beside_address";
/// `b64_json` is null, and `url` has the address of the image.
pub(super) const NULL_BESIDE_ADDRESS: &str = "null_beside_address";
/// `url` is a data: URI.
pub(super) const DATA_ADDRESS: &str = "data_address";
/// `b64_json` is a data: URI.
pub(super) const DATA_ADDRESS_IN_B64_JSON: &str = "data_address_in_b64_json";
/// The base64 has line breaks, as MIME writes it (RFC 2045, 6.8).
pub(super) const LINES: &str = "lines";
/// Like [`LINES`], but the line breaks are not escaped, so the JSON is invalid.
pub(super) const UNESCAPED_LINES: &str = "unescaped_lines";
/// The base64 uses the URL-safe alphabet (RFC 4648, 5).
pub(super) const URL_SAFE: &str = "url_safe";
/// The base64 has no padding.
pub(super) const UNPADDED: &str = "unpadded";
/// Each slash is written `\/`.
pub(super) const ESCAPED_SLASHES: &str = "escaped_slashes";
/// `data` is one object instead of a list.
pub(super) const OBJECT: &str = "object";
/// The whole answer is in a list.
pub(super) const LIST: &str = "list";
/// The answer begins with a byte order mark.
pub(super) const BYTE_ORDER_MARK: &str = "byte_order_mark";
/// Text follows the JSON.
pub(super) const TRAILING: &str = "trailing";

const NAMES: &[&str] = &[
    EMPTY_BESIDE_ADDRESS,
    NULL_BESIDE_ADDRESS,
    DATA_ADDRESS,
    DATA_ADDRESS_IN_B64_JSON,
    LINES,
    UNESCAPED_LINES,
    URL_SAFE,
    UNPADDED,
    ESCAPED_SLASHES,
    OBJECT,
    LIST,
    BYTE_ORDER_MARK,
    TRAILING,
];

/// Whether there is a shape of this name.
pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}
