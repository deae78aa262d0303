//! File names for downloads. They are made from the names that people gave, changed so that every
//! operating system can store them, and so that they cannot mislead the reader.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::generation::image::MediaType;
use crate::visible::is_invisible;

/// Longest name without its suffix and extension, in bytes. Most file systems allow 255.
const MAX_NAME_BYTES: usize = 150;

/// Characters that are percent-encoded in a header parameter: all but letters, digits and `-._~`.
/// [RFC 8187](https://www.rfc-editor.org/rfc/rfc8187) would allow a few more as they are.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The name of a file: the sanitized `name` (or `default` if nothing of it is left), then `suffix`,
/// then the extension of its type. `suffix` distinguishes the files of one job.
pub fn file_name(name: Option<&str>, default: &str, suffix: &str, media_type: MediaType) -> String {
    let name = name.map(sanitize).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| default.to_owned());
    format!("{name}{suffix}.{}", media_type.extension())
}

/// The `Content-Disposition` header for a download under this name. It has the name twice, as [RFC
/// 6266](https://www.rfc-editor.org/rfc/rfc6266) recommends: in ASCII for old clients, and in full.
pub fn attachment(file_name: &str) -> String {
    let ascii_name: String = file_name
        .chars()
        .map(|letter| match letter {
            '"' | '\\' | '%' => '_',
            letter if letter == ' ' || letter.is_ascii_graphic() => letter,
            _ => '_',
        })
        .collect();
    let full_name = utf8_percent_encode(file_name, ESCAPED);
    format!("attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{full_name}")
}

/// Makes a name safe as a file name. Invisible characters are removed. White space and control
/// characters become spaces. Separators of folders, and other characters that an operating system
/// reserves, become hyphens. An image's extension is removed, because the right one is added later.
/// The result may be empty.
fn sanitize(name: &str) -> String {
    // The zero-width joiner (U+200D) stays: emoji such as families are sequences joined by it.
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
    name.truncate(name.floor_char_boundary(MAX_NAME_BYTES));
    // A dot hides the file on Unix, and Windows drops it at the end. A hyphen looks like an option
    // of a command, and a tilde like a home folder.
    let name = name
        .trim_matches(|letter| letter == '.' || letter == ' ' || letter == '-' || letter == '~');
    if is_reserved(name) {
        return format!("_{name}");
    }
    name.to_owned()
}

/// Whether Windows reserves the name for a device, with or without an extension.
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
    fn every_system_can_store_a_file_name() {
        let named = |name: &str| file_name(Some(name), "art_1", "", MediaType::Png);
        for (name, expected) in [
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
            assert_eq!(named(name), expected, "{name:?}");
        }
        assert_eq!(named(&"ä".repeat(200)).len(), 150 + 4);
        assert_eq!(
            file_name(None, "art_1", " 2", MediaType::Jpeg),
            "art_1 2.jpg"
        );
    }

    #[test]
    fn a_header_has_the_name_in_ascii_and_in_full() {
        assert_eq!(
            attachment("Größe 50% \"a\".png"),
            "attachment; filename=\"Gr__e 50_ _a_.png\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%2050%25%20%22a%22.png"
        );
    }
}
