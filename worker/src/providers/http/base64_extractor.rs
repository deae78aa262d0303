//! Extracts files from JSON while it is read: neither the base64 of an image nor a copy of it is
//! ever complete in memory.
//!
//! A file is a long string under one of the field names that files have. It is taken out of the
//! text and decoded chunk by chunk. A placeholder takes its place, which [`super::ExtractedBody`]
//! resolves. Every other string stays in the text, so no message is taken for a file. A string that
//! is not base64 is dropped at once, and its placeholder leads to no file.

use super::file_decoder::{FileDecoder, is_data_url};

/// Names of fields that hold files.
const FILE_FIELDS: [&[u8]; 2] = [b"b64_json", b"data"];
/// Names of fields that hold URLs, which are files when they are `data:` URLs.
const URL_FIELDS: [&[u8]; 2] = [b"url", b"uri"];
/// The length from which on a file is extracted, in bytes. Shorter ones stay in the text.
pub(super) const MIN_EXTRACTED_BYTES: usize = 4096;
/// How a placeholder begins; neither base64 nor a URL does.
pub(super) const PLACEHOLDER: &str = "file\u{1}";
/// The same, escaped for JSON.
const ESCAPED_PLACEHOLDER: &str = "file\\u0001";

/// Reads JSON in chunks, and takes the files out of it.
#[derive(Default)]
pub(super) struct Base64Extractor {
    text: Vec<u8>,
    files: Vec<Option<Vec<u8>>>,
    position: Position,
}

/// Where in the JSON the next byte is.
#[derive(Default)]
enum Position {
    #[default]
    OutsideString,
    /// In a string whose text begins at `start`.
    String { start: usize, kind: FieldKind },
    /// In a string, after a backslash.
    Escape { start: usize, kind: FieldKind },
    /// In a string that is extracted.
    File(FileDecoder),
}

/// What the name of a field says about its string.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldKind {
    File,
    Url,
    Other,
}

impl Base64Extractor {
    /// The bytes in memory so far: the text and the decoded files.
    pub(super) fn len(&self) -> usize {
        let current_file = match &self.position {
            Position::File(file) => file.len(),
            _ => 0,
        };
        let files: usize = self.files.iter().flatten().map(Vec::len).sum();
        self.text.len() + current_file + files
    }

    /// Takes the next bytes of the JSON.
    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            chunk = match std::mem::take(&mut self.position) {
                Position::OutsideString => self.outside_string(chunk),
                Position::String { start, kind } => self.string(chunk, start, kind),
                Position::Escape { start, kind } => {
                    self.text.push(chunk[0]);
                    self.position = Position::String { start, kind };
                    &chunk[1..]
                }
                Position::File(file) => self.file(chunk, file),
            };
        }
    }

    /// Each of the three returns the rest of the chunk.
    fn outside_string<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let Some(quote) = chunk.iter().position(|&byte| byte == b'"') else {
            self.text.extend_from_slice(chunk);
            return &[];
        };
        let (text, rest) = chunk.split_at(quote + 1);
        self.text.extend_from_slice(&text[..quote]);
        let kind = FieldKind::after(&self.text);
        self.text.push(b'"');
        self.position = Position::String {
            start: self.text.len(),
            kind,
        };
        rest
    }

    fn string<'a>(&mut self, chunk: &'a [u8], start: usize, kind: FieldKind) -> &'a [u8] {
        let (run, rest) = split_run(chunk);
        self.text.extend(run.iter().map(printable));
        let string = &self.text[start..];
        let is_file = match kind {
            FieldKind::File => true,
            FieldKind::Url => is_data_url(string),
            FieldKind::Other => false,
        };
        if is_file && string.len() >= MIN_EXTRACTED_BYTES {
            // What has come of it moves from the text into the decoder.
            let string = self.text.split_off(start);
            self.position = Position::File(FileDecoder::default());
            self.push(&string);
            return rest;
        }
        match rest.first() {
            None => self.position = Position::String { start, kind },
            Some(b'\\') => self.position = Position::Escape { start, kind },
            Some(_) => self.position = Position::OutsideString,
        }
        self.text.extend(rest.first());
        rest.get(1..).unwrap_or_default()
    }

    fn file<'a>(&mut self, chunk: &'a [u8], mut file: FileDecoder) -> &'a [u8] {
        if file.is_in_escape() {
            file.push_escape(chunk[0]);
            self.position = Position::File(file);
            return &chunk[1..];
        }
        let (run, rest) = split_run(chunk);
        // Checked without a branch per character, as nearly no run has such a byte.
        if run.iter().fold(false, |any, &byte| any | (byte < b' ')) {
            file.push(&run.iter().map(printable).collect::<Vec<u8>>());
        } else {
            file.push(run);
        }
        match rest.first() {
            Some(b'"') => {
                let placeholder = format!("{ESCAPED_PLACEHOLDER}{}\"", self.files.len());
                self.text.extend(placeholder.into_bytes());
                self.files.push(file.finish());
            }
            backslash => {
                if let Some(&backslash) = backslash {
                    file.push_escape(backslash);
                }
                self.position = Position::File(file);
            }
        }
        rest.get(1..).unwrap_or_default()
    }

    /// The text with its placeholders, and the files they stand for; `None` for what is not base64.
    pub(super) fn finish(self) -> (Vec<u8>, Vec<Option<Vec<u8>>>) {
        (self.text, self.files)
    }
}

impl FieldKind {
    /// The kind of the string that follows `text`, by the field name at the end of `text`.
    fn after(text: &[u8]) -> Self {
        let name = text.trim_ascii_end().strip_suffix(b":");
        let name = name.and_then(|text| text.trim_ascii_end().strip_suffix(b"\""));
        let is = |known: &&[u8]| {
            let before = name.and_then(|text| text.strip_suffix(*known));
            before.is_some_and(|text| text.ends_with(b"\""))
        };
        if FILE_FIELDS.iter().any(is) {
            Self::File
        } else if URL_FIELDS.iter().any(is) {
            Self::Url
        } else {
            Self::Other
        }
    }
}

/// A space for a control byte. Some servers write line breaks without escapes, which JSON does not allow.
fn printable(byte: &u8) -> u8 {
    if *byte < b' ' { b' ' } else { *byte }
}

/// Splits a chunk before its next quote or backslash.
fn split_run(chunk: &[u8]) -> (&[u8], &[u8]) {
    let end = chunk.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    chunk.split_at(end.unwrap_or(chunk.len()))
}
