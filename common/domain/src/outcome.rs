//! How a call ended, and what follows: the contract between providers and money.
//!
//! Settlement follows a class, never an HTTP status. Each class says how often to try again, whether the call
//! counts against the job's bound, what it tells about the lane it was made on, and what customer and operator
//! read. Only [`Class::Ok`] is ever charged; a refusal is always free. Which answer falls into which class is
//! [`table`]; `docs/outcomes.md` is both of them for people.
#![warn(clippy::arithmetic_side_effects, clippy::wildcard_enum_match_arm)]

mod readable;
pub mod table;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use readable::readable;

/// The longest detail and reason of a failure, in characters: as much as a call's row takes.
const MAX_DETAIL_LENGTH: usize = 4_000;
const MAX_REASON_LENGTH: usize = 2_000;
/// The longest words of others in a reason.
const MAX_PROVIDER_MESSAGE_LENGTH: usize = 500;

/// The classified end of a call, and of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The picture is here.
    Ok,
    /// The model finished without a picture.
    NoOutput,
    /// The provider's safety rules refused the picture.
    Refused,
    /// The provider's safety rules refused the prompt or its pictures before anything was made.
    RefusedPrompt,
    /// The picture was too close to a known work.
    RefusedCopyright,
    /// The model ran out of room before the picture was done.
    Truncated,
    /// The provider failed.
    ProviderFault,
    /// The provider answered something that is no usable picture.
    ProviderInvalid,
    /// The provider ended for a reason this Platen does not know.
    Unrecognized,
    /// The provider is busy: the call cost nothing and counts for nothing.
    Throttled,
    /// The provider could not be reached: nothing was sent, nothing counts.
    Unreachable,
    /// The provider will never accept this request.
    BadRequest,
    /// The provider did not take our token.
    Unauthenticated,
    /// The provider does not let us: permission, key or quota.
    Config,
    /// The provider has no such model any more.
    ModelRetired,
    /// The answer was lost: the call may have been billed to us.
    Unknown,
    /// Our own part failed: storage, pictures, configuration.
    Internal,
    /// The tenant canceled the job.
    Canceled,
    /// The deadline passed.
    Expired,
    /// The workers that took the job kept dying.
    Poison,
}

/// A lane that collects this many strikes in a row is closed.
pub const STRIKES_OUT: u32 = 8;

/// How often a class is worth another call for the same output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    Never,
    Once,
    /// While the job has calls and time left.
    WhilePossible,
}

/// All that follows from a class.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    pub retries: Retries,
    /// Whether the call counts against the job's bound on paid calls: all that may have reached a model do.
    pub counts: bool,
    /// What it says against the lane the call was made on; [`STRIKES_OUT`] in a row close it.
    pub strikes: u32,
    /// Whether another lane may take the call although this class is not worth a retry on the same one.
    pub retry_on_other_lane: bool,
    /// What the customer is told when nothing more exact is known. What was charged is settlement's to add.
    pub customer: &'static str,
    /// What the operator is told.
    pub operator: &'static str,
}

impl Class {
    pub const ALL: [Self; 20] = [
        Self::Ok,
        Self::NoOutput,
        Self::Refused,
        Self::RefusedPrompt,
        Self::RefusedCopyright,
        Self::Truncated,
        Self::ProviderFault,
        Self::ProviderInvalid,
        Self::Unrecognized,
        Self::Throttled,
        Self::Unreachable,
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Config,
        Self::ModelRetired,
        Self::Unknown,
        Self::Internal,
        Self::Canceled,
        Self::Expired,
        Self::Poison,
    ];

    /// What follows from this class. The one place that says so.
    pub fn contract(self) -> Contract {
        use Retries::{Never, Once, WhilePossible};

        let contract = |retries, customer, operator| Contract {
            retries,
            counts: true,
            strikes: 0,
            retry_on_other_lane: false,
            customer,
            operator,
        };
        match self {
            Self::Ok => contract(Never, "Delivered.", "Nothing to do."),
            Self::NoOutput => contract(
                Once,
                "The model answered without a picture. Say more plainly what the picture should show and try again.",
                "A model that often answers without pictures wants another prompt, or is not for pictures.",
            ),
            Self::Refused => contract(
                Never,
                "The model's safety rules refused the picture. Change the prompt or the pictures and try again.",
                "The provider's rules at work. What the refused call cost us stands on its row.",
            ),
            Self::RefusedPrompt => contract(
                Never,
                "The model's safety rules refused this request. Change the prompt or the pictures and try again.",
                "The provider's rules at work.",
            ),
            Self::RefusedCopyright => contract(
                Once,
                "The picture came out too close to a known work. Ask for something of your own and try again.",
                "Asked once more with another seed.",
            ),
            Self::Truncated => contract(
                WhilePossible,
                "The model ran out of room before the picture was done. Shorten the prompt and try again.",
                "Asked again with the least thinking the model knows.",
            ),
            Self::ProviderFault => Contract {
                strikes: 1,
                ..contract(
                    WhilePossible,
                    "The model failed to answer properly. Try again.",
                    "The provider's trouble. Its lane closes when this goes on.",
                )
            },
            Self::ProviderInvalid => Contract {
                strikes: 1,
                ..contract(
                    Once,
                    "The model's answer could not be used. Try again.",
                    "The answer was no usable picture; the call's detail says what it was.",
                )
            },
            Self::Unrecognized => contract(
                Once,
                "The model stopped for a reason we do not know yet. Try again.",
                "A word this Platen does not know; the call's detail has it. It wants a row in the table.",
            ),
            Self::Throttled => Contract {
                counts: false,
                ..contract(
                    WhilePossible,
                    "The model is busy and the job ran out of time waiting for it. Try again later.",
                    "The lane makes fewer calls at once until this stops. More capacity is bought at the provider.",
                )
            },
            Self::Unreachable => Contract {
                counts: false,
                strikes: 1,
                ..contract(
                    WhilePossible,
                    "The model could not be reached before the job ran out of time. Try again later.",
                    "Nothing was sent. Look at the network and at the provider's address.",
                )
            },
            Self::BadRequest => contract(
                Never,
                "The model does not accept this request. Change the request.",
                "The provider refused what our checks let through; the call's detail says what.",
            ),
            Self::Unauthenticated => Contract {
                strikes: STRIKES_OUT / 2,
                retry_on_other_lane: true,
                ..contract(
                    Once,
                    "The model is not available to us at present; our operators see it.",
                    "Page: the token was refused. It was renewed once; look at the credentials.",
                )
            },
            Self::Config => Contract {
                strikes: STRIKES_OUT,
                retry_on_other_lane: true,
                ..contract(
                    Never,
                    "The model is not available to us at present; our operators see it.",
                    "Page: the provider does not let us. Look at the key, its permissions and the quota; the lane is closed and tried from time to time.",
                )
            },
            Self::ModelRetired => Contract {
                strikes: STRIKES_OUT,
                retry_on_other_lane: true,
                ..contract(
                    Never,
                    "The provider no longer offers this model. Choose another one.",
                    "Page: the provider has no such model. Write its shut-down date and successor into the catalogue.",
                )
            },
            Self::Unknown => Contract {
                strikes: 1,
                ..contract(
                    WhilePossible,
                    "The model's answer was lost. Try again.",
                    "Possibly billed to us: the provider may have worked without our hearing of it.",
                )
            },
            Self::Internal => contract(
                WhilePossible,
                "Something failed on our side. Try again.",
                "Our own part failed; the call's detail and the log say where.",
            ),
            Self::Canceled => contract(
                Never,
                "Canceled as asked.",
                "Calls that were running are possibly billed to us.",
            ),
            Self::Expired => contract(
                Never,
                "The job's deadline passed before it was done.",
                "Look at the queue's age: too few workers, or a closed lane.",
            ),
            Self::Poison => contract(
                Never,
                "The job could not be worked on without failing. Please report its id.",
                "Three workers died with it. Look at their logs before it is tried again.",
            ),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoOutput => "no_output",
            Self::Refused => "refused",
            Self::RefusedPrompt => "refused_prompt",
            Self::RefusedCopyright => "refused_copyright",
            Self::Truncated => "truncated",
            Self::ProviderFault => "provider_fault",
            Self::ProviderInvalid => "provider_invalid",
            Self::Unrecognized => "unrecognized",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::BadRequest => "bad_request",
            Self::Unauthenticated => "unauthenticated",
            Self::Config => "config",
            Self::ModelRetired => "model_retired",
            Self::Unknown => "unknown",
            Self::Internal => "internal",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
            Self::Poison => "poison",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }

    /// Whether the provider's safety rules spoke: their own words go to the customer.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::RefusedPrompt | Self::RefusedCopyright
        )
    }

    /// Whether the request itself may have brought it about, as far as its lane can tell: then it is held against the
    /// tenant that asked before it is held against the lane. What no request can cause, such as a refused key, is the
    /// lane's at once.
    pub fn may_be_caused_by_request(self) -> bool {
        matches!(
            self,
            Self::ProviderFault | Self::ProviderInvalid | Self::Unknown
        )
    }

    pub fn plain_words(self) -> &'static str {
        self.contract().customer
    }
}

/// Whether an output may be called for once more. `ended` are the classes its calls ended with, the newest
/// last; `another_lane` says that the job may use a lane none of them used.
pub fn worth_another_call(ended: &[Class], another_lane: bool) -> bool {
    let Some(&last) = ended.last() else {
        return true;
    };
    let contract = last.contract();
    let alike = ended.iter().filter(|&&class| class == last).count();
    let here = match contract.retries {
        Retries::Never => false,
        Retries::Once => alike <= 1,
        Retries::WhilePossible => true,
    };
    here || (contract.retry_on_other_lane && another_lane)
}

/// How one call ended, short of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    /// Plain words for the customer, when there are better ones than the class's own.
    pub reason: Option<String>,
    /// What the operator should know: [`readable`], and without the prompt.
    pub detail: String,
    /// The provider asked to wait this long.
    pub retry_after: Option<Duration>,
    /// What was asked for brought it about, as far as anyone can tell: nothing is held against the lane.
    pub of_the_request: bool,
}

impl Failure {
    /// Of an answer that cannot be used the customer is told, too, what was wrong with it.
    pub fn new(class: Class, detail: impl AsRef<str>) -> Self {
        let detail = readable(detail.as_ref(), MAX_DETAIL_LENGTH);
        let told = class == Class::ProviderInvalid && !detail.is_empty();
        let reason = told.then(|| {
            let words = class.plain_words();
            let wrong = readable(&detail, MAX_PROVIDER_MESSAGE_LENGTH);
            let wrong = wrong.trim_end_matches('.');
            format!("{words} What was wrong: {wrong}.")
        });
        Self {
            class,
            reason,
            detail,
            retry_after: None,
            of_the_request: false,
        }
    }

    #[must_use]
    pub fn of_the_request(mut self) -> Self {
        self.of_the_request = true;
        self
    }

    /// What is held against the lane.
    pub fn strikes(&self) -> u32 {
        if self.of_the_request {
            0
        } else {
            self.class.contract().strikes
        }
    }

    #[must_use]
    pub fn because(mut self, reason: impl AsRef<str>) -> Self {
        self.reason = Some(readable(reason.as_ref(), MAX_REASON_LENGTH));
        self
    }

    /// A refusal with the provider's own words: they say what to change.
    #[must_use]
    pub fn with_provider_message(self, said: Option<&str>) -> Self {
        let said = said.filter(|_| self.class.is_refusal());
        let said = said.map(|said| readable(said, MAX_PROVIDER_MESSAGE_LENGTH));
        let Some(said) = said.filter(|said| !said.is_empty()) else {
            return self;
        };
        let words = self.class.plain_words();
        self.because(format!("{words} The model said: {said}"))
    }

    /// What the customer is told.
    pub fn plain_words(&self) -> &str {
        self.reason
            .as_deref()
            .unwrap_or_else(|| self.class.plain_words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_own_name() {
        for class in Class::ALL {
            assert_eq!(Class::parse(class.as_str()), Some(class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
    }

    #[test]
    fn another_call_is_made_as_often_as_the_class_says() {
        use Class::{Config, ModelRetired, NoOutput, ProviderFault, Refused, Throttled};

        for (ended, another_lane, worth) in [
            (&[][..], false, true),
            (&[Refused], true, false),
            (&[NoOutput], false, true),
            (&[NoOutput, NoOutput], true, false),
            (&[NoOutput, ProviderFault, Throttled], false, true),
            (&[ProviderFault; 9], false, true),
            (&[ModelRetired], false, false),
            (&[ModelRetired], true, true),
            (&[Config, ModelRetired], false, false),
        ] {
            assert_eq!(
                worth_another_call(ended, another_lane),
                worth,
                "{ended:?} {another_lane}"
            );
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_provider_and_nothing_else_is() {
        let refused = Failure::new(Class::Refused, "").with_provider_message(Some("No."));
        assert!(refused.plain_words().ends_with("The model said: No."));
        let fault = Failure::new(Class::ProviderFault, "").with_provider_message(Some("No."));
        assert_eq!(fault.plain_words(), Class::ProviderFault.plain_words());
    }

    #[test]
    fn the_customer_is_told_what_was_wrong_with_an_answer_that_cannot_be_used() {
        let words = Class::ProviderInvalid.plain_words();
        let invalid = Failure::new(Class::ProviderInvalid, "the JPEG file is cut off.");
        let told = format!("{words} What was wrong: the JPEG file is cut off.");
        assert_eq!(invalid.plain_words(), told);
        assert_eq!(
            Failure::new(Class::ProviderInvalid, "").plain_words(),
            words
        );
        let ours = Failure::new(Class::Internal, "/srv/bucket is full");
        assert_eq!(ours.plain_words(), Class::Internal.plain_words());
    }

    #[test]
    fn the_words_of_others_are_made_readable_wherever_they_go() {
        let said = format!("\u{202E}No.\u{7}\n{}", "x".repeat(9_000));
        for failure in [
            Failure::new(Class::Refused, &said).with_provider_message(Some(&said)),
            Failure::new(Class::ProviderInvalid, &said),
            Failure::new(Class::Unknown, &said).because(&said),
        ] {
            for text in [&failure.detail, failure.plain_words()] {
                assert!(text.contains("No. xxx") && text.contains('…'), "{text}");
                assert!(!text.contains(['\u{202E}', '\u{7}', '\n']), "{text}");
                assert!(text.chars().count() <= MAX_DETAIL_LENGTH);
            }
        }
    }
}
