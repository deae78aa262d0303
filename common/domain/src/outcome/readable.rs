//! Words of others, made fit for people: providers' for customers, operators and logs.

use crate::visible::is_invisible;

/// The text on one line without what hides, reorders or controls text, and of at most `longest` characters. One that is longer
/// is cut and ends in an ellipsis.
pub fn readable(text: &str, longest: usize) -> String {
    let mut readable = String::new();
    let mut length = 0_usize;
    for word in text.split(|c: char| c.is_whitespace() || is_line_end(c)) {
        let mut letters = word.chars().filter(|&c| !is_unseen(c)).peekable();
        let space = (length > 0 && letters.peek().is_some()).then_some(' ');
        for c in space.into_iter().chain(letters) {
            if length == longest {
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

/// Control characters that stand between words.
fn is_line_end(c: char) -> bool {
    matches!(c, '\u{08}' | '\u{1C}'..='\u{1F}')
}

/// Control characters, marks of direction, and characters without a width: they can make a text say something else than it seems
/// to, or disturb a terminal.
fn is_unseen(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_or_reorders_text_is_taken_out() {
        for (said, is) in [
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
            assert_eq!(readable(said, 100), is, "{said:?}");
        }
    }

    #[test]
    fn what_is_too_long_ends_in_an_ellipsis() {
        for (said, is) in [
            ("four", "four"),
            ("fiver", "fiver"),
            ("sixsix", "sixs…"),
            ("four \u{200B}", "four"),
            ("four x", "four…"),
            ("äöüßéà", "äöüß…"),
        ] {
            let cut = readable(said, 5);
            assert_eq!(cut, is);
            assert_eq!(readable(&cut, 5), cut);
        }
    }
}
