//! Outcomes: how calls end, and what follows from it.
//!
//! Every end of a call has a [`Class`]. Retries, charges and circuit breakers depend on the class
//! only, never on an HTTP status. Each class has a [`Contract`]: how often to try again, whether
//! the call counts against the job's `max_calls`, how many strikes its lane gets, and what customer
//! and operator are told. Only [`Class::Ok`] is charged. [`table`] maps answers of providers to
//! classes. `docs/outcomes.md` shows both and is written by a test.
#![warn(clippy::arithmetic_side_effects, clippy::wildcard_enum_match_arm)]

mod failure;
mod readable;
pub mod table;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use failure::Failure;
pub use readable::readable;

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
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
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
    /// What the customer is told if nothing more exact is known. Unless all was delivered,
    /// settlement adds what was charged.
    pub customer: &'static str,
    /// What the operator is told.
    pub operator: &'static str,
}

impl Class {
    /// Every class.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

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
        self.into()
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
/// the newest last. `another_lane` is whether the job may use a lane that none of these calls used.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
