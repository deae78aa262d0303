//! Where in a trace something belongs: the header `traceparent` of W3C's Trace Context.

use std::str::FromStr;

/// The header of a [`TraceParent`].
pub const HEADER: &str = "traceparent";

/// A `traceparent`: the trace and the parent span of something. Version `00` of W3C Trace Context
/// (w3.org/TR/trace-context).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// The value of the header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a `traceparent` of version `00`. W3C requires that it is ignored.
#[derive(Debug, thiserror::Error)]
#[error("no traceparent")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let is_hex = |part: &str, length: usize| {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            part.len() == length && part.bytes().all(is_digit)
        };
        // An id of zeros is not valid.
        let is_id = |part: &str, length: usize| {
            is_hex(part, length) && part.bytes().any(|byte| byte != b'0')
        };
        match text.split('-').collect::<Vec<&str>>()[..] {
            ["00", trace, parent, flags]
                if is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidTraceParent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_of_version_00_and_names_a_trace_and_a_parent() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed: TraceParent = good.parse().unwrap();
        assert_eq!(parsed.as_str(), good);
        for bad in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
