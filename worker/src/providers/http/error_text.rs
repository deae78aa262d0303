//! Shortens the text of an answer whose status is not a success, while the text is read.
//!
//! An error's code may come after a message of any length. So each string is cut to its first
//! bytes, and the text after that string is still read. Little is kept, whatever a server sends. If
//! the text breaks off, its open strings, lists and objects are closed, so that it can be parsed.

use serde::de::IgnoredAny;

/// How many bytes of a string are kept.
const MAX_STRING_BYTES: usize = 4 << 10;
/// How many bytes of the whole text are kept.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Reads JSON in chunks, and keeps the beginning of each string.
#[derive(Default)]
pub(super) struct ErrorText {
    /// What is kept.
    text: Vec<u8>,
    state: ScanState,
}

/// The state of the scan: where in the JSON the next byte is.
#[derive(Clone, Copy, Default)]
enum ScanState {
    #[default]
    OutsideString,
    /// In a string of which `kept_bytes` bytes are kept. `after_high_surrogate` says that these
    /// bytes end with the first escape of a character that needs two escapes (a UTF-16 surrogate
    /// pair).
    String {
        kept_bytes: usize,
        after_high_surrogate: bool,
    },
    /// In an escape of a string.
    Escape(Escape),
}

/// An escape of a string that is not complete yet.
#[derive(Clone, Copy)]
struct Escape {
    /// How many bytes of the string before the escape are kept.
    kept_bytes: usize,
    /// How many characters have come after the backslash.
    length: usize,
    /// Whether the escape is kept.
    is_kept: bool,
}

impl ErrorText {
    /// Takes the next bytes of the text.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            self.push_byte(byte);
        }
    }

    /// Keeps or drops the next byte, and moves to the next state.
    fn push_byte(&mut self, byte: u8) {
        let (is_kept, next) = match (self.state, byte) {
            (ScanState::OutsideString, b'"') => {
                let (kept_bytes, after_high_surrogate) = (0, false);
                (
                    true,
                    ScanState::String {
                        kept_bytes,
                        after_high_surrogate,
                    },
                )
            }
            (ScanState::OutsideString, _) => (true, ScanState::OutsideString),
            (ScanState::String { .. }, b'"') => (true, ScanState::OutsideString),
            (
                ScanState::String {
                    kept_bytes,
                    after_high_surrogate,
                },
                b'\\',
            ) => {
                // The second escape of a pair is kept whenever the first one was.
                let is_kept = after_high_surrogate || kept_bytes < MAX_STRING_BYTES;
                let length = 0;
                let escape = Escape {
                    kept_bytes,
                    length,
                    is_kept,
                };
                (is_kept, ScanState::Escape(escape))
            }
            (ScanState::String { kept_bytes, .. }, _) => {
                let is_kept = kept_bytes < MAX_STRING_BYTES;
                let kept_bytes = kept_bytes + usize::from(is_kept);
                (
                    is_kept,
                    ScanState::String {
                        kept_bytes,
                        after_high_surrogate: false,
                    },
                )
            }
            (ScanState::Escape(escape), _) => (escape.is_kept, self.after_escape(escape, byte)),
        };
        self.state = next;
        if is_kept && self.text.len() < MAX_TEXT_BYTES {
            // Some servers write line breaks without escapes, which JSON does not allow.
            self.text.push(byte.max(b' '));
        }
    }

    /// The state after `byte`, the next byte of an escape. If the character after the backslash is
    /// `u`, four digits follow. Any other character ends the escape.
    fn after_escape(&self, escape: Escape, byte: u8) -> ScanState {
        let Escape {
            kept_bytes,
            length,
            is_kept,
        } = escape;
        if (length == 0 && byte == b'u') || (1..4).contains(&length) {
            let length = length + 1;
            return ScanState::Escape(Escape { length, ..escape });
        }
        // The first three digits. The fourth is `byte`, which is not in the text yet. The digits of
        // a high surrogate are D800 to DBFF.
        let digits = self.text.last_chunk::<3>().unwrap_or(&[0; 3]);
        let after_high_surrogate = is_kept
            && length == 4
            && matches!(
                digits,
                [b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', _]
            );
        // The backslash, the characters after it, and `byte`.
        let kept_bytes = kept_bytes + if is_kept { length + 2 } else { 0 };
        ScanState::String {
            kept_bytes,
            after_high_surrogate,
        }
    }

    /// The text that was kept. If it is JSON that breaks off, it is closed where possible
    /// ([`close_truncated`]), so that it can be parsed.
    pub(super) fn finish(self) -> String {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        close_truncated(&text).unwrap_or(text)
    }
}

/// Closes the open strings, lists and objects of a text that breaks off. They are closed at the end
/// of the text if the result is valid JSON, else after the last complete member or element. Returns
/// `None` if neither is valid, or if nothing is open.
fn close_truncated(text: &str) -> Option<String> {
    let open = OpenParts::scan(text);
    if open.brackets.is_empty() && !open.in_string {
        return None;
    }
    let at_end = (text, open.closing_text());
    let before_comma = open.last_comma.map(|comma| &text[..comma]);
    let before_comma = before_comma.map(|text| (text, OpenParts::scan(text).closing_text()));
    let candidates = [Some(at_end), before_comma].into_iter().flatten();
    candidates
        .map(|(text, closing)| format!("{text}{closing}"))
        .find(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// The strings, lists and objects that are open at the end of a text.
#[derive(Default)]
struct OpenParts {
    /// The brackets that close the open objects and lists, the outermost first.
    brackets: String,
    /// Whether the text ends in a string.
    in_string: bool,
    /// Where the last comma outside a string is.
    last_comma: Option<usize>,
}

impl OpenParts {
    /// Finds what is open at the end of `text`.
    fn scan(text: &str) -> Self {
        let mut open = Self::default();
        let mut escaped = false;
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if open.in_string => escaped = true,
                b'"' => open.in_string = !open.in_string,
                _ if open.in_string => {}
                b'{' => open.brackets.push('}'),
                b'[' => open.brackets.push(']'),
                b'}' | b']' => {
                    open.brackets.pop();
                }
                b',' => open.last_comma = Some(at),
                _ => {}
            }
        }
        open
    }

    /// The text that closes everything that is open.
    fn closing_text(&self) -> String {
        let quote = if self.in_string { "\"" } else { "" };
        quote.chars().chain(self.brackets.chars().rev()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &[u8]) -> Value {
        let mut all: Vec<Value> = [1, 7, 4_096, text.len()]
            .into_iter()
            .map(|size| {
                let mut error_text = ErrorText::default();
                text.chunks(size.max(1))
                    .for_each(|chunk| error_text.push(chunk));
                serde_json::from_str(&error_text.finish()).unwrap_or_default()
            })
            .collect();
        let first = all.remove(0);
        assert!(all.iter().all(|other| *other == first));
        first
    }

    #[test]
    fn a_code_is_found_after_a_message_of_any_length() {
        for message in [
            "x".repeat(1 << 20),
            "ü, {\"[ \\ ".repeat(100_000),
            "\u{1F600}".repeat(100_000),
            BASE64_LIKE.repeat(20_000),
        ] {
            let plain = format!(
                r#"{{"error": {{"message": {}, "code": "c"}}}}"#,
                json!(message)
            );
            // Servers in Python escape every character that is not ASCII.
            let escaped: String = plain
                .encode_utf16()
                .map(|unit| match u8::try_from(unit) {
                    Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                    _ => format!("\\u{unit:04X}"),
                })
                .collect();
            for text in [plain, escaped] {
                let read = read(text.as_bytes());
                assert_eq!(read["error"]["code"], "c", "{text:.40}");
                let kept = read["error"]["message"].as_str().unwrap();
                assert!(message.starts_with(kept.trim_end_matches('\u{FFFD}')));
                assert!(
                    (500..=MAX_STRING_BYTES + 2).contains(&kept.len()),
                    "{}",
                    kept.len()
                );
            }
        }
    }

    /// Text that might be base64.
    const BASE64_LIKE: &str = "QUJD";

    #[test]
    fn a_text_that_breaks_off_is_parsed_as_far_as_it_came() {
        for (text, read_as) in [
            (
                r#"{"error": {"code": "c", "message": "No"#,
                json!({"error": {"code": "c", "message": "No"}}),
            ),
            (
                r#"{"error": {"code": "c", "message": "No\"#,
                json!({"error": {"code": "c"}}),
            ),
            (
                r#"{"error": {"code": "c", "mess"#,
                json!({"error": {"code": "c"}}),
            ),
            (
                r#"{"error": {"code": "c", "details": [{"a": 1}, {"b": tr"#,
                json!({"error": {"code": "c", "details": [{"a": 1}]}}),
            ),
            (
                r#"[{"error": {"code": "c""#,
                json!([{"error": {"code": "c"}}]),
            ),
            ("<html>", Value::Null),
            ("{", json!({})),
            ("", Value::Null),
        ] {
            assert_eq!(read(text.as_bytes()), read_as, "{text}");
        }
        let many: Vec<String> = (0..9_000)
            .map(|n| format!(r#""field-{n}": [1, 2],"#))
            .collect();
        let many = many.concat();
        assert_eq!(
            read(format!(r#"{{"code": "c", {many}"#).as_bytes())["code"],
            "c"
        );
    }

    #[test]
    fn characters_that_json_forbids_are_replaced() {
        assert_eq!(
            read(b"{\"message\": \"one\ntwo\", \"code\": \"c\"}")["message"],
            "one two"
        );
        assert_eq!(
            read(b"{\"message\": \"caf\xE9\", \"code\": \"c\"}")["message"],
            "caf\u{FFFD}"
        );
    }
}
