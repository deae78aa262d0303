//! Parses headers that are lists, such as `Forwarded` (RFC 7239) and `Prefer` (RFC 7240): elements are separated by commas, and
//! each element has pairs separated by semicolons. The values of pairs may be quoted. Several lines of one header are one list (RFC
//! 9110, 5.3).

use axum::http::{HeaderMap, HeaderName};

/// A name in lower case, and its value without quotes.
pub type Pair = (String, Option<String>);

/// The elements of a header, in order, each as its pairs. Elements without a pair, and lines that are not ASCII text, are skipped.
pub fn elements(headers: &HeaderMap, name: &HeaderName) -> Vec<Vec<Pair>> {
    let lines = headers.get_all(name).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| split(line, ','))
        .map(|element| {
            split(element, ';')
                .into_iter()
                .map(pair)
                .collect::<Vec<_>>()
        })
        .filter(|pairs| !pairs.is_empty())
        .collect()
}

/// Parses one pair.
fn pair(text: &str) -> Pair {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(unquoted(value.trim()))),
        None => (text, None),
    };
    (name.trim().to_ascii_lowercase(), value)
}

/// Splits a text at each separator that is not in quotes. Blank parts are left out.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if letter == separator && !quoted => {
                parts.push(&text[begin..at]);
                begin = at + letter.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// Removes the quotes and backslashes of a quoted string (RFC 9110, 5.6.4). Text without quotes is returned as it is.
pub fn unquoted(text: &str) -> String {
    let inner = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else {
        return text.to_owned();
    };
    let mut letters = inner.chars();
    let mut plain = String::new();
    while let Some(letter) = letters.next() {
        plain.extend(if letter == '\\' {
            letters.next()
        } else {
            Some(letter)
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use axum::http::header::FORWARDED;

    use super::*;

    #[test]
    fn a_list_is_split_only_outside_quotes() {
        let mut headers = HeaderMap::new();
        for line in [
            r#"For="[2001:db8::1]:4711";Proto=HTTPS , host="a,b;c\"d""#,
            "",
            ", respond-async;",
        ] {
            headers.append(FORWARDED, line.parse().unwrap());
        }
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            elements(&headers, &FORWARDED),
            [
                vec![
                    pair("for", Some("[2001:db8::1]:4711")),
                    pair("proto", Some("HTTPS"))
                ],
                vec![pair("host", Some("a,b;c\"d"))],
                vec![pair("respond-async", None)],
            ]
        );
    }
}
