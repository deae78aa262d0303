//! Makes the image of a reply, with the flaw that a fault asks for.

use super::{fault::Fault, faults::Style};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use drawing::{Format, Scene};
use sha2::{Digest, Sha256};

/// An image as it goes into a reply.
pub(super) struct GeneratedImage {
    pub(super) bytes: Bytes,
    pub(super) sha256: [u8; 32],
    has_bad_base64: bool,
}

impl GeneratedImage {
    /// The bytes in base64, damaged if the fault asks for it.
    pub(super) fn base64(&self) -> String {
        let mut data = BASE64_STANDARD.encode(&self.bytes);
        if self.has_bad_base64 {
            data.insert_str(data.len() / 2, "*not base64*");
        }
        data
    }

    /// The SHA-256 of the bytes, in hex.
    pub(super) fn hash(&self) -> String {
        hex::encode(self.sha256)
    }
}

/// Makes the image of a scene, with the flaw that the fault asks for.
pub(super) fn make(
    scene: &Scene,
    (width, height): (u32, u32),
    format: Format,
    fault: Option<&Fault>,
    style: Style,
) -> GeneratedImage {
    let pixels = match fault {
        Some(Fault::WrongSize) => (width - width / 16, height - height / 16),
        _ => (width, height),
    };
    let format = match (fault, format) {
        (Some(Fault::WrongType), Format::Png | Format::WebP) => Format::Jpeg { quality: 75 },
        (Some(Fault::WrongType), Format::Jpeg { .. }) => Format::Png,
        (_, format) => format,
    };
    let bytes = match fault {
        Some(Fault::HostileFile(name)) => drawing::hostile_file(name).unwrap_or_default().into(),
        Some(Fault::BadImage) => Bytes::from_static(b"These bytes are no picture."),
        _ if style != Style::StillLife => {
            drawing::draw_flat(pixels, format, style == Style::FlatWithGrain)
        }
        _ => drawing::draw(scene, pixels, format).into(),
    };
    GeneratedImage {
        sha256: Sha256::digest(&bytes).into(),
        bytes,
        has_bad_base64: fault == Some(&Fault::BadBase64),
    }
}
