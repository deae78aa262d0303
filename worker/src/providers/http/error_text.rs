//! The body of an answer that is no success, as far as it says something: words, never files.
//!
//! A code may stand behind a message of any length, so every string is cut to its beginning as it comes and the rest of the text is
//! read on. Little is held, whatever a server sends; what was held of a text that is cut off is closed, so that it can be read.

use serde::de::IgnoredAny;

/// The longest beginning of a string that is held.
const MAX_STRING_BYTES: usize = 4 << 10;
/// The longest text that is held.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Reads JSON in chunks.
#[derive(Default)]
pub(super) struct ErrorText {
    text: Vec<u8>,
    place: Position,
}

/// Where in the text the next byte stands.
#[derive(Clone, Copy, Default)]
enum Position {
    #[default]
    Between,
    /// In a string, of which so much is held. `half`: it ends in the first half of a character that takes two escapes.
    String { held: usize, half: bool },
    /// In an escape of a string: after the backslash, and so many characters.
    Escape {
        held: usize,
        length: usize,
        holds: bool,
    },
}

impl ErrorText {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            self.take(byte);
        }
    }

    fn take(&mut self, byte: u8) {
        let (holds, next) = match (self.place, byte) {
            (Position::Between, b'"') => (
                true,
                Position::String {
                    held: 0,
                    half: false,
                },
            ),
            (Position::Between, _) => (true, Position::Between),
            (Position::String { .. }, b'"') => (true, Position::Between),
            (Position::String { held, half }, b'\\') => {
                let holds = half || held < MAX_STRING_BYTES;
                (
                    holds,
                    Position::Escape {
                        held,
                        length: 0,
                        holds,
                    },
                )
            }
            (Position::String { held, .. }, _) => {
                let holds = held < MAX_STRING_BYTES;
                let held = held + usize::from(holds);
                (holds, Position::String { held, half: false })
            }
            (
                Position::Escape {
                    held,
                    length: 0,
                    holds,
                },
                b'u',
            ) => (
                holds,
                Position::Escape {
                    held,
                    length: 1,
                    holds,
                },
            ),
            (
                Position::Escape {
                    held,
                    length,
                    holds,
                },
                _,
            ) if (1..4).contains(&length) => (
                holds,
                Position::Escape {
                    held,
                    length: length + 1,
                    holds,
                },
            ),
            (
                Position::Escape {
                    held,
                    length,
                    holds,
                },
                _,
            ) => {
                let digits = self.text.last_chunk::<3>().unwrap_or(&[0; 3]);
                let half = holds
                    && length == 4
                    && matches!(
                        digits,
                        [b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', _]
                    );
                let held = held + if holds { length + 2 } else { 0 };
                (holds, Position::String { held, half })
            }
        };
        self.place = next;
        if holds && self.text.len() < MAX_TEXT_BYTES {
            // Some write line breaks as they are, which JSON does not allow.
            self.text.push(byte.max(b' '));
        }
    }

    /// All that was held, as JSON if it was JSON.
    pub(super) fn finish(self) -> String {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        closed(&text).unwrap_or(text)
    }
}

/// A text that is cut off, with an end: where it breaks off, else after the last member or element that is whole. `None`: neither
/// can be read, or nothing is missing.
fn closed(text: &str) -> Option<String> {
    let cut = TruncatedJson::of(text);
    if cut.open.is_empty() && !cut.in_string {
        return None;
    }
    let here = (text, cut.end());
    let before = cut.comma.map(|comma| &text[..comma]);
    let before = before.map(|text| (text, TruncatedJson::of(text).end()));
    let ends = [Some(here), before].into_iter().flatten();
    ends.map(|(text, end)| format!("{text}{end}"))
        .find(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// How a text stands at its end.
#[derive(Default)]
struct TruncatedJson {
    /// What closes the objects and lists that are open, the outermost first.
    open: String,
    in_string: bool,
    /// Where the last comma between members or elements is.
    comma: Option<usize>,
}

impl TruncatedJson {
    fn of(text: &str) -> Self {
        let mut cut = Self::default();
        let mut escaped = false;
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if cut.in_string => escaped = true,
                b'"' => cut.in_string = !cut.in_string,
                _ if cut.in_string => {}
                b'{' => cut.open.push('}'),
                b'[' => cut.open.push(']'),
                b'}' | b']' => {
                    cut.open.pop();
                }
                b',' => cut.comma = Some(at),
                _ => {}
            }
        }
        cut
    }

    fn end(&self) -> String {
        let quote = if self.in_string { "\"" } else { "" };
        quote.chars().chain(self.open.chars().rev()).collect()
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
                let mut words = ErrorText::default();
                text.chunks(size.max(1)).for_each(|chunk| words.push(chunk));
                serde_json::from_str(&words.finish()).unwrap_or_default()
            })
            .collect();
        let first = all.remove(0);
        assert!(all.iter().all(|other| *other == first));
        first
    }

    #[test]
    fn a_code_is_found_behind_a_message_of_any_length() {
        for message in [
            "x".repeat(1 << 20),
            "ü, {\"[ \\ ".repeat(100_000),
            "\u{1F600}".repeat(100_000),
            STANDARD_LIKE.repeat(20_000),
        ] {
            let plain = format!(
                r#"{{"error": {{"message": {}, "code": "c"}}}}"#,
                json!(message)
            );
            // As servers in Python write it.
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

    /// Words that might be base64.
    const STANDARD_LIKE: &str = "QUJD";

    #[test]
    fn what_is_cut_off_says_what_it_said_until_then() {
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
    fn what_json_does_not_allow_costs_no_code() {
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
