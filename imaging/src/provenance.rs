//! What a finished file says of itself: that an AI made it, which one, for which job, and that its colours are sRGB.
//!
//! The marking is machine-readable, as Article 50 of the EU's AI Act asks for: an XMP packet with IPTC's
//! [digital source type](https://cv.iptc.org/newscodes/digitalsourcetype/) and the AI properties of the IPTC Photo Metadata
//! Standard 2025.1. Nothing else is written: no prompt, no tenant, no time, so the same picture gives the same bytes. The
//! pixels are not touched: a few chunks are put between those the encoder wrote.

use std::fmt::Write;
use std::sync::LazyLock;

use moxcms::ColorProfile;

use common::generation::image::Format;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The model's name in the catalogue.
    pub model: String,
    /// Job and output, such as `job_01…/0`.
    pub source: String,
    /// No AI model made it, but a program that plays one.
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
        let (kind, model, source) = (
            self.digital_source_type(),
            escaped(&self.model),
            escaped(&self.source),
        );
        format!(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
             <rdf:Description rdf:about=\"\" xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" \
             xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\">\
             <Iptc4xmpExt:DigitalSourceType>{kind}</Iptc4xmpExt:DigitalSourceType>\
             <Iptc4xmpExt:AISystemUsed>{model}</Iptc4xmpExt:AISystemUsed>\
             <xmp:CreatorTool>Platen</xmp:CreatorTool>\
             <dc:identifier>{source}</dc:identifier>\
             </rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>"
        )
    }
}

/// The file with the mark and the name of its colours in it. `file` is what our own encoders write.
pub(super) fn write(file: &[u8], format: Format, mark: &Provenance) -> Vec<u8> {
    let xmp = mark.xmp();
    match format {
        Format::Png => png(file, &xmp),
        Format::Jpeg => jpeg(file, &xmp),
        Format::Webp => webp(file, &xmp),
    }
}

/// The colours of every rendition, as an ICC profile.
static SRGB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let profile = ColorProfile::new_srgb();
    profile.encode().expect("a profile of the library's own")
});

/// Chunks after the header: sRGB by name (rendering intent 0, perceptual), and the packet as international text.
fn png(file: &[u8], xmp: &str) -> Vec<u8> {
    const HEADER: usize = 33;
    let mut text = b"XML:com.adobe.xmp\0\0\0\0\0".to_vec();
    text.extend(xmp.as_bytes());
    let mut marked = Vec::with_capacity(file.len() + text.len() + 40);
    marked.extend(&file[..HEADER]);
    for (name, data) in [(b"sRGB", &[0][..]), (b"iTXt", &text)] {
        chunk(&mut marked, *name, data);
    }
    marked.extend(&file[HEADER..]);
    marked
}

/// One chunk of a PNG: its length, name, data and checksum.
pub(super) fn chunk(file: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("what we write is small");
    file.extend(length.to_be_bytes());
    file.extend(name);
    file.extend(data);
    file.extend(crc([&name, data]).to_be_bytes());
}

/// CRC-32 as in the PNG specification; of a few hundred bytes, so a bit at a time.
fn crc(parts: [&[u8]; 2]) -> u32 {
    !parts.into_iter().flatten().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Segments after the JFIF header, which stays first.
fn jpeg(file: &[u8], xmp: &str) -> Vec<u8> {
    let header = match file {
        [0xFF, 0xD8, 0xFF, 0xE0, high, low, ..] => {
            4 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => 2,
    };
    let mut marked = Vec::with_capacity(file.len() + xmp.len() + SRGB.len() + 64);
    marked.extend(&file[..header]);
    for (marker, name, data) in [
        (0xE1, &b"http://ns.adobe.com/xap/1.0/\0"[..], xmp.as_bytes()),
        // The first of one part.
        (0xE2, b"ICC_PROFILE\0\x01\x01", &SRGB),
    ] {
        let length = u16::try_from(2 + name.len() + data.len()).expect("what we write is small");
        marked.extend([0xFF, marker]);
        marked.extend(length.to_be_bytes());
        marked.extend(name);
        marked.extend(data);
    }
    marked.extend(&file[header..]);
    marked
}

/// The extended form, with the chunks in the order the container specification gives them.
fn webp(file: &[u8], xmp: &str) -> Vec<u8> {
    const ICC: u8 = 0x20;
    const ALPHA: u8 = 0x10;
    const XMP: u8 = 0x04;
    let image = &file[12..];
    let (mut header, pictures) = match image {
        [b'V', b'P', b'8', b'X', _, _, _, _, header @ ..] => {
            let (header, pictures) = header.split_at(10);
            (header.to_vec(), pictures)
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
    let mut marked = Vec::with_capacity(file.len() + xmp.len() + SRGB.len() + 64);
    marked.extend(b"RIFF\0\0\0\0WEBP");
    riff(&mut marked, *b"VP8X", &header);
    riff(&mut marked, *b"ICCP", &SRGB);
    marked.extend(pictures);
    riff(&mut marked, *b"XMP ", xmp.as_bytes());
    let length = u32::try_from(marked.len() - 8).expect("pictures are far smaller");
    marked[4..8].copy_from_slice(&length.to_le_bytes());
    marked
}

/// One chunk of a RIFF file: its name, length and data, and a byte more where the length is odd.
fn riff(file: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("what we write is small");
    file.extend(name);
    file.extend(length.to_le_bytes());
    file.extend(data);
    file.extend(&[0][..data.len() % 2]);
}

/// Width, height and whether there is alpha, from the one chunk of a simple file.
fn simple_header(image: &[u8]) -> (u32, u32, bool) {
    let bits = |at: usize| u32::from(image[at]) | u32::from(image[at + 1]) << 8;
    if image.starts_with(b"VP8L") {
        // A signature, then 14 bits each of width and height less one, then whether alpha is used.
        let bits = bits(9) | bits(11) << 16;
        (
            (bits & 0x3FFF) + 1,
            (bits >> 14 & 0x3FFF) + 1,
            bits >> 28 & 1 == 1,
        )
    } else {
        // A frame tag of three bytes, a start code of three, then 14 bits each.
        (bits(14) & 0x3FFF, bits(16) & 0x3FFF, false)
    }
}

/// For XML. Names of models come from a file an operator wrote.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '<' | '>' | '"' | '\'' => {
                write!(escaped, "&#{};", u32::from(letter)).expect("memory takes it");
            }
            letter if letter.is_control() => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}
