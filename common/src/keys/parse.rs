//! Reads master keys from a text: `id:key` separated by commas or ends of lines.

use std::str::FromStr;

use super::{MasterKey, MasterKeys};

/// The longest id of a master key.
const MAX_ID: usize = 32;

/// Why a text does not contain master keys. No text contains a part of a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MasterKeysError {
    /// There is none.
    #[error("it names no key")]
    Empty,
    /// Not `id:key`.
    #[error("key {0} is not written as id:key")]
    NoId(usize),
    /// The id has other characters.
    #[error("the id of key {0} is not 1 to 32 lower-case letters, digits and hyphens")]
    Id(usize),
    /// The key is not 32 bytes.
    #[error("the key {0:?} is not 64 hexadecimal digits; `openssl rand -hex 32` makes one")]
    Key(String),
    /// Every byte is the same: a placeholder.
    #[error("the key {0:?} is not a random one; `openssl rand -hex 32` makes one")]
    Guessable(String),
    /// Two keys have one id.
    #[error("two keys have the id {0:?}")]
    Repeated(String),
}

impl FromStr for MasterKeys {
    type Err = MasterKeysError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let items = text.split([',', '\n']).map(str::trim);
        let mut keys: Vec<MasterKey> = Vec::new();
        for (number, item) in (1..).zip(items.filter(|item| !item.is_empty())) {
            let (id, key) = item.split_once(':').ok_or(MasterKeysError::NoId(number))?;
            let is_allowed = |char: char| matches!(char, 'a'..='z' | '0'..='9' | '-');
            if id.is_empty() || id.len() > MAX_ID || !id.chars().all(is_allowed) {
                return Err(MasterKeysError::Id(number));
            }
            if keys.iter().any(|other| other.id == id) {
                return Err(MasterKeysError::Repeated(id.to_owned()));
            }
            let mut bytes = [0; 32];
            hex::decode_to_slice(key, &mut bytes)
                .map_err(|_| MasterKeysError::Key(id.to_owned()))?;
            if bytes.iter().all(|byte| *byte == bytes[0]) {
                return Err(MasterKeysError::Guessable(id.to_owned()));
            }
            keys.push(MasterKey::derive(id, &bytes));
        }
        if keys.is_empty() {
            return Err(MasterKeysError::Empty);
        }
        Ok(Self(keys.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<String>, MasterKeysError> {
        let keys: MasterKeys = text.parse()?;
        Ok(keys.ids().map(str::to_owned).collect())
    }

    #[test]
    fn keys_are_separated_by_commas_or_lines() {
        let (a, b) = ("0a0b".repeat(16), "0C0D".repeat(16));
        for text in [format!("a:{a},b-2:{b}"), format!(" a:{a}\n\nb-2:{b}\r\n")] {
            assert_eq!(parse(&text).unwrap(), ["a", "b-2"], "{text:?}");
        }
    }

    #[test]
    fn an_unusable_text_is_refused_without_showing_it() {
        use MasterKeysError::{Empty, Guessable, Id, Key, NoId, Repeated};
        let key = "0a0b".repeat(16);
        for (text, expected) in [
            (String::new(), Empty),
            (" ,\n".to_owned(), Empty),
            (key.clone(), NoId(1)),
            (format!("a:{key},{key}"), NoId(2)),
            (format!(":{key}"), Id(1)),
            (format!("A:{key}"), Id(1)),
            (format!("a.b:{key}"), Id(1)),
            (format!("{}:{key}", "a".repeat(33)), Id(1)),
            (format!("a:{}", &key[2..]), Key("a".to_owned())),
            (format!("a:{key}00"), Key("a".to_owned())),
            (format!("a:g{}", &key[1..]), Key("a".to_owned())),
            (format!("a:{}", "00".repeat(32)), Guessable("a".to_owned())),
            (format!("a:{key},a:{key}"), Repeated("a".to_owned())),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("0a0b"), "{error}");
        }
    }
}
