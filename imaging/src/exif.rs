//! Reads the orientation from an EXIF block. Nothing else of the block is used.

use image::metadata::Orientation;

/// The orientation in an EXIF block. A block that cannot be read is ignored, because viewers show such an image as it
/// is stored.
pub(super) fn orientation(block: &[u8]) -> Orientation {
    read_tag(block)
        .and_then(Orientation::from_exif)
        .unwrap_or(Orientation::NoTransforms)
}

/// Reads the orientation tag from the first directory. The format is that of TIFF 6.0, section 2.
fn read_tag(block: &[u8]) -> Option<u8> {
    const TAG: u32 = 0x0112;
    const BYTE: u32 = 1;
    const SHORT: u32 = 3;
    const LONG: u32 = 4;
    // The prefix belongs to JPEG (Exif 2.3, 4.7.2). Some programs also write it into PNG and WebP files.
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let is_big_endian = match block.get(..2)? {
        b"MM" => true,
        b"II" => false,
        _ => return None,
    };
    let number = |bytes: &[u8]| {
        let add = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        if is_big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        }
    };
    let offset = usize::try_from(number(block.get(4..8)?)).ok()?;
    let directory = block.get(offset..)?;
    let count = number(directory.get(..2)?) as usize;
    let entries = directory[2..].as_chunks::<12>().0.iter().take(count);
    let entry = entries
        .into_iter()
        .find(|entry| number(&entry[..2]) == TAG)?;
    let bytes = match number(&entry[2..4]) {
        BYTE => 1,
        SHORT => 2,
        LONG => 4,
        _ => return None,
    };
    u8::try_from(number(&entry[8..8 + bytes])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(order: [u8; 2], kind: u8, value: u8) -> Vec<u8> {
        let big = order == *b"MM";
        let number = |value: u8, bytes: usize| {
            let mut number = vec![0; bytes];
            number[if big { bytes - 1 } else { 0 }] = value;
            number
        };
        let bytes = match kind {
            1 => 1,
            3 => 2,
            _ => 4,
        };
        let mut block = [&order[..], &number(42, 2), &number(8, 4), &number(1, 2)].concat();
        block.extend(if big { [1, 0x12] } else { [0x12, 1] });
        block.extend([number(kind, 2), number(1, 4), number(value, bytes)].concat());
        block.resize(block.len() + 8 - bytes, 0);
        block
    }

    #[test]
    fn orientation_is_read_in_all_number_formats() {
        for order in [*b"MM", *b"II"] {
            for kind in [1, 3, 4] {
                let block = block(order, kind, 6);
                assert_eq!(
                    orientation(&block),
                    Orientation::Rotate90,
                    "{order:?} {kind}"
                );
                let named = [b"Exif\0\0", &block[..]].concat();
                assert_eq!(
                    orientation(&named),
                    Orientation::Rotate90,
                    "{order:?} {kind}"
                );
            }
        }
    }

    #[test]
    fn invalid_blocks_are_ignored() {
        let whole = block(*b"MM", 3, 6);
        for length in 0..whole.len() - 6 {
            assert_eq!(orientation(&whole[..length]), Orientation::NoTransforms);
        }
        for block in [block(*b"MM", 3, 9), block(*b"II", 2, 6), vec![0xFF; 64]] {
            assert_eq!(orientation(&block), Orientation::NoTransforms);
        }
    }
}
