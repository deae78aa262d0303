//! Writes provenance into a finished file: that an AI model made the image, which model, and for which job. Also writes
//! that the colors are sRGB.
//!
//! The provenance is machine-readable, as Article 50 of the EU AI Act requires. It is an XMP packet with IPTC's
//! [digital source type](https://cv.iptc.org/newscodes/digitalsourcetype/) and the AI properties of the IPTC Photo
//! Metadata Standard 2025.1. Nothing else is written: no prompt, no tenant and no time. So the same image of the same
//! job gives the same bytes. The pixels do not change, because only a few chunks are inserted between those of the
//! encoder.

use std::fmt::Write;
use std::sync::LazyLock;

use crc32fast::Hasher;
use moxcms::ColorProfile;

use domain::generation::image::Format;

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The model's name in the catalogue.
    pub model: String,
    /// The job and the number of the output, such as `job_01…/0`.
    pub source: String,
    /// Whether a fake made the image, and no AI model.
    pub synthetic: bool,
}

impl Provenance {
    fn digital_source_type(&self) -> &'static str {
        if self.synthetic {
            "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
        } else {
            "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
        }
    }

    fn xmp(&self) -> String {
        let (source_type, model, source) = (
            self.digital_source_type(),
            escape_xml(&self.model),
            escape_xml(&self.source),
        );
        format!(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
             <rdf:Description rdf:about=\"\" xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" \
             xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\">\
             <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>\
             <Iptc4xmpExt:AISystemUsed>{model}</Iptc4xmpExt:AISystemUsed>\
             <xmp:CreatorTool>Platen</xmp:CreatorTool>\
             <dc:identifier>{source}</dc:identifier>\
             </rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>"
        )
    }
}

/// Returns the file with provenance and color space. `file` must come from our own encoders.
pub(super) fn write(file: &[u8], format: Format, provenance: &Provenance) -> Vec<u8> {
    let xmp = provenance.xmp();
    match format {
        Format::Png => png(file, &xmp),
        Format::Jpeg => jpeg(file, &xmp),
        Format::Webp => webp(file, &xmp),
    }
}

/// The color space of every rendition, as an ICC profile.
static SRGB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let profile = ColorProfile::new_srgb();
    profile
        .encode()
        .expect("the library can encode its own profile")
});

/// Inserts two chunks after IHDR: sRGB with rendering intent 0, which is perceptual (PNG 11.3.2.5), and iTXt with the
/// XMP packet (11.3.3.4).
fn png(file: &[u8], xmp: &str) -> Vec<u8> {
    // The length of the signature, and of the IHDR chunk with its length, name and checksum.
    const HEADER: usize = 33;
    // The keyword, then no compression, no language and no translated keyword.
    let mut text = b"XML:com.adobe.xmp\0\0\0\0\0".to_vec();
    text.extend(xmp.as_bytes());
    let mut output = Vec::with_capacity(file.len() + text.len() + 40);
    output.extend(&file[..HEADER]);
    for (name, data) in [(b"sRGB", &[0][..]), (b"iTXt", &text)] {
        append_chunk(&mut output, *name, data);
    }
    output.extend(&file[HEADER..]);
    output
}

/// Appends a PNG chunk: its length, name, data and checksum.
pub(super) fn append_chunk(file: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("what we write is small");
    // The checksum is of the name and the data (PNG 5.3).
    let mut checksum = Hasher::new();
    checksum.update(&name);
    checksum.update(data);
    file.extend(length.to_be_bytes());
    file.extend(name);
    file.extend(data);
    file.extend(checksum.finalize().to_be_bytes());
}

/// Inserts two segments after the JFIF header, which must stay first: APP1 with the XMP packet (XMP part 3, 1.1.3) and
/// APP2 with the ICC profile (ICC.1, B.4).
fn jpeg(file: &[u8], xmp: &str) -> Vec<u8> {
    let header = match file {
        [0xFF, 0xD8, 0xFF, 0xE0, high, low, ..] => {
            4 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => 2,
    };
    let mut output = Vec::with_capacity(file.len() + xmp.len() + SRGB.len() + 64);
    output.extend(&file[..header]);
    for (marker, name, data) in [
        (0xE1, &b"http://ns.adobe.com/xap/1.0/\0"[..], xmp.as_bytes()),
        // Part 1 of 1.
        (0xE2, b"ICC_PROFILE\0\x01\x01", &SRGB),
    ] {
        let length = u16::try_from(2 + name.len() + data.len()).expect("what we write is small");
        output.extend([0xFF, marker]);
        output.extend(length.to_be_bytes());
        output.extend(name);
        output.extend(data);
    }
    output.extend(&file[header..]);
    output
}

/// Writes the extended format, in the order of the container specification (RFC 9649, 2.7): VP8X, ICCP, the image, XMP.
fn webp(file: &[u8], xmp: &str) -> Vec<u8> {
    const ICC: u8 = 0x20;
    const ALPHA: u8 = 0x10;
    const XMP: u8 = 0x04;
    let image = &file[12..];
    let (mut header, image_chunks) = match image {
        [b'V', b'P', b'8', b'X', _, _, _, _, header @ ..] => {
            let (header, image_chunks) = header.split_at(10);
            (header.to_vec(), image_chunks)
        }
        _ => {
            let (width, height, alpha) = simple_header(image);
            let mut header = vec![if alpha { ALPHA } else { 0 }, 0, 0, 0];
            for side in [width, height] {
                header.extend(&(side - 1).to_le_bytes()[..3]);
            }
            (header, image)
        }
    };
    header[0] |= ICC | XMP;
    let mut output = Vec::with_capacity(file.len() + xmp.len() + SRGB.len() + 64);
    output.extend(b"RIFF\0\0\0\0WEBP");
    append_riff_chunk(&mut output, *b"VP8X", &header);
    append_riff_chunk(&mut output, *b"ICCP", &SRGB);
    output.extend(image_chunks);
    append_riff_chunk(&mut output, *b"XMP ", xmp.as_bytes());
    let length = u32::try_from(output.len() - 8).expect("encoded images are far smaller");
    output[4..8].copy_from_slice(&length.to_le_bytes());
    output
}

/// Appends a RIFF chunk: its name, length and data, and a padding byte if the length is odd.
fn append_riff_chunk(file: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("what we write is small");
    file.extend(name);
    file.extend(length.to_le_bytes());
    file.extend(data);
    file.extend(&[0][..data.len() % 2]);
}

/// The width, the height and whether there is alpha, from the only chunk of a simple WebP file.
fn simple_header(image: &[u8]) -> (u32, u32, bool) {
    let word = |at: usize| u32::from(image[at]) | u32::from(image[at + 1]) << 8;
    if image.starts_with(b"VP8L") {
        // A signature byte, then 14 bits for the width minus one, 14 bits for the height minus one, and one bit for
        // alpha (RFC 9649, 3.4).
        let bits = word(9) | word(11) << 16;
        (
            (bits & 0x3FFF) + 1,
            (bits >> 14 & 0x3FFF) + 1,
            bits >> 28 & 1 == 1,
        )
    } else {
        // A frame tag and a start code of three bytes each, then 14 bits for width and height (RFC 6386, 9.1).
        (word(14) & 0x3FFF, word(16) & 0x3FFF, false)
    }
}

/// Escapes text for XML, because names of models come from a file of the operator.
fn escape_xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '<' | '>' | '"' | '\'' => {
                write!(escaped, "&#{};", u32::from(letter))
                    .expect("writing to a string cannot fail");
            }
            letter if letter.is_control() => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}
