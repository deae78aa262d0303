//! Files in the JSON of a provider: they are the same as by a straight decode, however the answer is cut into chunks.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::sample::{Index, select};
use proptest::{prop_assert, prop_assert_eq, prop_oneof};
use serde_json::{Value, json};
use worker::providers::extract_files;

use super::edit::{apply, edits};
use super::{Verdict, fuzz};

/// A string of the answer.
#[derive(Clone, Debug)]
enum Content {
    /// A file, and how the server writes it.
    File(Vec<u8>, Writing),
    /// Text that is no base64.
    Text(String),
}

#[derive(Clone, Copy, Debug)]
enum Writing {
    Standard,
    UrlSafe,
    Unpadded,
    Lines,
    DataUrl,
}

impl Content {
    fn written(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::File(bytes, Writing::Standard) => STANDARD.encode(bytes),
            Self::File(bytes, Writing::UrlSafe) => URL_SAFE.encode(bytes),
            Self::File(bytes, Writing::Unpadded) => URL_SAFE_NO_PAD.encode(bytes),
            Self::File(bytes, Writing::Lines) => {
                let text = STANDARD.encode(bytes);
                let lines = text.as_bytes().chunks(76).map(str::from_utf8);
                lines
                    .map(|line| line.unwrap().to_owned() + "\r\n")
                    .collect()
            }
            Self::File(bytes, Writing::DataUrl) => {
                format!("data:image/png;base64,{}", STANDARD.encode(bytes))
            }
        }
    }
}

fn contents() -> impl Strategy<Value = Content> {
    let writings = [
        Writing::Standard,
        Writing::UrlSafe,
        Writing::Unpadded,
        Writing::Lines,
        Writing::DataUrl,
    ];
    // Files of 3,072 bytes are the shortest that are extracted.
    let lengths = prop_oneof![0..8_usize, 2_900..3_200_usize, 0..9_000_usize];
    let bytes = (lengths, any::<u8>()).prop_map(|(length, first)| {
        let byte = |at: usize| first.wrapping_add((at * 7 % 251).to_le_bytes()[0]);
        (0..length).map(byte).collect()
    });
    let texts =
        ("[ -~]{0,9}", 0..600_usize).prop_map(|(text, times)| format!("!{text}").repeat(times));
    prop_oneof![
        3 => (bytes, select(writings.to_vec())).prop_map(|(bytes, writing)| Content::File(bytes, writing)),
        1 => texts.prop_map(Content::Text),
    ]
}

#[test]
fn any_chunks_give_the_files_of_a_straight_decode() {
    let names = select(vec!["data", "b64_json", "url", "uri", "text"]);
    let fields = vec((names, contents()), 0..3);
    let escapes = any::<(bool, bool)>();
    let cuts = vec(any::<Index>(), 0..6);
    let inputs = (fields, escapes, cuts, edits(any::<u8>(), 3));
    fuzz("extractor", &inputs, |(fields, escapes, cuts, edits)| {
        let strings: Vec<String> = fields
            .iter()
            .map(|(_, content)| content.written())
            .collect();
        let parts = fields.iter().zip(&strings);
        let parts: Vec<Value> = parts
            .map(|((name, _), text)| json!({ *name: text }))
            .collect();
        let mut answer = json!(parts).to_string();
        if escapes.0 {
            answer = answer.replace('/', "\\/");
        }
        if escapes.1 {
            answer = answer.replace('=', "\\u003d");
        }
        let edited = apply(answer.clone().into_bytes(), &edits);
        let whole = extract_files([&edited[..]]);
        prop_assert_eq!(&extract_files(chunks(&edited, &cuts)), &whole);
        prop_assert_eq!(&extract_files(edited.chunks(1)), &whole);
        let (text, files) = whole;
        let kept: usize = files.iter().flatten().map(Vec::len).sum();
        prop_assert!(
            text.len() + kept <= edited.len(),
            "it takes more than the answer"
        );
        if edited != answer.as_bytes() {
            return Ok(Verdict::Refused);
        }

        // The strings are at their places: as they were, or as placeholders of the extracted files.
        let read: Value = serde_json::from_slice(&text).unwrap();
        let mut files = files.into_iter();
        for (place, ((name, content), string)) in fields.iter().zip(&strings).enumerate() {
            let read = read[place][*name].as_str().unwrap();
            if read == string {
                continue;
            }
            prop_assert!(*name != "text", "a text was taken for a file");
            prop_assert!(read.starts_with("file\u{1}"), "{read}");
            let file = files.next().unwrap();
            match content {
                Content::File(bytes, _) => prop_assert_eq!(file.as_ref(), Some(bytes)),
                Content::Text(_) => prop_assert_eq!(file, None),
            }
        }
        prop_assert!(files.next().is_none());
        Ok(Verdict::Read)
    });
}

/// The bytes in chunks that end at these places.
fn chunks<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut chunks = Vec::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        chunks.push(&bytes[from..cut]);
        from = cut;
    }
    chunks
}
