//! Decodes one base64 file in chunks, in all the ways servers write base64.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// The scheme of a URL that contains the file itself (RFC 2397).
const DATA_SCHEME: &[u8] = b"data:";
/// The longest text before the comma of a `data:` URL, in bytes.
const MAX_DATA_URL_HEAD_BYTES: usize = 256;

/// Base64 without padding: [`FileDecoder`] removes the padding first. Unused bits at the end may be
/// set, because some encoders leave them set.
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes one file. The characters may be of the standard or the URL-safe alphabet, with
/// whitespace between them, with or without padding, and after the head of a `data:` URL.
pub(super) struct FileDecoder {
    /// The text so far, as long as it may be the head of a `data:` URL.
    head: Option<Vec<u8>>,
    bytes: Vec<u8>,
    /// The characters that are not decoded yet: fewer than four.
    undecoded: Vec<u8>,
    /// The characters of a JSON escape that is not complete yet.
    escape: Vec<u8>,
    /// Whether padding has come. No character may follow it.
    is_padded: bool,
    /// Whether the text is known not to be base64. Then nothing is kept.
    is_invalid: bool,
}

impl Default for FileDecoder {
    fn default() -> Self {
        Self {
            head: Some(Vec::new()),
            bytes: Vec::new(),
            undecoded: Vec::new(),
            escape: Vec::new(),
            is_padded: false,
            is_invalid: false,
        }
    }
}

impl FileDecoder {
    /// How many bytes are decoded so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether an escape is not complete yet. The next byte then goes to [`Self::push_escape`].
    pub(super) fn is_in_escape(&self) -> bool {
        !self.escape.is_empty()
    }

    /// Takes the next characters of the string, which contain no escape.
    pub(super) fn push(&mut self, run: &[u8]) {
        let Some(mut head) = self.head.take() else {
            return self.decode(run);
        };
        head.extend_from_slice(run);
        let compared = head.len().min(DATA_SCHEME.len());
        if !head[..compared].eq_ignore_ascii_case(&DATA_SCHEME[..compared]) {
            self.decode(&head);
        } else if let Some(comma) = head.iter().position(|&byte| byte == b',') {
            let encoding = head[..comma].to_ascii_lowercase();
            self.is_invalid |= !encoding.ends_with(b";base64");
            self.decode(&head[comma + 1..]);
        } else if head.len() <= MAX_DATA_URL_HEAD_BYTES {
            self.head = Some(head);
        } else {
            self.is_invalid = true;
        }
    }

    fn decode(&mut self, run: &[u8]) {
        // This check has no branch for each character, because nearly all text is plain base64.
        let is_plain = run.iter().fold(true, |all, &byte| all & is_base64(byte));
        if is_plain && !self.is_padded {
            self.undecoded.extend_from_slice(run);
        } else {
            for &byte in run {
                match byte {
                    b'=' => self.is_padded = true,
                    byte if byte.is_ascii_whitespace() => {}
                    _ if self.is_padded => self.is_invalid = true,
                    b'-' => self.undecoded.push(b'+'),
                    b'_' => self.undecoded.push(b'/'),
                    byte if is_base64(byte) => self.undecoded.push(byte),
                    _ => self.is_invalid = true,
                }
            }
        }
        let complete = self.undecoded.len() / 4 * 4;
        let decoded = UNPADDED.decode_vec(&self.undecoded[..complete], &mut self.bytes);
        self.undecoded.drain(..complete);
        self.is_invalid |= decoded.is_err();
        if self.is_invalid {
            (self.bytes, self.undecoded) = (Vec::new(), Vec::new());
        }
    }

    /// Takes the next byte of a JSON escape, beginning with the backslash. A complete escape is
    /// decoded.
    pub(super) fn push_escape(&mut self, byte: u8) {
        self.escape.push(byte);
        if self.escape.len() == 1 {
            return;
        }
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
            None => self.is_invalid = true,
        }
    }

    /// The complete file. Returns `None` if the text is not base64.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        match self.head.take() {
            Some(head) if head.len() < DATA_SCHEME.len() => self.decode(&head),
            // The head of a `data:` URL without a file.
            Some(_) => self.is_invalid = true,
            None => {}
        }
        self.is_invalid |= UNPADDED
            .decode_vec(&self.undecoded, &mut self.bytes)
            .is_err();
        (!self.is_invalid).then_some(self.bytes)
    }
}

/// Whether a URL contains the file itself.
pub(super) fn is_data_url(address: &[u8]) -> bool {
    let scheme = address.get(..DATA_SCHEME.len());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(DATA_SCHEME))
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}
