//! Makes names that people chose harmless in a mail to somebody else.

/// The longest name, in characters.
const MAX_NAME: usize = 60;

/// The name on one line and shortened, or `None` if it is blank or looks like an address.
pub(super) fn harmless(name: &str) -> Option<String> {
    let mut name = one_line(name);
    if name.is_empty() || name.split(' ').any(is_address) {
        return None;
    }
    if let Some((end, _)) = name.char_indices().nth(MAX_NAME) {
        name.truncate(end);
        name.push('…');
    }
    Some(name)
}

/// The words of a text with one space between them, without characters that show nothing.
pub(super) fn one_line(text: &str) -> String {
    let visible: String = text
        .chars()
        .filter(|char| !is_invisible(*char))
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a program that shows mails would make a link of this word.
fn is_address(word: &str) -> bool {
    let has_domain = word
        .split('.')
        .collect::<Vec<_>>()
        .windows(2)
        .any(|labels| {
            let ends = labels[0].ends_with(char::is_alphanumeric);
            ends && labels[1].starts_with(char::is_alphanumeric)
        });
    has_domain || word.contains("://") || word.contains('@')
}

/// Characters that change the direction of text, or show nothing.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_line() {
        for (name, expected) in [
            ("Ada Lovelace", Some("Ada Lovelace")),
            ("  Ada \r\n  L. ", Some("Ada L.")),
            ("Dr. Ada", Some("Dr. Ada")),
            ("Müller & Söhne", Some("Müller & Söhne")),
            ("A\u{200b}da", Some("Ada")),
            ("ada.example", None),
            ("Ada www.x", None),
            ("ada@x", None),
            ("see http://x", None),
            ("\u{200b}", None),
            ("", None),
        ] {
            assert_eq!(harmless(name).as_deref(), expected, "{name:?}");
        }
        let long = harmless(&"ä".repeat(100)).unwrap();
        assert_eq!(long.chars().count(), MAX_NAME + 1);
    }
}
