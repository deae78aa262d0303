//! How a call failed, in words for the customer and for the operator.

use std::time::Duration;

use super::{Class, readable};

/// Longest detail of a failure, in characters. A call's row takes no more.
const MAX_DETAIL_LENGTH: usize = 4_000;
/// Longest reason of a failure, in characters. A call's row takes no more.
const MAX_REASON_LENGTH: usize = 2_000;
/// Longest quotation of a provider in a reason, in characters.
const MAX_PROVIDER_MESSAGE_LENGTH: usize = 500;

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

    /// Sets the reason to the class's words and the provider's message, if the failure is a
    /// refusal: the message often says what to change. Changes nothing if there is no message, or
    /// if the failure is no refusal: such messages are for operators and stay in the detail.
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
