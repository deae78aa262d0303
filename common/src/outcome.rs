//! How a call ended, and what follows: the contract between providers and money.
//!
//! Settlement follows a class, never an HTTP status. Each class says whether to try again, whether the
//! call counts against the job's bound, and what the customer is told. Only [`Class::Ok`] is ever charged;
//! a refusal is always free. `docs/outcomes.md` is this table for people.
#![warn(clippy::arithmetic_side_effects, clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The classified end of a call, and of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The picture is here.
    Ok,
    /// The provider's safety rules refused the prompt or the picture.
    Refused,
    /// The provider is busy: the call cost nothing and counts for nothing.
    Throttled,
    /// The provider could not be reached: nothing was sent, nothing counts.
    Unreachable,
    /// The provider failed, or answered something that cannot be used.
    ProviderFault,
    /// The provider will never accept this request.
    BadRequest,
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

/// What the worker does after a call of some class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Deliver and charge.
    Deliver,
    /// Another attempt, while calls and time are left.
    Retry,
    /// The output is given up; its part of the hold is released.
    GiveUp,
}

impl Class {
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Refused,
        Self::Throttled,
        Self::Unreachable,
        Self::ProviderFault,
        Self::BadRequest,
        Self::Unknown,
        Self::Internal,
        Self::Canceled,
        Self::Expired,
        Self::Poison,
    ];

    pub fn decision(self) -> Decision {
        match self {
            Self::Ok => Decision::Deliver,
            Self::Throttled
            | Self::Unreachable
            | Self::ProviderFault
            | Self::Unknown
            | Self::Internal => Decision::Retry,
            Self::Refused | Self::BadRequest | Self::Canceled | Self::Expired | Self::Poison => {
                Decision::GiveUp
            }
        }
    }

    /// Whether the call counts against the job's bound on paid calls: all that may have reached a model do.
    pub fn counts(self) -> bool {
        !matches!(self, Self::Throttled | Self::Unreachable)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::ProviderFault => "provider_fault",
            Self::BadRequest => "bad_request",
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

    /// What the customer is told when nothing more exact is known. What was charged is settlement's to add.
    pub fn plain_words(self) -> &'static str {
        match self {
            Self::Ok => "Delivered.",
            Self::Refused => {
                "The model's safety rules refused this request. Change the prompt or the pictures and try again."
            }
            Self::Throttled => {
                "The model is busy and the job ran out of time waiting for it. Try again later."
            }
            Self::Unreachable => {
                "The model could not be reached before the job ran out of time. Try again later."
            }
            Self::ProviderFault => "The model failed to answer properly. Try again.",
            Self::BadRequest => "The model does not accept this request. Change the request.",
            Self::Unknown => "The model's answer was lost. Try again.",
            Self::Internal => "Something failed on our side. Try again.",
            Self::Canceled => "Canceled as asked.",
            Self::Expired => "The job's deadline passed before it was done.",
            Self::Poison => "The job could not be worked on without failing. Please report its id.",
        }
    }
}

/// How one call ended, short of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    /// Plain words for the customer, when the provider gave some.
    pub reason: Option<String>,
    /// What the operator should know. Never contains the prompt.
    pub detail: String,
    /// The provider asked to wait this long.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(class: Class, detail: impl Into<String>) -> Self {
        Self {
            class,
            reason: None,
            detail: detail.into(),
            retry_after: None,
        }
    }

    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
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
    fn the_documentation_tells_the_same_table() {
        let documented = include_str!("../../docs/outcomes.md");
        for class in Class::ALL {
            let follows = match class.decision() {
                Decision::Deliver => "deliver, charge",
                Decision::Retry => "try again",
                Decision::GiveUp => "give up",
            };
            let counts = if class.counts() { "yes" } else { "no" };
            let row = format!(
                "| `{}` | {follows} | {counts} | {} |",
                class.as_str(),
                class.plain_words()
            );
            assert!(
                documented.contains(&row),
                "docs/outcomes.md lacks this row:\n{row}"
            );
        }
    }
}
