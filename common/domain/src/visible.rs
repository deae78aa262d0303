//! Which characters are visible. A prompt or a reason of invisible characters only is treated as
//! empty.

use std::ops::RangeInclusive;

/// Characters that show nothing, in addition to white space and control characters: those that are
/// `Default_Ignorable_Code_Point` of Unicode 17 (`DerivedCoreProperties.txt`), the interlinear
/// annotation characters, and the empty Braille pattern.
const INVISIBLE_RANGES: [RangeInclusive<char>; 19] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fff8}',
    '\u{fff9}'..='\u{fffb}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Whether the text has no visible character: it is empty, or has only white space, control and
/// invisible characters.
pub fn is_blank(text: &str) -> bool {
    !text.chars().any(is_visible)
}

fn is_visible(letter: char) -> bool {
    !letter.is_whitespace() && !letter.is_control() && !is_invisible(letter)
}

/// Whether the character shows nothing, although it is neither white space nor a control character.
pub fn is_invisible(letter: char) -> bool {
    INVISIBLE_RANGES.iter().any(|range| range.contains(&letter))
}

/// A regular expression for `/openapi.json`: text with at least one visible character and without
/// NUL. It covers the invisible characters up to U+FFFF only, because regular expressions of some
/// languages have no syntax for higher ones.
pub fn visible_pattern() -> String {
    let ranges: Vec<String> = INVISIBLE_RANGES
        .iter()
        .map(|range| (u32::from(*range.start()), u32::from(*range.end())))
        .filter(|(first, _)| *first <= 0xffff)
        .map(|(first, last)| format!("\\u{first:04x}-\\u{last:04x}"))
        .collect();
    let ranges = ranges.concat();
    format!("^[^\\u0000]*[^\\s\\u0000-\\u001f\\u007f-\\u009f{ranges}][^\\u0000]*$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_visible_characters_is_blank() {
        for (name, text) in [
            ("nothing", ""),
            ("white space", " \t\r\n\u{a0}\u{2003}\u{2028}\u{3000}"),
            ("control characters", "\0\u{1}\u{7f}\u{85}"),
            ("zero-width characters", "\u{200b}\u{200c}\u{200d}\u{2060}"),
            ("a byte order mark", "\u{feff}"),
            ("direction marks", "\u{200e}\u{202e}\u{2066}\u{2069}\u{61c}"),
            ("variation selectors", "\u{fe0f}\u{180b}\u{e0100}\u{e01ef}"),
            ("fillers", "\u{115f}\u{1160}\u{3164}\u{ffa0}\u{2800}"),
            ("tags", "\u{e0001}\u{e0061}\u{e007f}"),
            ("a soft hyphen", "\u{ad}"),
            ("all of them", " \u{200b}\u{feff}\u{202e}\u{3164}\u{e0041} "),
        ] {
            assert!(is_blank(text), "{name}");
        }
        for text in [
            "a",
            " . ",
            "瓶",
            "🍾",
            "\u{202e}a",
            "👩\u{200d}🎨",
            "\u{301}",
        ] {
            assert!(!is_blank(text), "{text:?}");
        }
    }
}
