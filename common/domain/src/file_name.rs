//! What a file is called when somebody keeps it: after the name people gave it, so that every system can store it, and so that the
//! name can say nothing else.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::generation::image::MediaType;
use crate::visible::is_invisible;

/// Longest name before its ending, in bytes: file systems bear 255.
const MAX_LENGTH: usize = 150;

/// What [RFC 8187](https://www.rfc-editor.org/rfc/rfc8187) leaves unescaped in a parameter of a header.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The name of a file: `name`, or `or` where nothing of it can be used, then what tells it from its like, then the ending of its type.
pub fn file_name(name: Option<&str>, or: &str, suffix: &str, media_type: MediaType) -> String {
    let name = name.map(usable).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| or.to_owned());
    format!("{name}{suffix}.{}", media_type.extension())
}

/// `Content-Disposition` of a file to be kept under this name: for old clients in ASCII, for all others as it is (RFC 6266).
pub fn attachment(file_name: &str) -> String {
    let plain: String = file_name
        .chars()
        .map(|letter| match letter {
            '"' | '\\' | '%' => '_',
            letter if letter == ' ' || letter.is_ascii_graphic() => letter,
            _ => '_',
        })
        .collect();
    let whole = utf8_percent_encode(file_name, ENCODED);
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}")
}

/// What can be used of a name: no folders, no control or invisible characters, nothing that a shell or a system takes for something
/// else, and no ending of a picture, which is added by its type.
fn usable(name: &str) -> String {
    let letters = name
        .chars()
        .filter(|&letter| !is_invisible(letter) || letter == '\u{200d}');
    let letters = letters.map(|letter| match letter {
        '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' => '-',
        letter if letter.is_control() || letter.is_whitespace() => ' ',
        letter => letter,
    });
    let words: String = letters.collect();
    let mut name = words
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if let Some((stem, ending)) = name.rsplit_once('.')
        && ["png", "jpg", "jpeg", "webp"].contains(&ending.to_ascii_lowercase().as_str())
    {
        name.truncate(stem.len());
    }
    name.truncate(name.floor_char_boundary(MAX_LENGTH));
    let name = name
        .trim_matches(|letter| letter == '.' || letter == ' ' || letter == '-' || letter == '~');
    if is_reserved(name) {
        return format!("_{name}");
    }
    name.to_owned()
}

/// Names of devices on Windows, with or without an ending.
fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let stem = stem.to_ascii_uppercase();
    let numbered = ["COM", "LPT"].into_iter().any(|device| {
        stem.strip_prefix(device).is_some_and(|number| {
            matches!(
                number,
                "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³"
            )
        })
    });
    numbered || ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_where_every_system_can_store_it() {
        let named = |name: &str| file_name(Some(name), "art_1", "", MediaType::Png);
        for (name, kept) in [
            ("Bottle on slate", "Bottle on slate.png"),
            ("  Flasche\tauf\nSchiefer ", "Flasche auf Schiefer.png"),
            ("Größe: 4/5 \"neu\"", "Größe- 4-5 -neu.png"),
            ("../../etc/passwd", "etc-passwd.png"),
            ("C:\\Windows\\system32", "C--Windows-system32.png"),
            ("photo.JPG", "photo.png"),
            ("invoice.pdf", "invoice.pdf.png"),
            ("瓶子 🍾", "瓶子 🍾.png"),
            ("gnp.\u{202e}exe", "gnp.exe.png"),
            ("a\u{0}b\r\nSet-Cookie: x", "a b Set-Cookie- x.png"),
            ("nul", "_nul.png"),
            ("COM1.backup", "_COM1.backup.png"),
            (".hidden", "hidden.png"),
            ("-rf", "rf.png"),
            ("", "art_1.png"),
            ("\u{200b}\u{feff}", "art_1.png"),
            ("...", "art_1.png"),
            ("///", "art_1.png"),
        ] {
            assert_eq!(named(name), kept, "{name:?}");
        }
        assert_eq!(named(&"ä".repeat(200)).len(), 150 + 4);
        assert_eq!(
            file_name(None, "art_1", " 2", MediaType::Jpeg),
            "art_1 2.jpg"
        );
    }

    #[test]
    fn a_header_says_it_twice() {
        assert_eq!(
            attachment("Größe 50% \"a\".png"),
            "attachment; filename=\"Gr__e 50_ _a_.png\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%2050%25%20%22a%22.png"
        );
    }
}
