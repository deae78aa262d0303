//! Outcomes: how calls end, and what follows from it.
//!
//! Every end of a call has a [`Class`]. Retries, charges and circuit breakers depend on the class
//! only, never on an HTTP status. Each class has a [`Contract`]: how often to try again, whether
//! the call counts against the job's `max_calls`, how many strikes its lane gets, and what customer
//! and operator are told. Only [`Class::Ok`] is charged. [`table`] maps answers of providers to
//! classes. `docs/outcomes.md` shows both and is written by a test.
#![warn(clippy::arithmetic_side_effects, clippy::wildcard_enum_match_arm)]

mod readable;
pub mod table;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use readable::readable;

/// Longest detail of a failure, in characters. A call's row takes no more.
const MAX_DETAIL_LENGTH: usize = 4_000;
/// Longest reason of a failure, in characters. A call's row takes no more.
const MAX_REASON_LENGTH: usize = 2_000;
/// Longest quotation of a provider in a reason, in characters.
const MAX_PROVIDER_MESSAGE_LENGTH: usize = 500;

/// Class of the outcome of a call or of a job:
///
/// - `ok`: the image was delivered.
/// - `no_output`: the model answered without an image.
/// - `refused`: the provider's safety rules refused the image.
/// - `refused_prompt`: the provider's safety rules refused the prompt or the input images.
/// - `refused_copyright`: the image was too similar to a known work.
/// - `truncated`: the model reached its output limit before the image was done.
/// - `provider_fault`: the provider failed.
/// - `provider_invalid`: the provider's answer was not a usable image.
/// - `unrecognized`: the provider gave a reason that this version does not know.
/// - `throttled`: the provider was busy.
/// - `unreachable`: the provider could not be reached.
/// - `bad_request`: the provider does not accept this request.
/// - `unauthenticated`: the provider rejected our token.
/// - `config`: the provider denied access because of a permission, a key or a quota.
/// - `model_retired`: the provider no longer has the model.
/// - `unknown`: the answer was lost.
/// - `internal`: Platen itself failed.
/// - `canceled`: the job was canceled.
/// - `expired`: the job's deadline passed.
/// - `poison`: every worker that took the job stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The image was delivered.
    Ok,
    /// The model answered without an image.
    NoOutput,
    /// The provider's safety rules refused the image.
    Refused,
    /// The provider's safety rules refused the prompt or the input images before anything was made.
    RefusedPrompt,
    /// The image was too similar to a known work.
    RefusedCopyright,
    /// The model reached its output limit before the image was done.
    Truncated,
    /// The provider failed.
    ProviderFault,
    /// The provider's answer was not a usable image.
    ProviderInvalid,
    /// The provider gave a reason that this version does not know.
    Unrecognized,
    /// The provider is busy. The call cost nothing and does not count.
    Throttled,
    /// The provider could not be reached. Nothing was sent, and the call does not count.
    Unreachable,
    /// The provider will never accept this request.
    BadRequest,
    /// The provider rejected our token.
    Unauthenticated,
    /// The provider denied us access: a permission, the key or the quota.
    Config,
    /// The provider no longer has the model.
    ModelRetired,
    /// The answer was lost. The call may be billed to us.
    Unknown,
    /// Platen itself failed: the bucket, an image codec or the configuration.
    Internal,
    /// The tenant or an operator canceled the job.
    Canceled,
    /// The job's deadline passed.
    Expired,
    /// Every worker that took the job stopped.
    Poison,
}

/// Strikes in a row that make a lane unavailable (its circuit breaker opens).
pub const STRIKES_OUT: u32 = 8;

/// How often an output is worth another call after a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    /// Never: the next call would end in the same way.
    Never,
    /// Once for each output.
    Once,
    /// As long as the job has calls and time left.
    WhilePossible,
}

/// Everything that follows from a class.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    /// How often an output is worth another call.
    pub retries: Retries,
    /// Whether the call counts against the job's `max_calls`. Every call that may have reached a
    /// model does.
    pub counts: bool,
    /// Strikes for the lane on which the call was made. [`STRIKES_OUT`] in a row make it
    /// unavailable.
    pub strikes: u32,
    /// Whether the call may be repeated at once on another lane, even if a retry on the same lane
    /// is not allowed.
    pub retry_on_other_lane: bool,
    /// What the customer is told if nothing more exact is known. Settlement adds what was charged.
    pub customer: &'static str,
    /// What the operator is told.
    pub operator: &'static str,
}

impl Class {
    /// Every class.
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

    /// What follows from this class. All rules about classes are here.
    pub fn contract(self) -> Contract {
        use Retries::{Never, Once, WhilePossible};

        let (customer, operator) = self.messages();
        let contract = |retries| Contract {
            retries,
            counts: true,
            strikes: 0,
            retry_on_other_lane: false,
            customer,
            operator,
        };
        match self {
            Self::Ok
            | Self::Refused
            | Self::RefusedPrompt
            | Self::BadRequest
            | Self::Canceled
            | Self::Expired
            | Self::Poison => contract(Never),
            Self::NoOutput | Self::RefusedCopyright | Self::Unrecognized => contract(Once),
            Self::Truncated | Self::Internal => contract(WhilePossible),
            Self::ProviderInvalid => Contract {
                strikes: 1,
                ..contract(Once)
            },
            Self::ProviderFault | Self::Unknown => Contract {
                strikes: 1,
                ..contract(WhilePossible)
            },
            // A busy provider is no fault of the lane: it gets no strikes, but fewer calls at once.
            Self::Throttled => Contract {
                counts: false,
                ..contract(WhilePossible)
            },
            Self::Unreachable => Contract {
                counts: false,
                strikes: 1,
                ..contract(WhilePossible)
            },
            // One refused token may be an expired one. A second one in a row makes the lane
            // unavailable.
            Self::Unauthenticated => Contract {
                strikes: STRIKES_OUT / 2,
                retry_on_other_lane: true,
                ..contract(Once)
            },
            // Every further call would fail in the same way, so the first answer is enough.
            Self::Config | Self::ModelRetired => Contract {
                strikes: STRIKES_OUT,
                retry_on_other_lane: true,
                ..contract(Never)
            },
        }
    }

    /// What the customer and the operator are told.
    fn messages(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("Delivered.", "Nothing to do."),
            Self::NoOutput => (
                "The model answered without an image. Say more clearly what the image should show and try again.",
                "If a model often answers without images, change the prompt, or check that the model makes images.",
            ),
            Self::Refused => (
                "The model's safety rules refused the image. Change the prompt or the input images and try again.",
                "The provider's safety rules. The call's row has what the refused call cost us.",
            ),
            Self::RefusedPrompt => (
                "The model's safety rules refused this request. Change the prompt or the input images and try again.",
                "The provider's safety rules.",
            ),
            Self::RefusedCopyright => (
                "The image was too similar to a known work. Ask for something of your own and try again.",
                "The call was repeated once with another seed.",
            ),
            Self::Truncated => (
                "The model reached its output limit before the image was done. Shorten the prompt and try again.",
                "The call was repeated with the lowest level of thinking that the model knows.",
            ),
            Self::ProviderFault => (
                "The model failed. Try again.",
                "The provider failed. Its lane becomes unavailable if this goes on.",
            ),
            Self::ProviderInvalid => (
                "The model's answer could not be used. Try again.",
                "The answer was not a usable image. The call's detail says what it was.",
            ),
            Self::Unrecognized => (
                "The model stopped for a reason that we do not know yet. Try again.",
                "The provider gave a reason that this version of Platen does not know. The call's detail has it. Add a row for it to the outcome table.",
            ),
            Self::Throttled => (
                "The model was busy until the job ran out of time. Try again later.",
                "The lane makes fewer calls at once until this stops. The provider sells more capacity.",
            ),
            Self::Unreachable => (
                "The model could not be reached before the job ran out of time. Try again later.",
                "Nothing was sent. Check the network and the provider's address.",
            ),
            Self::BadRequest => (
                "The model does not accept this request. Change the request.",
                "The provider rejected a request that passed our checks. The call's detail says why.",
            ),
            Self::Unauthenticated => (
                "The model is not available at the moment. Our operators have been informed.",
                "Page: the provider rejected our token, also after one renewal. Check the credentials.",
            ),
            Self::Config => (
                "The model is not available at the moment. Our operators have been informed.",
                "Page: the provider denies us access. Check the key, its permissions and the quota. The lane is unavailable and is probed from time to time.",
            ),
            Self::ModelRetired => (
                "The provider no longer offers this model. Choose another one.",
                "Page: the provider has no such model. Add its shut-down date and its successor to the catalogue.",
            ),
            Self::Unknown => (
                "The model's answer was lost. Try again.",
                "The call may be billed to us: the provider may have worked, but we got no answer.",
            ),
            Self::Internal => (
                "Something failed on our side. Try again.",
                "Platen itself failed. The call's detail and the log say where.",
            ),
            Self::Canceled => (
                "Canceled as requested.",
                "Calls that were running may be billed to us.",
            ),
            Self::Expired => (
                "The job's deadline passed before it was done.",
                "Check the age of the queue: there are too few workers, or a lane is unavailable.",
            ),
            Self::Poison => (
                "The job failed several times without a result. Please report its id.",
                "Three workers stopped while they worked on it. Read their logs before you run it again.",
            ),
        }
    }

    /// The name in the database, in metrics and in the API.
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

    /// The class with this name. `None` if there is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }

    /// Whether the provider's safety rules refused. The customer then reads the provider's own
    /// message.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::RefusedPrompt | Self::RefusedCopyright
        )
    }

    /// Whether the request may have caused this outcome. Such strikes make the lane unavailable for
    /// the tenant of the request before they make it unavailable for all: one tenant's bad requests
    /// must not stop the others. What no request can cause, such as a rejected key, counts for all
    /// tenants at once.
    pub fn may_be_caused_by_request(self) -> bool {
        matches!(
            self,
            Self::ProviderFault | Self::ProviderInvalid | Self::Unknown
        )
    }

    /// What the customer is told: [`Contract::customer`].
    pub fn customer_message(self) -> &'static str {
        self.contract().customer
    }
}

/// Whether another call may be made for an output. `ended` are the classes of its earlier calls,
/// the newest last. `another_lane` is whether the job may use a lane that none of them has used.
pub fn may_call_again(ended: &[Class], another_lane: bool) -> bool {
    let Some(&last) = ended.last() else {
        return true;
    };
    let contract = last.contract();
    let same = ended.iter().filter(|&&class| class == last).count();
    let on_same_lane = match contract.retries {
        Retries::Never => false,
        Retries::Once => same <= 1,
        Retries::WhilePossible => true,
    };
    on_same_lane || (contract.retry_on_other_lane && another_lane)
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Class of the outcome.
    pub class: Class,
    /// Plain words for the customer, if there are better ones than the class's own.
    pub reason: Option<String>,
    /// What the operator should know, made [`readable`]. Never contains the prompt.
    pub detail: String,
    /// How long the provider asked to wait.
    pub retry_after: Option<Duration>,
    /// Whether the request itself probably caused it. The lane then gets no strikes.
    pub of_the_request: bool,
}

impl Failure {
    /// A failure with a detail for the operator. If the answer could not be used
    /// ([`Class::ProviderInvalid`]), the customer reads the detail too.
    pub fn new(class: Class, detail: impl AsRef<str>) -> Self {
        let detail = readable(detail.as_ref(), MAX_DETAIL_LENGTH);
        let is_for_customer = class == Class::ProviderInvalid && !detail.is_empty();
        let reason = is_for_customer.then(|| {
            let words = class.customer_message();
            let problem = readable(&detail, MAX_PROVIDER_MESSAGE_LENGTH);
            let problem = problem.trim_end_matches('.');
            format!("{words} What was wrong: {problem}.")
        });
        Self {
            class,
            reason,
            detail,
            retry_after: None,
            of_the_request: false,
        }
    }

    /// Marks the failure as caused by the request: its lane gets no strikes.
    #[must_use]
    pub fn of_the_request(mut self) -> Self {
        self.of_the_request = true;
        self
    }

    /// Strikes for the lane on which the call was made.
    pub fn strikes(&self) -> u32 {
        if self.of_the_request {
            0
        } else {
            self.class.contract().strikes
        }
    }

    /// Sets the reason for the customer.
    #[must_use]
    pub fn because(mut self, reason: impl AsRef<str>) -> Self {
        self.reason = Some(readable(reason.as_ref(), MAX_REASON_LENGTH));
        self
    }

    /// Adds the provider's message to the reason, if the failure is a refusal: the message often
    /// says what to change. Messages of other failures are for operators and stay in the detail.
    #[must_use]
    pub fn with_provider_message(self, message: Option<&str>) -> Self {
        let message = message.filter(|_| self.class.is_refusal());
        let message = message.map(|message| readable(message, MAX_PROVIDER_MESSAGE_LENGTH));
        let Some(message) = message.filter(|message| !message.is_empty()) else {
            return self;
        };
        let words = self.class.customer_message();
        self.because(format!("{words} The model said: {message}"))
    }

    /// What the customer is told: the reason, or else the class's own words.
    pub fn customer_message(&self) -> &str {
        self.reason
            .as_deref()
            .unwrap_or_else(|| self.class.customer_message())
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
    fn retries_follow_the_class() {
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
                may_call_again(ended, another_lane),
                worth,
                "{ended:?} {another_lane}"
            );
        }
    }

    #[test]
    fn only_refusals_quote_the_provider() {
        let refused = Failure::new(Class::Refused, "").with_provider_message(Some("No."));
        assert!(refused.customer_message().ends_with("The model said: No."));
        let fault = Failure::new(Class::ProviderFault, "").with_provider_message(Some("No."));
        assert_eq!(
            fault.customer_message(),
            Class::ProviderFault.customer_message()
        );
    }

    #[test]
    fn the_customer_reads_what_was_wrong_with_an_answer() {
        let words = Class::ProviderInvalid.customer_message();
        let invalid = Failure::new(Class::ProviderInvalid, "the JPEG file is cut off.");
        let expected = format!("{words} What was wrong: the JPEG file is cut off.");
        assert_eq!(invalid.customer_message(), expected);
        assert_eq!(
            Failure::new(Class::ProviderInvalid, "").customer_message(),
            words
        );
        let internal = Failure::new(Class::Internal, "/srv/bucket is full");
        assert_eq!(
            internal.customer_message(),
            Class::Internal.customer_message()
        );
    }

    #[test]
    fn details_and_reasons_are_readable() {
        let message = format!("\u{202E}No.\u{7}\n{}", "x".repeat(9_000));
        for failure in [
            Failure::new(Class::Refused, &message).with_provider_message(Some(&message)),
            Failure::new(Class::ProviderInvalid, &message),
            Failure::new(Class::Unknown, &message).because(&message),
        ] {
            for text in [&failure.detail, failure.customer_message()] {
                assert!(text.contains("No. xxx") && text.contains('…'), "{text}");
                assert!(!text.contains(['\u{202E}', '\u{7}', '\n']), "{text}");
                assert!(text.chars().count() <= MAX_DETAIL_LENGTH);
            }
        }
    }
}
