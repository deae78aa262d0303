//! The body of an answer, from which the files have been extracted.

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::memory::{MemoryPermit, with_permit};
use domain::outcome::Failure;
use domain::outcome::table::{self, Dialect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::base64_extractor::PLACEHOLDER_PREFIX;
use super::file_decoder::{FileDecoder, is_data_url};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A file in JSON.
#[derive(Clone, Debug)]
pub(in crate::providers) enum Base64 {
    /// A file that we send. It is written as base64.
    Sent(Bytes),
    /// The string that we received: base64, or a placeholder for a file. [`ExtractedBody::image`]
    /// resolves the placeholder.
    Received(String),
}

impl Base64 {
    /// Whether the field is empty. The image, if there is one, is then in another field.
    pub(in crate::providers) fn is_empty(&self) -> bool {
        match self {
            Self::Sent(bytes) => bytes.is_empty(),
            Self::Received(text) => text.is_empty(),
        }
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Encodes straight into the body, without a copy in between.
            Self::Sent(bytes) => serializer.collect_str(&Base64Display::new(bytes, &STANDARD)),
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

/// The text of an answer, and the files that were extracted from it.
#[derive(Default)]
pub(in crate::providers) struct ExtractedBody {
    /// The JSON, with placeholders for the files.
    text: Bytes,
    /// The files, decoded. `None` for a string that is not base64.
    files: Vec<Option<Bytes>>,
}

impl ExtractedBody {
    /// The text and files of an answer. Each file gets its part of the memory permit.
    pub(super) fn new(
        text: Vec<u8>,
        files: Vec<Option<Vec<u8>>>,
        mut permit: Option<MemoryPermit>,
    ) -> Self {
        let files = files.into_iter().map(|file| {
            let file = file?;
            let share = permit.as_mut().map(|permit| permit.split(file.len()));
            Some(with_permit(file, share))
        });
        Self {
            files: files.collect(),
            text: text.into(),
        }
    }

    /// The text of an answer without files.
    pub(super) fn text_only(text: String) -> Self {
        Self {
            text: text.into(),
            files: Vec::new(),
        }
    }

    /// Parses the JSON value that the text begins with. A byte order mark before the value and
    /// anything after the value are ignored, because some servers send them.
    ///
    /// # Errors
    ///
    /// Returns an error if the text does not begin with a JSON value of type `T`.
    pub(in crate::providers) fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        let text = self.text.strip_prefix(BYTE_ORDER_MARK);
        let text = text.unwrap_or(&self.text);
        T::deserialize(&mut serde_json::Deserializer::from_slice(text))
    }

    /// The image that a field holds.
    ///
    /// # Errors
    ///
    /// Returns an error if the field is not base64.
    pub(in crate::providers) fn image(
        &self,
        dialect: Dialect,
        field: &Base64,
    ) -> Result<Bytes, Failure> {
        let image = match field {
            Base64::Sent(bytes) => Some(bytes.clone()),
            Base64::Received(text) => self.file(text),
        };
        image.ok_or_else(|| {
            let detail = "the image is not valid base64";
            Failure::new(table::class(dialect, "bad_base64"), detail)
        })
    }

    /// The image that a `data:` URL contains. Returns `None` for any other URL.
    pub(in crate::providers) fn image_in_url(
        &self,
        dialect: Dialect,
        url: &str,
    ) -> Option<Result<Bytes, Failure>> {
        let is_file = url.starts_with(PLACEHOLDER_PREFIX) || is_data_url(url.as_bytes());
        let field = || Base64::Received(url.to_owned());
        is_file.then(|| self.image(dialect, &field()))
    }

    /// The file that a string stands for: the extracted file of a placeholder, or the decoded
    /// base64 of a string that was too short to be extracted. Returns `None` if it is not base64.
    fn file(&self, text: &str) -> Option<Bytes> {
        let extracted = text.strip_prefix(PLACEHOLDER_PREFIX).and_then(|number| {
            let number: usize = number.parse().ok()?;
            self.files.get(number)
        });
        if let Some(file) = extracted {
            return file.clone();
        }
        let mut file = FileDecoder::with_capacity(text.len() / 4 * 3);
        file.push(text.as_bytes());
        file.finish().map(Bytes::from)
    }
}

#[cfg(test)]
impl ExtractedBody {
    /// The body of an answer that comes in one chunk.
    pub(in crate::providers) fn from_text(text: impl AsRef<[u8]>) -> Self {
        extract(std::iter::once(text.as_ref()))
    }
}

#[cfg(test)]
fn extract<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> ExtractedBody {
    let (text, files) = super::extract_files(chunks);
    ExtractedBody::new(text, files, None)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::super::base64_extractor::MIN_EXTRACTED_BYTES;
    use super::*;

    /// The body of an answer that comes in chunks, once for each size that matters.
    fn read(text: &str) -> Vec<ExtractedBody> {
        let sizes = [1, 2, 3, 5, 7, 4095, 4096, 4097, 9_999, text.len()];
        sizes
            .into_iter()
            .map(|size| extract(text.as_bytes().chunks(size)))
            .collect()
    }

    fn file(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from(at * 7 % 251).unwrap())
            .collect()
    }

    const LENGTHS: [usize; 8] = [0, 1, 3000, 3072, 3073, 3074, 10_000, 100_001];

    #[test]
    fn long_files_are_extracted_and_all_else_stays() {
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
                for body in read(&text) {
                    let json: Value = body.read().unwrap();
                    assert_eq!(json["parts"][1], answer["parts"][1]);
                    assert_eq!(json["a\"b"], "x\\");
                    for part in [0, 2] {
                        let data = json["parts"][part]["data"].as_str().unwrap();
                        assert_eq!(body.file(data).unwrap(), file(length));
                    }
                    let max_length = if length > 10_000 {
                        2 * MIN_EXTRACTED_BYTES
                    } else {
                        usize::MAX
                    };
                    assert!(body.text.len() < max_length, "{}", body.text.len());
                }
            }
        }
    }

    /// Whether the file is valid must not depend on how the network cut the answer.
    #[test]
    fn a_control_byte_is_a_space_in_every_chunk() {
        for place in [10, 5_000] {
            let mut data = STANDARD.encode(file(10_000));
            data.insert(place, '\u{1}');
            for body in read(&format!(r#"{{"data": "{data}"}}"#)) {
                let json: Value = body.read().unwrap();
                let data = json["data"].as_str().unwrap();
                assert_eq!(body.file(data).unwrap(), file(10_000), "{place}");
            }
        }
    }

    #[test]
    fn base64_is_decoded_in_every_way_servers_write_it() {
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
                for body in read(&format!("{{\"b64_json\": \"{written}\"}}")) {
                    let json: Value = body.read().unwrap();
                    let found = body.file(json["b64_json"].as_str().unwrap());
                    assert_eq!(found.as_deref(), Some(&bytes[..]), "{length} {written:.40}");
                    assert!(body.text.len() < 2 * MIN_EXTRACTED_BYTES);
                }
            }
        }
    }

    #[test]
    fn only_a_data_url_is_a_file() {
        for length in LENGTHS {
            let long = STANDARD.encode(file(length));
            let there = format!("https://pictures.example/{long}?a=b");
            let here = format!("data:image/webp;base64,{long}");
            let text = json!({"url": there, "more": {"uri": here}}).to_string();
            for body in read(&text) {
                let json: Value = body.read().unwrap();
                let image_at = |field: &Value| {
                    let address = field.as_str().unwrap();
                    body.image_in_url(Dialect::Openai, address)
                };
                assert_eq!(json["url"], there);
                assert_eq!(image_at(&json["url"]), None);
                assert_eq!(
                    image_at(&json["more"]["uri"]).unwrap().unwrap(),
                    file(length)
                );
            }
        }
    }

    #[test]
    fn text_that_is_not_base64_is_reported_and_not_kept() {
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
            for body in read(&text) {
                let json: Value = body.read().unwrap();
                let found = body.file(json[0]["data"].as_str().unwrap());
                assert_eq!(found, None, "{written:.40}");
                assert_eq!(json[1], "after");
                assert!(body.text.len() < 2 * MIN_EXTRACTED_BYTES);
            }
        }
    }

    #[test]
    fn no_message_is_taken_for_a_file() {
        let message = STANDARD.encode(file(9_000));
        let answer =
            json!({"error": {"message": message, "code": message}, "revised_prompt": message});
        for body in read(&answer.to_string()) {
            assert_eq!(body.read::<Value>().unwrap(), answer);
        }
        // A text that is cut off is no JSON.
        for text in [format!("[\"{message}"), format!("{{\"data\": \"{message}")] {
            for body in read(&text) {
                assert!(body.read::<Value>().is_err());
            }
        }
    }

    #[test]
    fn text_around_the_json_is_ignored() {
        for text in [
            "\u{FEFF}{\"a\": 1}",
            "\n {\"a\": 1}\n\n",
            "{\"a\": 1}\r\n<!-- -->",
            "{\"a\": 1}{\"a\": 2}",
        ] {
            for body in read(text) {
                assert_eq!(body.read::<Value>().unwrap(), json!({"a": 1}), "{text}");
            }
        }
    }
}
