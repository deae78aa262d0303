//! JSON whose files are decoded as they come: neither the base64 of a picture nor a copy of it is ever whole in memory.
//!
//! A string of base64 that has grown long is lifted out of the text: what it stands for is decoded chunk by chunk, and a mark
//! stays in its place, which [`Lifted::picture`] leads back from. One that turns out to be no base64 is put back as it was, so the
//! text says what the provider said, to the letter.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use bytes::Bytes;
use common::outcome::Failure;
use common::outcome::table::{self, Dialect};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::memory::{Room, kept};

/// From this length on a string is lifted.
const LONG: usize = 4096;
/// What a mark begins with; no base64 does.
const MARK: &str = "file\u{1}";
/// The same, as JSON has it.
const WRITTEN: &str = "file\\u0001";

/// A file in JSON: base64 where we send it; where it comes to us what stands there, which may be a mark.
#[derive(Clone, Debug)]
pub(in crate::providers) enum Base64 {
    Sent(Bytes),
    Received(String),
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Written into the body as it is encoded.
            Self::Sent(bytes) => {
                serializer.collect_str(&base64::display::Base64Display::new(bytes, &STANDARD))
            }
            Self::Received(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::Received)
    }
}

impl Default for Base64 {
    fn default() -> Self {
        Self::Received(String::new())
    }
}

/// What was read.
#[derive(Default)]
pub(in crate::providers) struct Lifted {
    pub(in crate::providers) text: Bytes,
    files: Vec<Bytes>,
}

impl Lifted {
    /// The picture that stands somewhere in the text, or that what stands there is no base64.
    pub(in crate::providers) fn picture(
        &self,
        dialect: Dialect,
        said: &Base64,
    ) -> Result<Bytes, Failure> {
        self.file(said).map_err(|error| {
            let detail = format!("a picture that is no base64: {error}");
            Failure::new(table::class(dialect, "bad_base64"), detail)
        })
    }

    /// Lifted, or short enough to stand there still.
    fn file(&self, said: &Base64) -> Result<Bytes, DecodeError> {
        let said = match said {
            Base64::Sent(bytes) => return Ok(bytes.clone()),
            Base64::Received(said) => said,
        };
        let lifted = said.strip_prefix(MARK).and_then(|number| {
            let number: usize = number.parse().ok()?;
            self.files.get(number)
        });
        match lifted {
            Some(file) => Ok(file.clone()),
            None => STANDARD.decode(said).map(Bytes::from),
        }
    }
}

/// Reads JSON in chunks.
#[derive(Default)]
pub(super) struct Lifter {
    text: Vec<u8>,
    files: Vec<Vec<u8>>,
    place: Place,
}

/// Where in the text the next byte stands.
#[derive(Default)]
enum Place {
    #[default]
    Between,
    /// In a string that begins at `start`; `plain`: all of it so far may be base64.
    String { start: usize, plain: bool },
    /// In a string, after a backslash.
    Escape { start: usize, plain: bool },
    /// In a string that is lifted.
    File(File),
}

/// A file under way.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// Characters that are not decoded yet: fewer than four, or those that cannot be.
    rest: Vec<u8>,
    /// An escape under way.
    escape: Vec<u8>,
    /// Nothing may follow.
    padded: bool,
}

impl Lifter {
    /// Bytes held so far.
    pub(super) fn len(&self) -> usize {
        let under_way = match &self.place {
            Place::File(file) => file.bytes.len(),
            _ => 0,
        };
        self.text.len() + under_way + self.files.iter().map(Vec::len).sum::<usize>()
    }

    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            chunk = match std::mem::take(&mut self.place) {
                Place::Between => self.between(chunk),
                Place::String { start, plain } => self.string(chunk, start, plain),
                Place::Escape { start, plain } => {
                    self.text.push(chunk[0]);
                    // Some write every slash so.
                    let plain = plain && chunk[0] == b'/';
                    self.place = Place::String { start, plain };
                    &chunk[1..]
                }
                Place::File(file) => self.file(chunk, file),
            };
        }
    }

    fn between<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let Some(quote) = chunk.iter().position(|&byte| byte == b'"') else {
            self.text.extend_from_slice(chunk);
            return &[];
        };
        let (text, rest) = chunk.split_at(quote + 1);
        self.text.extend_from_slice(text);
        self.place = Place::String {
            start: self.text.len(),
            plain: true,
        };
        rest
    }

    fn string<'a>(&mut self, chunk: &'a [u8], start: usize, plain: bool) -> &'a [u8] {
        let (run, rest) = run(chunk);
        self.text.extend_from_slice(run);
        let plain = plain && run.iter().copied().all(is_base64);
        if plain && self.text.len() - start >= LONG {
            let mut file = File::default();
            let begun = self.text.split_off(start);
            let begun: Vec<u8> = begun.into_iter().filter(|&byte| byte != b'\\').collect();
            self.go_on(file.push(&begun), file);
            return rest;
        }
        match rest.first() {
            None => self.place = Place::String { start, plain },
            Some(b'\\') => self.place = Place::Escape { start, plain },
            Some(_) => self.place = Place::Between,
        }
        self.text.extend(rest.first());
        rest.get(1..).unwrap_or_default()
    }

    fn file<'a>(&mut self, chunk: &'a [u8], mut file: File) -> &'a [u8] {
        if !file.escape.is_empty() {
            file.escape.push(chunk[0]);
            let fits = file.unescape();
            self.go_on(fits, file);
            return &chunk[1..];
        }
        let (run, rest) = run(chunk);
        let fits = file.push(run);
        match rest.first() {
            Some(b'"') if fits && file.rest.is_empty() => {
                let mark = format!("{WRITTEN}{}\"", self.files.len());
                self.text.extend(mark.into_bytes());
                self.files.push(file.bytes);
                self.place = Place::Between;
                &rest[1..]
            }
            // Not whole: it is put back, and the quote ends it there.
            Some(b'"') => {
                self.go_on(false, file);
                rest
            }
            Some(_) if fits => {
                file.escape.push(rest[0]);
                self.go_on(true, file);
                &rest[1..]
            }
            _ => {
                self.go_on(fits, file);
                rest
            }
        }
    }

    /// With the file, or without: then it was none, and is put back into the text.
    fn go_on(&mut self, fits: bool, file: File) {
        if fits {
            self.place = Place::File(file);
            return;
        }
        let start = self.text.len();
        self.text.extend(STANDARD.encode(&file.bytes).into_bytes());
        self.text.extend(file.rest);
        self.text.extend(&file.escape);
        let plain = false;
        self.place = match file.escape[..] {
            [b'\\'] => Place::Escape { start, plain },
            _ => Place::String { start, plain },
        };
    }

    /// All of it. The files share the room that was taken for them.
    pub(super) fn finish(mut self, mut room: Option<Room>) -> Lifted {
        if let Place::File(file) = std::mem::take(&mut self.place) {
            self.go_on(false, file);
        }
        let files = self.files.into_iter().map(|file| {
            let share = room.as_mut().map(|room| room.split(file.len()));
            kept(file, share)
        });
        Lifted {
            files: files.collect(),
            text: self.text.into(),
        }
    }
}

impl File {
    /// More of its characters. `false`: they are no base64, and stay in `rest`.
    fn push(&mut self, run: &[u8]) -> bool {
        self.rest.extend_from_slice(run);
        let whole = self.rest.len() / 4 * 4;
        if whole == 0 {
            return self.rest.is_empty() || !self.padded;
        }
        let before = self.bytes.len();
        let decoded = STANDARD.decode_vec(&self.rest[..whole], &mut self.bytes);
        if self.padded || decoded.is_err() {
            self.bytes.truncate(before);
            return false;
        }
        self.padded = self.bytes.len() - before < whole / 4 * 3;
        self.rest.drain(..whole);
        true
    }

    /// What an escape stands for, once it is whole: `\/`, or `\u003d` and its like.
    fn unescape(&mut self) -> bool {
        let character = match self.escape[..] {
            [_, b'u', ref digits @ ..] if digits.len() < 4 => return true,
            [_, b'u', ref digits @ ..] => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            [.., b'/'] => Some(b'/'),
            _ => None,
        };
        let Some(character) = character.filter(|&character| is_base64(character)) else {
            return false;
        };
        let escape = std::mem::take(&mut self.escape);
        let fits = self.push(&[character]);
        if !fits {
            // As it was written.
            self.rest.pop();
            self.escape = escape;
        }
        fits
    }
}

/// What comes before the next quote or backslash, and the rest.
fn run(chunk: &[u8]) -> (&[u8], &[u8]) {
    let end = chunk.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    chunk.split_at(end.unwrap_or(chunk.len()))
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

/// A whole text at once.
#[cfg(test)]
impl Lifted {
    pub(in crate::providers) fn of(text: impl AsRef<[u8]>) -> Self {
        let mut lifter = Lifter::default();
        lifter.push(text.as_ref());
        lifter.finish(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The same in pieces of every size that matters.
    fn read(text: &str) -> Vec<Lifted> {
        let sizes = [1, 2, 3, 5, 7, 4095, 4096, 4097, 9_999, text.len()];
        sizes
            .into_iter()
            .map(|size| {
                let mut lifter = Lifter::default();
                for chunk in text.as_bytes().chunks(size) {
                    lifter.push(chunk);
                }
                lifter.finish(None)
            })
            .collect()
    }

    fn file(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from(at * 7 % 251).unwrap())
            .collect()
    }

    #[test]
    fn long_files_are_lifted_and_all_else_stays() {
        for length in [0, 1, 3000, 3072, 3073, 3074, 10_000, 100_001] {
            let data = STANDARD.encode(file(length));
            let answer = json!({"a\"b": "x\\", "parts": [{"data": data, "n": 1}, {"text": "é\"\n/"}, {"data": data}]});
            let plain = answer.to_string();
            for text in [
                plain.clone(),
                plain.replace('/', "\\/"),
                plain.replace('=', "\\u003d"),
            ] {
                for lifted in read(&text) {
                    let said: Value = serde_json::from_slice(&lifted.text).unwrap();
                    assert_eq!(said["parts"][1], answer["parts"][1]);
                    assert_eq!(said["a\"b"], "x\\");
                    for part in [0, 2] {
                        let data = serde_json::from_value(said["parts"][part]["data"].clone());
                        assert_eq!(lifted.file(&data.unwrap()).unwrap(), file(length));
                    }
                    let most = if length > 10_000 {
                        2 * LONG
                    } else {
                        usize::MAX
                    };
                    assert!(lifted.text.len() < most, "{}", lifted.text.len());
                }
            }
        }
    }

    #[test]
    fn what_is_no_base64_is_put_back_to_the_letter() {
        let data = STANDARD.encode(file(9_000));
        for text in [
            format!("{data} and words"),
            format!("{data}x"),
            format!("{data}===="),
            format!("{data}{data}="),
            format!("{}=={data}", &data[..9_002]),
            format!("{data}\\n{data}"),
            format!("{data}\\\\"),
            format!("{data}\\\""),
            format!("{data}\\u00e9"),
            format!("{data}\\u003d"),
            format!("{data}\\u003dAAA"),
            "A".repeat(5_001),
        ] {
            let text = format!("[\"{text}\", \"{text}\"]");
            let said: Value = serde_json::from_str(&text).unwrap();
            for lifted in read(&text) {
                let read: Value = serde_json::from_slice(&lifted.text).unwrap();
                assert_eq!(read, said);
                assert_eq!(lifted.files.len(), 0);
            }
        }
        // Cut off, it is no JSON.
        for lifted in read(&format!("[\"{data}")) {
            assert!(serde_json::from_slice::<Value>(&lifted.text).is_err());
            assert_eq!(lifted.text.len(), data.len() + 2);
        }
    }
}
