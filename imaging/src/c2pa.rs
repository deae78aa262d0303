//! Finds the content credentials (C2PA) that a provider wrote into an image. They are not verified.
//!
//! They are valid only for the original. A rendition has other pixels, so they are not copied into it.
//!
//! Where each format stores them: C2PA Technical Specification 2.1, appendix A.3. Only headers are read.

use sha2::{Digest, Sha256};

use domain::generation::image::Format;

/// The SHA-256 of a file's manifest store. Returns `None` if the file has no manifest store.
pub(super) fn sha256(file: &[u8], format: Format) -> Option<[u8; 32]> {
    let parts = match format {
        Format::Png => png(file),
        Format::Jpeg => jpeg(file),
        Format::Webp => webp(file),
    };
    let store = parts.concat();
    // A manifest store is a JUMBF superbox that begins with a description box with the label `c2pa`. 64 bytes reach
    // past the label.
    let head = store.get(..64.min(store.len()))?;
    let is_store = store.get(4..8)? == b"jumb" && head.windows(5).any(|label| label == b"c2pa\0");
    is_store.then(|| Sha256::digest(&store).into())
}

/// The data of the chunks `caBX`.
fn png(file: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = file.get(8..).unwrap_or_default();
    // Besides its data, a chunk has 12 bytes: length, name and checksum.
    while let Some(length) = rest.first_chunk().map(|length| u32::from_be_bytes(*length))
        && let Some(chunk) = rest.get(..(length as usize).saturating_add(12))
    {
        if &chunk[4..8] == b"caBX" {
            found.push(&chunk[8..chunk.len() - 4]);
        }
        rest = &rest[chunk.len()..];
    }
    found
}

/// The data of the APP11 segments before the first scan. A box that is too long for one segment continues in the next
/// segment, which repeats the eight bytes of the box's header.
fn jpeg(file: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = file.get(2..).unwrap_or_default();
    while let [0xFF, marker, high, low, ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(segment) = rest.get(4..length + 2) else {
            break;
        };
        match (*marker, segment) {
            (0xDA, _) => break,
            // Before the payload: `JP`, the number of the box (2 bytes) and the number of the segment (4 bytes).
            (0xEB, [b'J', b'P', _, _, _, _, _, _, payload @ ..]) => {
                let repeated = if found.is_empty() { 0 } else { 8 };
                found.push(payload.get(repeated..).unwrap_or_default());
            }
            _ => {}
        }
        rest = &rest[length + 2..];
    }
    found
}

/// The data of the chunk `C2PA`.
fn webp(file: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = file.get(12..).unwrap_or_default();
    while let Some(&[a, b, c, d]) = rest.get(4..8).and_then(|length| length.first_chunk()) {
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(data) = rest.get(8..length.saturating_add(8)) else {
            break;
        };
        if &rest[..4] == b"C2PA" {
            found.push(data);
        }
        let padded = 8 + length + length % 2;
        rest = rest.get(padded..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::append_chunk;

    /// A superbox with a description box and some content, as a manifest store begins.
    fn store() -> Vec<u8> {
        let mut description =
            b"\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0".to_vec();
        description.extend([7; 700]);
        let length = u32::try_from(description.len() + 8).unwrap();
        [&length.to_be_bytes()[..], b"jumb", &description].concat()
    }

    #[test]
    fn a_manifest_is_found_in_each_format() {
        let store = store();
        let expected = Some(<[u8; 32]>::from(Sha256::digest(&store)));

        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        append_chunk(&mut png, *b"IHDR", &[0; 13]);
        append_chunk(&mut png, *b"caBX", &store);
        assert_eq!(sha256(&png, Format::Png), expected);

        // In two segments, the second with the box's header once more.
        let (first, second) = store.split_at(300);
        let segment = |number: u8, payload: &[u8]| {
            let length = u16::try_from(payload.len() + 10).unwrap().to_be_bytes();
            [
                &[0xFF, 0xEB],
                &length[..],
                b"JP\0\x01\0\0\0",
                &[number],
                payload,
            ]
            .concat()
        };
        let jpeg = [
            &[0xFF, 0xD8][..],
            &segment(1, first),
            &segment(2, &[&store[..8], second].concat()),
            &[0xFF, 0xDA, 0, 2],
        ]
        .concat();
        assert_eq!(sha256(&jpeg, Format::Jpeg), expected);

        let length = u32::try_from(store.len()).unwrap().to_le_bytes();
        let webp = [b"RIFF\0\0\0\0WEBPC2PA", &length[..], &store].concat();
        assert_eq!(sha256(&webp, Format::Webp), expected);
    }

    #[test]
    fn files_without_a_manifest_have_none() {
        for format in [Format::Png, Format::Jpeg, Format::Webp] {
            for file in [&b""[..], b"\x89PNG\r\n\x1a\n", &[0xFF; 40], &[0; 40]] {
                assert_eq!(sha256(file, format), None);
            }
        }
        let mut other = b"\x89PNG\r\n\x1a\n".to_vec();
        append_chunk(
            &mut other,
            *b"caBX",
            b"\0\0\0\x20jumb of something else, for sure",
        );
        assert_eq!(sha256(&other, Format::Png), None);
    }
}
