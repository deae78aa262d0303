//! The ways a call can end badly, each a word: the whole outcome table can be asked for by name.

use super::answer::Flaw;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One way a call can end badly, written as a word.
///
/// | word | what the caller meets |
/// |---|---|
/// | `status:<code>` | that HTTP status with Google's body; 502 is an HTML page |
/// | `throttle` `invalid` `unauthenticated` `denied` `not_found` `internal` `unavailable` `deadline` | `status:` 429 400 401 403 404 500 503 504 |
/// | `failed_precondition` | 400 with that status |
/// | `finish:<REASON>` | 200; a candidate without parts that ended for that reason, known to anyone or not |
/// | `no_image` `max_tokens` `unknown_reason` | `finish:` `NO_IMAGE` `MAX_TOKENS` `A_REASON_FROM_THE_FUTURE` |
/// | `block:<REASON>` | 200; `promptFeedback.blockReason`, no candidates |
/// | `text_only` | 200; `STOP` with words and no picture |
/// | `empty` | 200; `{}` |
/// | `only_thought` | 200; the one picture is marked as a thought |
/// | `wrong_type` | 200; JPEG bytes labelled PNG, or the other way round |
/// | `wrong_size` | 200; a picture a sixteenth too small |
/// | `bad_base64` `bad_picture` | 200; data that does not decode; bytes that are no picture |
/// | `not_json` | 200; an HTML page |
/// | `cut` | 200; the connection closes midway through the body |
/// | `hang` | nothing, until the caller goes away or the fake stops |
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fault {
    /// An HTTP status.
    Status(u16),
    /// 400 `FAILED_PRECONDITION`.
    FailedPrecondition,
    /// A candidate with this `finishReason` and no parts.
    Finish(String),
    /// A prompt refused for this `blockReason`.
    Block(String),
    /// Words, no picture.
    TextOnly,
    /// An empty object.
    Empty,
    /// The only picture is a thought.
    OnlyThought,
    /// The bytes are not what the label says.
    WrongType,
    /// The picture has other pixels than asked for.
    WrongSize,
    /// The data is no base64.
    BadBase64,
    /// The bytes are no picture.
    BadPicture,
    /// An HTML page.
    NotJson,
    /// Half a body.
    Cut,
    /// No answer.
    Hang,
}

/// The words that stand for themselves.
const WORDS: &[(&str, Fault)] = &[
    ("throttle", Fault::Status(429)),
    ("invalid", Fault::Status(400)),
    ("unauthenticated", Fault::Status(401)),
    ("denied", Fault::Status(403)),
    ("not_found", Fault::Status(404)),
    ("internal", Fault::Status(500)),
    ("unavailable", Fault::Status(503)),
    ("deadline", Fault::Status(504)),
    ("failed_precondition", Fault::FailedPrecondition),
    ("text_only", Fault::TextOnly),
    ("empty", Fault::Empty),
    ("only_thought", Fault::OnlyThought),
    ("wrong_type", Fault::WrongType),
    ("wrong_size", Fault::WrongSize),
    ("bad_base64", Fault::BadBase64),
    ("bad_picture", Fault::BadPicture),
    ("not_json", Fault::NotJson),
    ("cut", Fault::Cut),
    ("hang", Fault::Hang),
];

/// The words that stand for a `finishReason`.
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
        let unknown = || UnknownFault(word.to_owned());
        let (kind, value) = word.split_once(':').ok_or_else(unknown)?;
        match kind {
            "status" => value
                .parse()
                .ok()
                .filter(|code| (400..600).contains(code))
                .map(Self::Status)
                .ok_or_else(unknown),
            "finish" if !value.is_empty() => Ok(Self::Finish(value.to_owned())),
            "block" if !value.is_empty() => Ok(Self::Block(value.to_owned())),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finish(reason) => write!(f, "finish:{reason}"),
            Self::Block(reason) => write!(f, "block:{reason}"),
            fault => match (fault, WORDS.iter().find(|(_, known)| known == fault)) {
                (_, Some((word, _))) => f.write_str(word),
                (Self::Status(code), None) => write!(f, "status:{code}"),
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
    /// The flaw to draw the picture with, where the fault leaves a picture at all.
    pub(super) fn flaw(&self) -> Option<Flaw> {
        match self {
            Self::OnlyThought => Some(Flaw::Thought),
            Self::WrongType => Some(Flaw::WrongType),
            Self::WrongSize => Some(Flaw::WrongSize),
            Self::BadBase64 => Some(Flaw::BadBase64),
            Self::BadPicture => Some(Flaw::NoPicture),
            _ => None,
        }
    }
}

/// A word that names no [`Fault`].
#[derive(Debug, thiserror::Error)]
#[error("The fake knows no fault '{0}'.")]
pub struct UnknownFault(pub(super) String);
