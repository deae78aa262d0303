//! Makes messages of providers safe to show to customers and operators and to write into logs.

use crate::visible::is_invisible;

/// The text on one line, without characters that hide, reorder or control text. A text of more than
/// `max_length` characters is cut and ends in an ellipsis.
pub fn readable(text: &str, max_length: usize) -> String {
    let mut readable = String::new();
    let mut length = 0_usize;
    for word in text.split(|c: char| c.is_whitespace() || is_separator(c)) {
        let mut letters = word.chars().filter(|&c| !is_hidden(c)).peekable();
        // One space between two words, none before the first and none after the last.
        let space = (length > 0 && letters.peek().is_some()).then_some(' ');
        for c in space.into_iter().chain(letters) {
            if length == max_length {
                readable.pop();
                readable.push('…');
                return readable;
            }
            readable.push(c);
            length = length.saturating_add(1);
        }
    }
    readable
}

/// Whether the control character separates words, as white space does: a backspace, or one of the
/// four separators of ASCII.
fn is_separator(c: char) -> bool {
    matches!(c, '\u{08}' | '\u{1C}'..='\u{1F}')
}

/// Whether the character is left out: a control character, a direction mark or a character without
/// a width. They can make a text look like another one, or disturb a terminal.
fn is_hidden(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_removed() {
        for (text, expected) in [
            ("Your request was rejected.", "Your request was rejected."),
            (
                "  Zu groß: 10 × 12, “nein” 图 🖼 ",
                "Zu groß: 10 × 12, “nein” 图 🖼",
            ),
            ("one\r\n\ttwo\u{2028}three\u{a0}four", "one two three four"),
            ("a\u{0}b\u{1b}[31mc\u{7}\u{9b}d", "ab[31mcd"),
            (
                "pay \u{202E}diap\u{202C} \u{2066}x\u{2069}\u{200F}\u{61C}y",
                "pay diap xy",
            ),
            (
                "\u{FEFF}s\u{200B}e\u{200D}c\u{AD}r\u{2060}e\u{E0041}t",
                "secret",
            ),
            ("\u{200B} \u{202E}\n", ""),
            ("", ""),
        ] {
            assert_eq!(readable(text, 100), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_text_ends_in_an_ellipsis() {
        for (text, expected) in [
            ("four", "four"),
            ("fiver", "fiver"),
            ("sixsix", "sixs…"),
            ("four \u{200B}", "four"),
            ("four x", "four…"),
            ("äöüßéà", "äöüß…"),
        ] {
            let cut = readable(text, 5);
            assert_eq!(cut, expected);
            assert_eq!(readable(&cut, 5), cut);
        }
    }
}
