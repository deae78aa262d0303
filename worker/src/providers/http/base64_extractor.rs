//! JSON whose files are decoded as they come: neither the base64 of a picture nor a copy of it is ever whole in memory.
//!
//! A file is a long string under one of the names that files have. It is taken out of the text and decoded chunk by chunk; a mark
//! stays in its place, which [`Lifted::picture`] leads back from. Every other string stays in the text, so no message is taken for
//! a file. Servers write base64 in several ways ([`File`]); one that is none of them is given up at once, and its mark says so.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use common::memory::{MemoryPermit, with_permit};
use common::outcome::Failure;
use common::outcome::table::{self, Dialect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names of strings that are files.
const FILES: [&[u8]; 2] = [b"b64_json", b"data"];
/// Names of addresses, which are files where they begin with [`SCHEME`].
const ADDRESSES: [&[u8]; 2] = [b"url", b"uri"];
/// Of an address that holds the file itself (RFC 2397).
const SCHEME: &[u8] = b"data:";
/// The longest text between the scheme of such an address and its file.
const MAX_DATA_URI_HEAD: usize = 256;
/// From this length on a file is lifted.
const LONG: usize = 4096;
/// What a mark begins with; neither base64 nor an address does.
const MARK: &str = "file\u{1}";
/// The same, as JSON has it.
const WRITTEN: &str = "file\\u0001";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Base64 without its padding, which is optional here. Some encoders leave the last bits as they were.
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// A file in JSON: base64 where we send it; where it comes to us what stands there, which may be a mark.
#[derive(Clone, Debug)]
pub(in crate::providers) enum Base64 {
    Sent(Bytes),
    Received(String),
}

impl Base64 {
    /// Nothing stands there: the picture is elsewhere, if there is one.
    pub(in crate::providers) fn is_empty(&self) -> bool {
        match self {
            Self::Sent(bytes) => bytes.is_empty(),
            Self::Received(said) => said.is_empty(),
        }
    }
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
pub(in crate::providers) struct ExtractedBody {
    text: Bytes,
    /// `None`: what stood there is not base64.
    files: Vec<Option<Bytes>>,
}

impl ExtractedBody {
    /// The words of an answer that brings no files.
    pub(super) fn text_only(text: String) -> Self {
        Self {
            text: text.into(),
            files: Vec::new(),
        }
    }

    /// The JSON value that the text begins with. A byte order mark before it and whatever follows it are ignored: some servers
    /// send them.
    pub(in crate::providers) fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        let text = self.text.strip_prefix(BYTE_ORDER_MARK);
        let text = text.unwrap_or(&self.text);
        T::deserialize(&mut serde_json::Deserializer::from_slice(text))
    }

    /// The picture that stands somewhere in the text, or that what stands there is not base64.
    pub(in crate::providers) fn picture(
        &self,
        dialect: Dialect,
        said: &Base64,
    ) -> Result<Bytes, Failure> {
        let picture = match said {
            Base64::Sent(bytes) => Some(bytes.clone()),
            Base64::Received(said) => self.file(said),
        };
        picture.ok_or_else(|| {
            let detail = "the picture is not valid base64";
            Failure::new(table::class(dialect, "bad_base64"), detail)
        })
    }

    /// The same of an address; `None`: the picture is elsewhere.
    pub(in crate::providers) fn picture_in_address(
        &self,
        dialect: Dialect,
        address: &str,
    ) -> Option<Result<Bytes, Failure>> {
        let holds_it = address.starts_with(MARK) || is_file(address.as_bytes());
        let said = || Base64::Received(address.to_owned());
        holds_it.then(|| self.picture(dialect, &said()))
    }

    /// Lifted, or short enough to stand there still.
    fn file(&self, said: &str) -> Option<Bytes> {
        let lifted = said.strip_prefix(MARK).and_then(|number| {
            let number: usize = number.parse().ok()?;
            self.files.get(number)
        });
        if let Some(file) = lifted {
            return file.clone();
        }
        let mut file = File::default();
        file.push(said.as_bytes());
        file.end().map(Bytes::from)
    }
}

/// Reads JSON in chunks.
#[derive(Default)]
pub(super) struct Base64Extractor {
    text: Vec<u8>,
    files: Vec<Option<Vec<u8>>>,
    place: Position,
}

/// Where in the text the next byte stands.
#[derive(Default)]
enum Position {
    #[default]
    Between,
    /// In a string that begins at `start`.
    String { start: usize, named: FieldKind },
    /// In a string, after a backslash.
    Escape { start: usize, named: FieldKind },
    /// In a string that is lifted.
    File(File),
}

/// What the name of a string says of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldKind {
    File,
    Address,
    Other,
}

/// A file under way. Its characters may be of either alphabet, with white space between them, with or without padding, and
/// follow the head of a `data:` address.
struct File {
    /// How it begins, while that may be the head of an address.
    head: Option<Vec<u8>>,
    bytes: Vec<u8>,
    /// Characters that are not decoded yet: fewer than four.
    rest: Vec<u8>,
    /// An escape under way.
    escape: Vec<u8>,
    /// Nothing may follow.
    padded: bool,
    /// It is not base64.
    fails: bool,
}

impl Base64Extractor {
    /// Bytes held so far.
    pub(super) fn len(&self) -> usize {
        let under_way = match &self.place {
            Position::File(file) => file.bytes.len(),
            _ => 0,
        };
        self.text.len() + under_way + self.files.iter().flatten().map(Vec::len).sum::<usize>()
    }

    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            chunk = match std::mem::take(&mut self.place) {
                Position::Between => self.between(chunk),
                Position::String { start, named } => self.string(chunk, start, named),
                Position::Escape { start, named } => {
                    self.text.push(chunk[0]);
                    self.place = Position::String { start, named };
                    &chunk[1..]
                }
                Position::File(file) => self.file(chunk, file),
            };
        }
    }

    fn between<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let Some(quote) = chunk.iter().position(|&byte| byte == b'"') else {
            self.text.extend_from_slice(chunk);
            return &[];
        };
        let (text, rest) = chunk.split_at(quote + 1);
        self.text.extend_from_slice(&text[..quote]);
        let named = FieldKind::after(&self.text);
        self.text.push(b'"');
        self.place = Position::String {
            start: self.text.len(),
            named,
        };
        rest
    }

    fn string<'a>(&mut self, chunk: &'a [u8], start: usize, named: FieldKind) -> &'a [u8] {
        let (run, rest) = run(chunk);
        // Some write line breaks as they are, which JSON does not allow.
        let printable = |&byte: &u8| if byte < b' ' { b' ' } else { byte };
        self.text.extend(run.iter().map(printable));
        let begun = &self.text[start..];
        let lifts = match named {
            FieldKind::File => true,
            FieldKind::Address => is_file(begun),
            FieldKind::Other => false,
        };
        if lifts && begun.len() >= LONG {
            let begun = self.text.split_off(start);
            self.place = Position::File(File::default());
            self.push(&begun);
            return rest;
        }
        match rest.first() {
            None => self.place = Position::String { start, named },
            Some(b'\\') => self.place = Position::Escape { start, named },
            Some(_) => self.place = Position::Between,
        }
        self.text.extend(rest.first());
        rest.get(1..).unwrap_or_default()
    }

    fn file<'a>(&mut self, chunk: &'a [u8], mut file: File) -> &'a [u8] {
        if !file.escape.is_empty() {
            file.escape.push(chunk[0]);
            file.unescape();
            self.place = Position::File(file);
            return &chunk[1..];
        }
        let (run, rest) = run(chunk);
        file.push(run);
        match rest.first() {
            Some(b'"') => {
                let mark = format!("{WRITTEN}{}\"", self.files.len());
                self.text.extend(mark.into_bytes());
                self.files.push(file.end());
            }
            backslash => {
                file.escape.extend(backslash);
                self.place = Position::File(file);
            }
        }
        rest.get(1..).unwrap_or_default()
    }

    /// All of it. The files share the room that was taken for them.
    pub(super) fn finish(self, mut room: Option<MemoryPermit>) -> ExtractedBody {
        let files = self.files.into_iter().map(|file| {
            let file = file?;
            let share = room.as_mut().map(|room| room.split(file.len()));
            Some(with_permit(file, share))
        });
        ExtractedBody {
            files: files.collect(),
            text: self.text.into(),
        }
    }
}

impl FieldKind {
    /// What the name at the end of `text` says, if a value follows.
    fn after(text: &[u8]) -> Self {
        let name = text.trim_ascii_end().strip_suffix(b":");
        let name = name.and_then(|text| text.trim_ascii_end().strip_suffix(b"\""));
        let is = |known: &&[u8]| {
            let before = name.and_then(|text| text.strip_suffix(*known));
            before.is_some_and(|text| text.ends_with(b"\""))
        };
        if FILES.iter().any(is) {
            Self::File
        } else if ADDRESSES.iter().any(is) {
            Self::Address
        } else {
            Self::Other
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            head: Some(Vec::new()),
            bytes: Vec::new(),
            rest: Vec::new(),
            escape: Vec::new(),
            padded: false,
            fails: false,
        }
    }
}

impl File {
    /// More of its characters.
    fn push(&mut self, run: &[u8]) {
        let Some(mut head) = self.head.take() else {
            return self.decode(run);
        };
        head.extend_from_slice(run);
        let known = head.len().min(SCHEME.len());
        if !head[..known].eq_ignore_ascii_case(&SCHEME[..known]) {
            self.decode(&head);
        } else if let Some(comma) = head.iter().position(|&byte| byte == b',') {
            let encoding = head[..comma].to_ascii_lowercase();
            self.fails |= !encoding.ends_with(b";base64");
            self.decode(&head[comma + 1..]);
        } else if head.len() <= MAX_DATA_URI_HEAD {
            self.head = Some(head);
        } else {
            self.fails = true;
        }
    }

    fn decode(&mut self, run: &[u8]) {
        // Looked at without a branch for each character: nearly always there is nothing else.
        let plain = run.iter().fold(true, |all, &byte| all & is_base64(byte));
        if plain && !self.padded {
            self.rest.extend_from_slice(run);
        } else {
            for &byte in run {
                match byte {
                    b'=' => self.padded = true,
                    byte if byte.is_ascii_whitespace() => {}
                    _ if self.padded => self.fails = true,
                    b'-' => self.rest.push(b'+'),
                    b'_' => self.rest.push(b'/'),
                    byte if is_base64(byte) => self.rest.push(byte),
                    _ => self.fails = true,
                }
            }
        }
        let whole = self.rest.len() / 4 * 4;
        let decoded = UNPADDED.decode_vec(&self.rest[..whole], &mut self.bytes);
        self.rest.drain(..whole);
        self.fails |= decoded.is_err();
        if self.fails {
            // What follows is not kept either.
            (self.bytes, self.rest) = (Vec::new(), Vec::new());
        }
    }

    /// What an escape stands for, once it is whole.
    fn unescape(&mut self) {
        let character = match self.escape[..] {
            [_, b'u', ref digits @ ..] if digits.len() < 4 => return,
            [_, b'u', ref digits @ ..] => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            [.., character @ b'/'] => Some(character),
            [.., b'n' | b'r' | b't'] => Some(b' '),
            _ => None,
        };
        self.escape.clear();
        match character {
            Some(character) => self.push(&[character]),
            None => self.fails = true,
        }
    }

    /// The whole file, or that it is none.
    fn end(mut self) -> Option<Vec<u8>> {
        match self.head.take() {
            Some(head) if head.len() < SCHEME.len() => self.decode(&head),
            // An address without a file.
            Some(_) => self.fails = true,
            None => {}
        }
        self.fails |= UNPADDED.decode_vec(&self.rest, &mut self.bytes).is_err();
        (!self.fails).then_some(self.bytes)
    }
}

/// Whether an address is the file itself.
fn is_file(address: &[u8]) -> bool {
    let scheme = address.get(..SCHEME.len());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// What comes before the next quote or backslash, and the rest.
fn run(chunk: &[u8]) -> (&[u8], &[u8]) {
    let end = chunk.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    chunk.split_at(end.unwrap_or(chunk.len()))
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// A whole text at once.
#[cfg(test)]
impl ExtractedBody {
    pub(in crate::providers) fn of(text: impl AsRef<[u8]>) -> Self {
        let mut lifter = Base64Extractor::default();
        lifter.push(text.as_ref());
        lifter.finish(None)
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::*;

    /// The same in pieces of every size that matters.
    fn read(text: &str) -> Vec<ExtractedBody> {
        let sizes = [1, 2, 3, 5, 7, 4095, 4096, 4097, 9_999, text.len()];
        sizes
            .into_iter()
            .map(|size| {
                let mut lifter = Base64Extractor::default();
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

    const LENGTHS: [usize; 8] = [0, 1, 3000, 3072, 3073, 3074, 10_000, 100_001];

    #[test]
    fn long_files_are_lifted_and_all_else_stays() {
        for length in LENGTHS {
            let data = STANDARD.encode(file(length));
            let answer = json!({"a\"b": "x\\", "parts": [{"data": data, "n": 1}, {"text": "é\"\n/"}, {"data": data}]});
            let plain = answer.to_string();
            for text in [
                plain.clone(),
                plain.replace("\":", "\" :\n"),
                plain.replace('/', "\\/"),
                plain.replace('=', "\\u003d"),
            ] {
                for lifted in read(&text) {
                    let said: Value = lifted.read().unwrap();
                    assert_eq!(said["parts"][1], answer["parts"][1]);
                    assert_eq!(said["a\"b"], "x\\");
                    for part in [0, 2] {
                        let data = said["parts"][part]["data"].as_str().unwrap();
                        assert_eq!(lifted.file(data).unwrap(), file(length));
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
    fn a_file_may_be_written_in_every_way_servers_write_it() {
        for length in LENGTHS {
            let bytes = file(length);
            let data = STANDARD.encode(&bytes);
            let lines = |end: &str| {
                let lines = data.as_bytes().chunks(76).map(str::from_utf8);
                lines
                    .map(|line| line.unwrap().to_owned() + end)
                    .collect::<String>()
            };
            for written in [
                URL_SAFE.encode(&bytes),
                URL_SAFE_NO_PAD.encode(&bytes),
                data.trim_end_matches('=').to_owned(),
                lines("\\n"),
                lines("\\r\\n"),
                lines("\n"),
                lines(" "),
                format!("data:image/png;base64,{data}"),
                format!("data:image\\/png;charset=utf-8;base64,{}", lines("\\n")),
                format!("DATA:;BASE64,{}", URL_SAFE_NO_PAD.encode(&bytes)),
            ] {
                for lifted in read(&format!("{{\"b64_json\": \"{written}\"}}")) {
                    let said: Value = lifted.read().unwrap();
                    let found = lifted.file(said["b64_json"].as_str().unwrap());
                    assert_eq!(found.as_deref(), Some(&bytes[..]), "{length} {written:.40}");
                    assert!(lifted.text.len() < 2 * LONG);
                }
            }
        }
    }

    #[test]
    fn an_address_is_a_file_only_where_it_says_so() {
        for length in LENGTHS {
            let long = STANDARD.encode(file(length));
            let there = format!("https://pictures.example/{long}?a=b");
            let here = format!("data:image/webp;base64,{long}");
            let text = json!({"url": there, "more": {"uri": here}}).to_string();
            for lifted in read(&text) {
                let said: Value = lifted.read().unwrap();
                let at = |said: &Value| {
                    let address = said.as_str().unwrap();
                    lifted.picture_in_address(Dialect::Openai, address)
                };
                assert_eq!(said["url"], there);
                assert_eq!(at(&said["url"]), None);
                assert_eq!(at(&said["more"]["uri"]).unwrap().unwrap(), file(length));
            }
        }
    }

    #[test]
    fn what_is_no_base64_is_told_and_not_kept() {
        let data = STANDARD.encode(file(9_000));
        for written in [
            format!("{data}?"),
            format!("{data}x"),
            format!("{data}=A"),
            format!("{}=={data}", &data[..9_002]),
            format!("{data}\\\\"),
            format!("{data}\\\""),
            format!("{data}\\u00e9"),
            format!("{data}\\u4e2d"),
            format!("data:image/svg+xml,{data}"),
            format!("data:{data},"),
            "A".repeat(5_001),
            "?".to_owned(),
            "data:".to_owned(),
        ] {
            let text = format!("[{{\"data\": \"{written}\"}}, \"after\"]");
            for lifted in read(&text) {
                let said: Value = lifted.read().unwrap();
                let found = lifted.file(said[0]["data"].as_str().unwrap());
                assert_eq!(found, None, "{written:.40}");
                assert_eq!(said[1], "after");
                assert!(lifted.text.len() < 2 * LONG);
            }
        }
    }

    #[test]
    fn no_message_is_taken_for_a_file() {
        let message = STANDARD.encode(file(9_000));
        let answer =
            json!({"error": {"message": message, "code": message}, "revised_prompt": message});
        for lifted in read(&answer.to_string()) {
            assert_eq!(lifted.read::<Value>().unwrap(), answer);
        }
        // Cut off, it is no JSON.
        for text in [format!("[\"{message}"), format!("{{\"data\": \"{message}")] {
            for lifted in read(&text) {
                assert!(lifted.read::<Value>().is_err());
            }
        }
    }

    #[test]
    fn what_stands_around_the_json_is_ignored() {
        for text in [
            "\u{FEFF}{\"a\": 1}",
            "\n {\"a\": 1}\n\n",
            "{\"a\": 1}\r\n<!-- -->",
            "{\"a\": 1}{\"a\": 2}",
        ] {
            for lifted in read(text) {
                assert_eq!(lifted.read::<Value>().unwrap(), json!({"a": 1}), "{text}");
            }
        }
    }
}
