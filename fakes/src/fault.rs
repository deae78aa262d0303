//! The ways in which a call can fail. Each has a word, so that every row of the outcome table can be requested.

use super::shapes;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One way in which a call can fail, written as a word.
///
/// All vendors play these, each in its own format:
///
/// | word | what the caller gets |
/// |---|---|
/// | `status:<code>` | this HTTP status with the vendor's body; 502 is an HTML page |
/// | `throttle` `invalid` `unauthenticated` `denied` `not_found` `internal` `unavailable` `deadline` | `status:` 429 400 401 403 404 500 503 504 |
/// | `throttle:<seconds>` | 429 that says how long to wait |
/// | `no_quota` | 429 because there is no quota, so that waiting does not help |
/// | `empty` | 200 with nothing in it |
/// | `wrong_type` | 200; the bytes have another type than their label |
/// | `wrong_size` | 200; an image whose sides are 1/16 too short |
/// | `bad_base64` `bad_picture` | 200; data that is not valid base64; bytes that are not an image |
/// | `bomb:<name>` | 200; a damaged or hostile file, see [`hostile_file_names`](crate::hostile_file_names) |
/// | `not_json` | 200; an HTML page |
/// | `cut` | 200; the connection closes in the middle of the body |
/// | `stall` | 200; the headers and half the body, then nothing |
/// | `trickle` | 200; one byte every 100 ms, for ever |
/// | `oversized` | 200; a body of 256 MiB |
/// | `reset` | the request is read, then the connection is reset |
/// | `hang` | no answer until the caller closes the connection or the fake stops |
/// | `late:<ms>` | the good answer, after at least this many milliseconds |
/// | `never` | `hang`; an interaction in the background stays `in_progress` |
///
/// Only some vendors play these. The other vendors answer 400 and say so:
///
/// | word | vendor | what the caller gets |
/// |---|---|---|
/// | `failed_precondition` | Google's three | 400 with that status |
/// | `text_only` | Google's three | 200; text and no image |
/// | `finish:<REASON>` | `vertex` `gemini` | 200; a candidate without parts and with this `finishReason`, which may be unknown |
/// | `no_image` `max_tokens` `unknown_reason` | `vertex` `gemini` | `finish:` `NO_IMAGE` `MAX_TOKENS` `A_REASON_FROM_THE_FUTURE` |
/// | `block:<REASON>` | `vertex` `gemini` | 200; `promptFeedback.blockReason`, no candidates |
/// | `only_thought` | `vertex` `gemini` | 200; the only image is marked as a thought |
/// | `interaction:<status>` | `interactions` | the interaction ends with this status, which may be unknown |
/// | `content_blocked` `content_filtered` | `interactions` | the prompt, or the image, is refused: 400, or in the background `failed` |
/// | `poll:<word>` | `interactions` | polls of the interaction get this fault of the connection or the status; its creation does not |
/// | `gone` | `interactions` | `poll:not_found` |
/// | `error:<code>` | `openai` | the error with this code, with its usual status |
/// | `error_200:<code>` | `openai` | 200; the error with this code, and `data` is null |
/// | `long_error:<code>` | `openai` | the error with this code and a message of 100 KiB that begins with control characters |
/// | `shape:<name>` | `openai` | 200; the good answer as other servers write it, see `shapes.rs` |
/// | `error:<code>` | `interactions` | the interaction fails with this code |
/// | `elsewhere` | `interactions` `openai` | 200; a URL instead of the image, at a host that does not exist |
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fault {
    /// An error with this HTTP status.
    Status(u16),
    /// 429 that asks to wait for this many seconds.
    Throttle(u32),
    /// 429 because there is no quota.
    NoQuota,
    /// 400 `FAILED_PRECONDITION`.
    FailedPrecondition,
    /// A candidate with this `finishReason` and no parts.
    Finish(String),
    /// A prompt refused for this `blockReason`.
    Block(String),
    /// An answer with text and no image.
    TextOnly,
    /// An answer with nothing in it.
    Empty,
    /// The only image is a thought.
    OnlyThought,
    /// The bytes have another type than their label.
    WrongType,
    /// The image has another size than was asked for.
    WrongSize,
    /// The data is not base64.
    BadBase64,
    /// The bytes are not an image.
    BadImage,
    /// The damaged or hostile file with this name.
    HostileFile(String),
    /// An HTML page.
    NotJson,
    /// Half of the body, then the connection closes.
    Cut,
    /// Half of the body, then nothing.
    Stall,
    /// A body that comes very slowly and never ends.
    Trickle,
    /// A body of 256 MiB.
    Oversized,
    /// The connection is reset before the reply.
    Reset,
    /// No answer.
    Hang,
    /// A good answer after at least this many milliseconds.
    Late(u64),
    /// The work never ends.
    Never,
    /// An error with this code.
    Error(String),
    /// An error with this code in an answer with status 200.
    Error200(String),
    /// An error with this code and a very long message.
    LongError(String),
    /// The good answer in the format of another server.
    Shape(String),
    /// A URL instead of the image.
    Elsewhere,
    /// An interaction that ends with this status.
    Interaction(String),
    /// An interaction whose prompt is refused.
    ContentBlocked,
    /// An interaction whose image is refused.
    ContentFiltered,
    /// A fault for the polls of an interaction.
    Poll(Box<Self>),
    /// An interaction that does not exist when it is polled.
    Gone,
}

/// The words without a parameter.
const WORDS: &[(&str, Fault)] = &[
    ("throttle", Fault::Status(429)),
    ("invalid", Fault::Status(400)),
    ("unauthenticated", Fault::Status(401)),
    ("denied", Fault::Status(403)),
    ("not_found", Fault::Status(404)),
    ("internal", Fault::Status(500)),
    ("unavailable", Fault::Status(503)),
    ("deadline", Fault::Status(504)),
    ("no_quota", Fault::NoQuota),
    ("failed_precondition", Fault::FailedPrecondition),
    ("text_only", Fault::TextOnly),
    ("empty", Fault::Empty),
    ("only_thought", Fault::OnlyThought),
    ("wrong_type", Fault::WrongType),
    ("wrong_size", Fault::WrongSize),
    ("bad_base64", Fault::BadBase64),
    ("bad_picture", Fault::BadImage),
    ("not_json", Fault::NotJson),
    ("cut", Fault::Cut),
    ("stall", Fault::Stall),
    ("trickle", Fault::Trickle),
    ("oversized", Fault::Oversized),
    ("reset", Fault::Reset),
    ("hang", Fault::Hang),
    ("never", Fault::Never),
    ("content_blocked", Fault::ContentBlocked),
    ("content_filtered", Fault::ContentFiltered),
    ("gone", Fault::Gone),
    ("elsewhere", Fault::Elsewhere),
];

/// A URL at a host that never exists: `.invalid` is reserved (RFC 2606, 2).
pub(super) const ELSEWHERE: &str = "https://pictures.invalid/1.png";

/// Words for a `finishReason`.
const FINISHES: &[(&str, &str)] = &[
    ("no_image", "NO_IMAGE"),
    ("max_tokens", "MAX_TOKENS"),
    ("unknown_reason", "A_REASON_FROM_THE_FUTURE"),
];

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(word: &str) -> Result<Self, UnknownFault> {
        if let Some((_, fault)) = WORDS.iter().find(|(known, _)| *known == word) {
            return Ok(fault.clone());
        }
        if let Some((_, reason)) = FINISHES.iter().find(|(known, _)| *known == word) {
            return Ok(Self::Finish((*reason).to_owned()));
        }
        let fault = word.split_once(':').and_then(|(kind, value)| {
            let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
            match kind {
                "status" => (value.parse().ok())
                    .filter(|code| (300..600).contains(code))
                    .map(Self::Status),
                "throttle" => value.parse().ok().map(Self::Throttle),
                "bomb" => {
                    drawing::is_hostile_or_heavy(value).then(|| Self::HostileFile(value.to_owned()))
                }
                "late" => value.parse().ok().map(Self::Late),
                "finish" => text().map(Self::Finish),
                "block" => text().map(Self::Block),
                "error" => text().map(Self::Error),
                "error_200" => text().map(Self::Error200),
                "long_error" => text().map(Self::LongError),
                "shape" => shapes::is_known(value).then(|| Self::Shape(value.to_owned())),
                "interaction" => text().map(Self::Interaction),
                "poll" => (value.parse().ok())
                    .filter(Self::is_transport_fault)
                    .map(|fault| Self::Poll(Box::new(fault))),
                _ => None,
            }
        });
        fault.ok_or_else(|| UnknownFault(word.to_owned()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostileFile(name) => write!(f, "bomb:{name}"),
            Self::Finish(reason) => write!(f, "finish:{reason}"),
            Self::Block(reason) => write!(f, "block:{reason}"),
            Self::Throttle(seconds) => write!(f, "throttle:{seconds}"),
            Self::Late(milliseconds) => write!(f, "late:{milliseconds}"),
            Self::Error(code) => write!(f, "error:{code}"),
            Self::Error200(code) => write!(f, "error_200:{code}"),
            Self::LongError(code) => write!(f, "long_error:{code}"),
            Self::Shape(name) => write!(f, "shape:{name}"),
            Self::Interaction(status) => write!(f, "interaction:{status}"),
            Self::Poll(fault) => write!(f, "poll:{fault}"),
            fault => match (fault, WORDS.iter().find(|(_, known)| known == fault)) {
                (_, Some((word, _))) => f.write_str(word),
                (Self::Status(code), None) => write!(f, "status:{code}"),
                // Every other fault is in `WORDS`.
                (fault, None) => write!(f, "{fault:?}"),
            },
        }
    }
}

impl TryFrom<String> for Fault {
    type Error = UnknownFault;

    fn try_from(word: String) -> Result<Self, UnknownFault> {
        word.parse()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.to_string()
    }
}

impl Fault {
    /// Whether any request can get this fault, also a poll. It concerns the connection, the status, the time, or a body
    /// that is not the vendor's JSON.
    pub(super) fn is_transport_fault(&self) -> bool {
        matches!(
            self,
            Self::Status(_)
                | Self::Throttle(_)
                | Self::NoQuota
                | Self::NotJson
                | Self::Cut
                | Self::Stall
                | Self::Trickle
                | Self::Oversized
                | Self::Reset
                | Self::Hang
                | Self::Late(_)
        )
    }

    /// Whether all vendors play this fault.
    pub(super) fn is_common(&self) -> bool {
        let is_image_fault = matches!(
            self,
            Self::WrongType
                | Self::WrongSize
                | Self::BadBase64
                | Self::BadImage
                | Self::HostileFile(_)
        );
        self.is_transport_fault() || is_image_fault || matches!(self, Self::Empty | Self::Never)
    }
}

/// A word that is not a [`Fault`].
#[derive(Debug, thiserror::Error)]
#[error("The fake knows no fault '{0}'.")]
pub struct UnknownFault(pub(super) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_parses_and_prints_the_same() {
        let plain = WORDS.iter().map(|(word, _)| *word);
        let others = [
            "status:502",
            "throttle:7",
            "late:250",
            "finish:IMAGE_OTHER",
            "block:OTHER",
            "error:moderation_blocked",
            "error_200:content_policy_violation",
            "long_error:moderation_blocked",
            "shape:data_address",
            "interaction:a_status_from_the_future",
            "poll:unavailable",
            "poll:late:90",
            "poll:throttle:3",
        ];
        for word in plain.chain(others) {
            let fault: Fault = word.parse().unwrap();
            assert_eq!(fault.to_string(), word);
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        for word in [
            "",
            "thunder",
            "status:200",
            "status:x",
            "throttle:",
            "late:soon",
            "error:",
            "shape:of_water",
            "poll:gone",
            "poll:text_only",
            "poll:poll:hang",
        ] {
            assert!(word.parse::<Fault>().is_err(), "{word}");
        }
    }
}
