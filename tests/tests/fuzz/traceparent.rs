//! The header `traceparent`: exactly what three numbers write is accepted (W3C Trace Context, 3.2).

use domain::traceparent::TraceParent;
use proptest::prelude::any;
use proptest::prop_assert_eq;
use proptest::string::string_regex;

use super::edit::{apply_to_text, edits};
use super::{Verdict, fuzz};

const TEXTS: &str = "00-(0{32}|[0-9a-f]{32})-(0{16}|[0-9a-f]{16})-[0-9a-f]{2}";

#[test]
fn a_traceparent_is_what_its_numbers_write() {
    let inputs = (string_regex(TEXTS).unwrap(), edits(any::<char>(), 3));
    fuzz("traceparent", &inputs, |(text, edits)| {
        let text = apply_to_text(&text, &edits);
        let read = text.parse::<TraceParent>().ok();
        let read = read.as_ref().map(TraceParent::as_str);
        let written = written(&text);
        prop_assert_eq!(read, written.as_deref());
        Ok(if read.is_some() {
            Verdict::Read
        } else {
            Verdict::Refused
        })
    });
}

/// The text that the numbers in `text` write. `None` if there are none, if they write another text, or if an id is zero.
fn written(text: &str) -> Option<String> {
    let trace = u128::from_str_radix(text.get(3..35)?, 16).ok()?;
    let parent = u64::from_str_radix(text.get(36..52)?, 16).ok()?;
    let flags = u8::from_str_radix(text.get(53..)?, 16).ok()?;
    let written = format!("00-{trace:032x}-{parent:016x}-{flags:02x}");
    (written == text && trace != 0 && parent != 0).then_some(written)
}
