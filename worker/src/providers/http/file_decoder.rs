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
/// whitespace or control bytes between them, with or without padding, and after the head of a
/// `data:` URL.
pub(super) struct FileDecoder {
    /// The text so far, while it may be the head of a `data:` URL; `None` after that.
    head: Option<Vec<u8>>,
    /// The decoded bytes.
    bytes: Vec<u8>,
    /// The characters of a group that is not complete yet: fewer than four. Four characters of
    /// base64 are one group, which stands for three bytes.
    group: Vec<u8>,
    /// The characters of a JSON escape that is not complete yet.
    escape: Vec<u8>,
    /// Whether padding has come. No character may follow it.
    is_padded: bool,
    /// Whether the text is known not to be base64. Then nothing is kept.
    is_invalid: bool,
}

impl FileDecoder {
    /// A decoder for a file of about `capacity` bytes.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            head: Some(Vec::new()),
            bytes: Vec::with_capacity(capacity),
            group: Vec::new(),
            escape: Vec::new(),
            is_padded: false,
            is_invalid: false,
        }
    }

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
        // The head of a `data:` URL ends at the first comma.
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

    /// Decodes the next characters after the head. If they are not base64, drops everything.
    fn decode(&mut self, run: &[u8]) {
        if self.is_invalid {
            return;
        }
        // Nearly all text is plain base64, which is decoded where it is, without a copy.
        if self.is_padded || !self.decode_plain(run) {
            let plain = self.normalized(run);
            self.is_invalid |= !self.decode_plain(&plain);
        }
        if self.is_invalid {
            (self.bytes, self.group) = (Vec::new(), Vec::new());
        }
    }

    /// Decodes characters of the standard alphabet. Returns `false` and decodes nothing if there
    /// are other characters.
    fn decode_plain(&mut self, run: &[u8]) -> bool {
        let (old_bytes, old_group) = (self.bytes.len(), self.group.len());
        // The rest of the group that has begun, then complete groups, then the begin of another
        // group.
        let (group_end, rest) = run.split_at(run.len().min((4 - old_group) % 4));
        let (groups, group_begin) = rest.split_at(rest.len() / 4 * 4);
        if !group_end.iter().chain(group_begin).copied().all(is_base64) {
            return false;
        }
        self.group.extend_from_slice(group_end);
        let is_complete = self.group.len() == 4;
        let first: &[u8] = if is_complete { &self.group } else { &[] };
        let mut decode = |group| UNPADDED.decode_vec(group, &mut self.bytes).is_ok();
        if !(decode(first) && decode(groups)) {
            self.bytes.truncate(old_bytes);
            self.group.truncate(old_group);
            return false;
        }
        if is_complete {
            self.group.clear();
        }
        self.group.extend_from_slice(group_begin);
        true
    }

    /// Converts characters to the standard alphabet, and removes padding and whitespace. Notes
    /// padding, and characters that are not base64.
    fn normalized(&mut self, run: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(run.len());
        for &byte in run {
            match byte {
                b'=' => self.is_padded = true,
                // Some servers write line breaks without escapes, which JSON does not allow.
                0..=b' ' => {}
                _ if self.is_padded => self.is_invalid = true,
                b'-' => plain.push(b'+'),
                b'_' => plain.push(b'/'),
                byte if is_base64(byte) => plain.push(byte),
                _ => self.is_invalid = true,
            }
        }
        plain
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
        // An escaped control byte, except whitespace, makes the text invalid. A control byte
        // without an escape is ignored (`normalized`), because some servers write line breaks like
        // that.
        let character = character.filter(|&byte| byte.is_ascii_whitespace() || byte > b' ');
        match character {
            Some(character) => self.push(&[character]),
            None => self.is_invalid = true,
        }
    }

    /// The complete file. Returns `None` if the text is not base64.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        match self.head.take() {
            // The text is too short to be a URL.
            Some(head) if head.len() < DATA_SCHEME.len() => self.decode(&head),
            // The head of a `data:` URL without a file.
            Some(_) => self.is_invalid = true,
            None => {}
        }
        // The last group may be shorter than the others, but a single character is not valid.
        self.is_invalid |= UNPADDED.decode_vec(&self.group, &mut self.bytes).is_err();
        (!self.is_invalid).then_some(self.bytes)
    }
}

/// Whether a URL contains the file itself.
pub(super) fn is_data_url(url: &[u8]) -> bool {
    let scheme = url.get(..DATA_SCHEME.len());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(DATA_SCHEME))
}

/// Whether a character belongs to the standard alphabet.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}
