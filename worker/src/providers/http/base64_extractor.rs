//! Extracts files from JSON while the JSON is read, so that the base64 of an image is never
//! complete in memory.
//!
//! A long string counts as a file if its field has a name from `FILE_FIELDS`, or if it is a `data:`
//! URL in a field from `URL_FIELDS`. The file is decoded chunk by chunk. In the text a placeholder
//! replaces the string, and [`super::ExtractedBody`] resolves the placeholder. Every other string
//! stays in the text, so no message is taken for a file. If the string is not base64, its bytes are
//! dropped at once, and its placeholder leads to no file.

use memchr::memchr2;

use super::file_decoder::{FileDecoder, is_data_url};

/// Names of fields that hold files.
const FILE_FIELDS: [&[u8]; 2] = [b"b64_json", b"data"];
/// Names of fields that hold URLs, which are files when they are `data:` URLs.
const URL_FIELDS: [&[u8]; 2] = [b"url", b"uri"];
/// The shortest string that is extracted as a file, in bytes. A shorter string stays in the text.
pub(super) const MIN_EXTRACTED_BYTES: usize = 4096;
/// How a placeholder begins. Neither base64 nor a URL begins like this.
pub(super) const PLACEHOLDER_PREFIX: &str = "file\u{1}";
/// [`PLACEHOLDER_PREFIX`], escaped for JSON.
const ESCAPED_PLACEHOLDER_PREFIX: &str = "file\\u0001";

/// Reads JSON in chunks, and takes the files out of the JSON.
#[derive(Default)]
pub(super) struct Base64Extractor {
    /// The JSON so far, with placeholders for the files.
    text: Vec<u8>,
    /// The files, decoded. `None` for a string that is not base64.
    files: Vec<Option<Vec<u8>>>,
    /// How many bytes to reserve for the first file; 0 once it has begun.
    capacity: usize,
    state: ScanState,
}

/// The state of the scan: where in the JSON the next byte is.
#[derive(Default)]
enum ScanState {
    #[default]
    OutsideString,
    /// In a string that begins at `start` in the text.
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
    /// An extractor for an answer with one file of about `capacity` bytes. A file that grows beyond
    /// that is copied while it grows.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// The bytes in memory so far: the text and the decoded files.
    pub(super) fn len(&self) -> usize {
        let current_file = match &self.state {
            ScanState::File(file) => file.len(),
            _ => 0,
        };
        let files: usize = self.files.iter().flatten().map(Vec::len).sum();
        self.text.len() + current_file + files
    }

    /// Takes the next bytes of the JSON.
    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            chunk = match std::mem::take(&mut self.state) {
                ScanState::OutsideString => self.outside_string(chunk),
                ScanState::String { start, kind } => self.in_string(chunk, start, kind),
                ScanState::Escape { start, kind } => {
                    self.text.push(chunk[0]);
                    self.state = ScanState::String { start, kind };
                    &chunk[1..]
                }
                ScanState::File(file) => self.in_file(chunk, file),
            };
        }
    }

    /// Takes the next bytes outside a string. Like [`Self::in_string`] and [`Self::in_file`], it
    /// returns the rest of the chunk.
    fn outside_string<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let Some(quote) = chunk.iter().position(|&byte| byte == b'"') else {
            self.text.extend_from_slice(chunk);
            return &[];
        };
        let (text, rest) = chunk.split_at(quote + 1);
        self.text.extend_from_slice(&text[..quote]);
        let kind = FieldKind::after(&self.text);
        self.text.push(b'"');
        self.state = ScanState::String {
            start: self.text.len(),
            kind,
        };
        rest
    }

    /// Takes the next bytes in a string. A string of [`MIN_EXTRACTED_BYTES`] whose field may hold a
    /// file moves into a decoder.
    fn in_string<'a>(&mut self, chunk: &'a [u8], start: usize, kind: FieldKind) -> &'a [u8] {
        let (run, rest) = split_run(chunk);
        // Of a file, only the first `MIN_EXTRACTED_BYTES` go through the text. Then it is known to
        // be a file.
        let missing = MIN_EXTRACTED_BYTES.saturating_sub(self.text.len() - start);
        let (first, more) = run.split_at(run.len().min(missing));
        self.text.extend(first.iter().copied().map(printable));
        let string = &self.text[start..];
        let is_file = match kind {
            FieldKind::File => true,
            FieldKind::Url => is_data_url(string),
            FieldKind::Other => false,
        };
        if is_file && string.len() >= MIN_EXTRACTED_BYTES {
            // The part of the file that is already in the text moves into the decoder.
            let string = self.text.split_off(start);
            let capacity = std::mem::take(&mut self.capacity);
            self.state = ScanState::File(FileDecoder::with_capacity(capacity));
            self.push(&string);
            return &chunk[first.len()..];
        }
        self.text.extend(more.iter().copied().map(printable));
        match rest.first() {
            None => self.state = ScanState::String { start, kind },
            Some(b'\\') => self.state = ScanState::Escape { start, kind },
            Some(_) => self.state = ScanState::OutsideString,
        }
        self.text.extend(rest.first());
        rest.get(1..).unwrap_or_default()
    }

    /// Takes the next bytes of a file. At the end of its string, its placeholder goes into the
    /// text.
    fn in_file<'a>(&mut self, chunk: &'a [u8], mut file: FileDecoder) -> &'a [u8] {
        if file.is_in_escape() {
            file.push_escape(chunk[0]);
            self.state = ScanState::File(file);
            return &chunk[1..];
        }
        let (run, rest) = split_run(chunk);
        file.push(run);
        match rest.first() {
            Some(b'"') => {
                let placeholder = format!("{ESCAPED_PLACEHOLDER_PREFIX}{}\"", self.files.len());
                self.text.extend(placeholder.into_bytes());
                self.files.push(file.finish());
            }
            backslash => {
                if let Some(&backslash) = backslash {
                    file.push_escape(backslash);
                }
                self.state = ScanState::File(file);
            }
        }
        rest.get(1..).unwrap_or_default()
    }

    /// The text with its placeholders, and the files that they stand for. A string that is not
    /// base64 is `None`.
    pub(super) fn finish(self) -> (Vec<u8>, Vec<Option<Vec<u8>>>) {
        (self.text, self.files)
    }
}

impl FieldKind {
    /// The kind of the string that comes after `text`, by the field name at the end of `text`.
    fn after(text: &[u8]) -> Self {
        let name = text.trim_ascii_end().strip_suffix(b":");
        let name = name.and_then(|text| text.trim_ascii_end().strip_suffix(b"\""));
        let is_named = |field: &&[u8]| {
            let before = name.and_then(|text| text.strip_suffix(*field));
            before.is_some_and(|text| text.ends_with(b"\""))
        };
        if FILE_FIELDS.iter().any(is_named) {
            Self::File
        } else if URL_FIELDS.iter().any(is_named) {
            Self::Url
        } else {
            Self::Other
        }
    }
}

/// Replaces a control byte by a space. Some servers write line breaks without escapes, which JSON
/// does not allow.
fn printable(byte: u8) -> u8 {
    if byte < b' ' { b' ' } else { byte }
}

/// Splits a chunk before the next quote or backslash.
fn split_run(chunk: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr2(b'"', b'\\', chunk);
    chunk.split_at(end.unwrap_or(chunk.len()))
}
