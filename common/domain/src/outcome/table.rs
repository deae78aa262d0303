//! The outcome table: the class of every finish reason, block reason, HTTP status, transport error
//! and malformed answer of a provider.
//!
//! An *answer signal* is what decided the class, as one word: `finish:SAFETY`, `status:503`, `cut`.
//! The providers' code turns an answer into a signal, and [`class`] looks it up. A rule whose
//! signal ends in `*` matches every signal that begins in the same way and has no rule of its own,
//! so values that a provider adds later have a class already. The fake providers understand the
//! same words, so a test can produce every row; `fakes/src/fault.rs` says what each word means.

use super::Class;

/// The wire format of a provider.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Dialect {
    /// Google Vertex AI, `generateContent`.
    Vertex,
    /// Gemini Developer API, `generateContent`.
    Gemini,
    /// Gemini Interactions API: long operations with a handle.
    Interactions,
    /// OpenAI Images API, and servers that are compatible with it.
    Openai,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The name in the catalogue's files.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One row of the outcome table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The dialects whose providers can give such an answer.
    pub dialects: &'static [Dialect],
    /// The answer signal. A `*` at the end matches every continuation.
    pub answer_signal: &'static str,
    /// The class of such an answer.
    pub class: Class,
}

const ALL_DIALECTS: &[Dialect] = Dialect::ALL;
const GENERATE_CONTENT: &[Dialect] = &[Dialect::Vertex, Dialect::Gemini];
const GOOGLE: &[Dialect] = &[Dialect::Vertex, Dialect::Gemini, Dialect::Interactions];
const VERTEX: &[Dialect] = &[Dialect::Vertex];
const WITH_API_KEY: &[Dialect] = &[Dialect::Gemini, Dialect::Interactions, Dialect::Openai];
const INTERACTIONS: &[Dialect] = &[Dialect::Interactions];
const OPENAI: &[Dialect] = &[Dialect::Openai];
/// Dialects that can answer with the URL of an image instead of the image.
const WITH_IMAGE_URL: &[Dialect] = &[Dialect::Interactions, Dialect::Openai];

const fn rule(dialects: &'static [Dialect], answer_signal: &'static str, class: Class) -> Rule {
    Rule {
        dialects,
        answer_signal,
        class,
    }
}

/// The outcome table. The first rule that matches a dialect and a signal applies, so a rule with
/// `*` comes after the exact ones.
pub static TABLE: &[Rule] = &[
    // An image.
    rule(ALL_DIALECTS, "ok", Class::Ok),
    // The image has another type than its label says. Its bytes decide.
    rule(ALL_DIALECTS, "wrong_type", Class::Ok),
    // The only image is marked as a thought. It is delivered all the same.
    rule(GENERATE_CONTENT, "only_thought", Class::Ok),
    // An answer without one.
    rule(GENERATE_CONTENT, "finish:STOP", Class::NoOutput),
    rule(GENERATE_CONTENT, "finish:NO_IMAGE", Class::NoOutput),
    rule(GOOGLE, "text_only", Class::NoOutput),
    rule(ALL_DIALECTS, "empty", Class::NoOutput),
    rule(GENERATE_CONTENT, "finish:SAFETY", Class::Refused),
    rule(
        GENERATE_CONTENT,
        "finish:PROHIBITED_CONTENT",
        Class::Refused,
    ),
    rule(GENERATE_CONTENT, "finish:BLOCKLIST", Class::Refused),
    rule(GENERATE_CONTENT, "finish:SPII", Class::Refused),
    rule(GENERATE_CONTENT, "finish:IMAGE_SAFETY", Class::Refused),
    rule(
        GENERATE_CONTENT,
        "finish:IMAGE_PROHIBITED_CONTENT",
        Class::Refused,
    ),
    rule(GENERATE_CONTENT, "finish:MODEL_ARMOR", Class::Refused),
    rule(GENERATE_CONTENT, "finish:ESCALATION", Class::Refused),
    rule(
        GENERATE_CONTENT,
        "finish:RECITATION",
        Class::RefusedCopyright,
    ),
    rule(
        GENERATE_CONTENT,
        "finish:IMAGE_RECITATION",
        Class::RefusedCopyright,
    ),
    rule(GENERATE_CONTENT, "finish:MAX_TOKENS", Class::Truncated),
    rule(GENERATE_CONTENT, "finish:CONTINUATION", Class::Truncated),
    rule(GENERATE_CONTENT, "finish:LANGUAGE", Class::BadRequest),
    rule(GENERATE_CONTENT, "finish:IMAGE_OTHER", Class::ProviderFault),
    rule(GENERATE_CONTENT, "finish:OTHER", Class::ProviderFault),
    rule(
        GENERATE_CONTENT,
        "finish:MALFORMED_RESPONSE",
        Class::ProviderFault,
    ),
    rule(
        GENERATE_CONTENT,
        "finish:MALFORMED_FUNCTION_CALL",
        Class::ProviderFault,
    ),
    rule(
        GENERATE_CONTENT,
        "finish:UNEXPECTED_TOOL_CALL",
        Class::ProviderFault,
    ),
    rule(
        GENERATE_CONTENT,
        "finish:TOO_MANY_TOOL_CALLS",
        Class::ProviderFault,
    ),
    rule(
        GENERATE_CONTENT,
        "finish:MISSING_THOUGHT_SIGNATURE",
        Class::ProviderFault,
    ),
    rule(
        GENERATE_CONTENT,
        "finish:PUP_LIMITED_DISABLED",
        Class::ProviderFault,
    ),
    rule(
        GENERATE_CONTENT,
        "finish:FINISH_REASON_UNSPECIFIED",
        Class::ProviderFault,
    ),
    rule(GENERATE_CONTENT, "finish:*", Class::Unrecognized),
    rule(GENERATE_CONTENT, "block:SAFETY", Class::RefusedPrompt),
    rule(GENERATE_CONTENT, "block:OTHER", Class::RefusedPrompt),
    rule(GENERATE_CONTENT, "block:BLOCKLIST", Class::RefusedPrompt),
    rule(
        GENERATE_CONTENT,
        "block:PROHIBITED_CONTENT",
        Class::RefusedPrompt,
    ),
    rule(GENERATE_CONTENT, "block:IMAGE_SAFETY", Class::RefusedPrompt),
    rule(GENERATE_CONTENT, "block:MODEL_ARMOR", Class::RefusedPrompt),
    rule(GENERATE_CONTENT, "block:JAILBREAK", Class::RefusedPrompt),
    rule(GENERATE_CONTENT, "block:*", Class::Unrecognized),
    rule(INTERACTIONS, "interaction:failed", Class::ProviderFault),
    rule(INTERACTIONS, "interaction:cancelled", Class::ProviderFault),
    rule(
        INTERACTIONS,
        "interaction:requires_action",
        Class::ProviderFault,
    ),
    rule(
        INTERACTIONS,
        "interaction:requires_continuation",
        Class::Truncated,
    ),
    rule(INTERACTIONS, "interaction:incomplete", Class::Truncated),
    rule(
        INTERACTIONS,
        "interaction:budget_exceeded",
        Class::Truncated,
    ),
    rule(INTERACTIONS, "interaction:*", Class::Unrecognized),
    // The provider no longer knows the interaction that it was asked about.
    rule(INTERACTIONS, "gone", Class::Unknown),
    // Error codes of Interactions, in the body of an error or in a failed interaction.
    rule(INTERACTIONS, "error:safety", Class::Refused),
    rule(INTERACTIONS, "error:prohibited_content", Class::Refused),
    rule(INTERACTIONS, "error:blocklist", Class::Refused),
    rule(INTERACTIONS, "error:spii", Class::Refused),
    rule(INTERACTIONS, "error:image_safety", Class::Refused),
    rule(
        INTERACTIONS,
        "error:image_prohibited_content",
        Class::Refused,
    ),
    rule(INTERACTIONS, "error:content_blocked", Class::RefusedPrompt),
    rule(INTERACTIONS, "error:recitation", Class::RefusedCopyright),
    rule(
        INTERACTIONS,
        "error:image_recitation",
        Class::RefusedCopyright,
    ),
    rule(INTERACTIONS, "error:language", Class::BadRequest),
    rule(INTERACTIONS, "error:no_image", Class::NoOutput),
    rule(INTERACTIONS, "error:image_other", Class::ProviderFault),
    rule(
        INTERACTIONS,
        "error:malformed_function_call",
        Class::ProviderFault,
    ),
    rule(
        INTERACTIONS,
        "error:malformed_tool_call",
        Class::ProviderFault,
    ),
    rule(
        INTERACTIONS,
        "error:unexpected_tool_call",
        Class::ProviderFault,
    ),
    rule(
        INTERACTIONS,
        "error:too_many_tool_calls",
        Class::ProviderFault,
    ),
    rule(
        INTERACTIONS,
        "error:missing_thought_signature",
        Class::ProviderFault,
    ),
    rule(INTERACTIONS, "error:invalid_request", Class::BadRequest),
    rule(INTERACTIONS, "error:parameter_unknown", Class::BadRequest),
    rule(INTERACTIONS, "error:out_of_range", Class::BadRequest),
    rule(INTERACTIONS, "error:failed_precondition", Class::BadRequest),
    rule(INTERACTIONS, "error:authentication", Class::Config),
    rule(INTERACTIONS, "error:payment_required", Class::Config),
    rule(INTERACTIONS, "error:permission_denied", Class::Config),
    rule(INTERACTIONS, "error:quota_exceeded", Class::Config),
    rule(INTERACTIONS, "error:model_not_found", Class::ModelRetired),
    rule(INTERACTIONS, "error:rate_limit_exceeded", Class::Throttled),
    rule(INTERACTIONS, "error:too_many_requests", Class::Throttled),
    rule(INTERACTIONS, "error:aborted", Class::ProviderFault),
    rule(INTERACTIONS, "error:cancelled", Class::ProviderFault),
    rule(INTERACTIONS, "error:api_error", Class::ProviderFault),
    rule(
        INTERACTIONS,
        "error:service_unavailable",
        Class::ProviderFault,
    ),
    rule(
        INTERACTIONS,
        "error:deadline_exceeded",
        Class::ProviderFault,
    ),
    rule(OPENAI, "error:moderation_blocked", Class::RefusedPrompt),
    rule(
        OPENAI,
        "error:content_policy_violation",
        Class::RefusedPrompt,
    ),
    rule(OPENAI, "error:content_filter", Class::RefusedPrompt),
    rule(OPENAI, "error:insufficient_quota", Class::Config),
    rule(OPENAI, "error:billing_hard_limit_reached", Class::Config),
    // An HTTP status other than success.
    rule(ALL_DIALECTS, "status:400", Class::BadRequest),
    rule(VERTEX, "status:401", Class::Unauthenticated),
    rule(WITH_API_KEY, "status:401", Class::Config),
    rule(ALL_DIALECTS, "status:403", Class::Config),
    rule(ALL_DIALECTS, "status:404", Class::ModelRetired),
    rule(ALL_DIALECTS, "status:408", Class::Unknown),
    rule(ALL_DIALECTS, "no_quota", Class::Config),
    rule(ALL_DIALECTS, "status:429", Class::Throttled),
    rule(ALL_DIALECTS, "status:499", Class::ProviderFault),
    rule(ALL_DIALECTS, "status:4*", Class::BadRequest),
    rule(ALL_DIALECTS, "status:500", Class::ProviderFault),
    rule(ALL_DIALECTS, "status:502", Class::ProviderFault),
    rule(ALL_DIALECTS, "status:503", Class::ProviderFault),
    rule(ALL_DIALECTS, "status:504", Class::ProviderFault),
    rule(ALL_DIALECTS, "status:5*", Class::ProviderFault),
    rule(ALL_DIALECTS, "status:*", Class::ProviderInvalid),
    // A transport error.
    rule(ALL_DIALECTS, "connect", Class::Unreachable),
    rule(ALL_DIALECTS, "reset", Class::Unknown),
    rule(ALL_DIALECTS, "hang", Class::Unknown),
    rule(ALL_DIALECTS, "stall", Class::Unknown),
    rule(ALL_DIALECTS, "trickle", Class::Unknown),
    // An answer that cannot be used.
    rule(ALL_DIALECTS, "cut", Class::ProviderInvalid),
    rule(ALL_DIALECTS, "not_json", Class::ProviderInvalid),
    rule(ALL_DIALECTS, "oversized", Class::ProviderInvalid),
    rule(ALL_DIALECTS, "bad_base64", Class::ProviderInvalid),
    rule(ALL_DIALECTS, "bad_picture", Class::ProviderInvalid),
    rule(ALL_DIALECTS, "wrong_size", Class::ProviderInvalid),
    // The URL of an image instead of the image.
    rule(WITH_IMAGE_URL, "elsewhere", Class::ProviderInvalid),
];

/// The class of an answer with this signal. [`Class::Unrecognized`] if no rule matches.
pub fn class(dialect: Dialect, answer_signal: &str) -> Class {
    find_rule(dialect, answer_signal).map_or(Class::Unrecognized, |rule| rule.class)
}

/// Whether the table has a rule for exactly this signal, and not only one with `*` that matches it.
pub fn names(dialect: Dialect, answer_signal: &str) -> bool {
    find_rule(dialect, answer_signal).is_some_and(|rule| rule.answer_signal == answer_signal)
}

fn find_rule(dialect: Dialect, answer_signal: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| {
        rule.dialects.contains(&dialect)
            && match rule.answer_signal.strip_suffix('*') {
                Some(prefix) => answer_signal.starts_with(prefix),
                None => answer_signal == rule.answer_signal,
            }
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::{Contract, Retries};
    use super::*;

    #[test]
    fn an_exact_rule_comes_before_a_wildcard() {
        use Dialect::{Gemini, Openai, Vertex};

        for (dialect, signal, expected) in [
            (Vertex, "finish:SAFETY", Class::Refused),
            (Gemini, "finish:TOMORROW", Class::Unrecognized),
            (Vertex, "block:TOMORROW", Class::Unrecognized),
            (Vertex, "status:401", Class::Unauthenticated),
            (Openai, "status:401", Class::Config),
            (Vertex, "status:418", Class::BadRequest),
            (Vertex, "status:599", Class::ProviderFault),
            (Vertex, "status:302", Class::ProviderInvalid),
            (Openai, "finish:SAFETY", Class::Unrecognized),
        ] {
            assert_eq!(class(dialect, signal), expected, "{dialect:?} {signal}");
        }
    }

    #[test]
    fn no_rule_is_hidden_by_an_earlier_one() {
        for rule in TABLE {
            for &dialect in rule.dialects {
                let found = find_rule(dialect, rule.answer_signal).unwrap();
                assert!(
                    std::ptr::eq(found, rule),
                    "{} {dialect:?}",
                    rule.answer_signal
                );
            }
        }
    }

    /// `docs/outcomes.md` is written from the code. Run this test with `WRITE_DOCS=1` to write it.
    #[test]
    fn the_documentation_matches_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/outcomes.md");
        let documented = documentation();
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, &documented).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            documented,
            "docs/outcomes.md is out of date: run this test with WRITE_DOCS=1"
        );
    }

    fn documentation() -> String {
        let mut text = String::from(include_str!("preface.md"));
        text.push_str("\n## Classes\n\n");
        text.push_str("| class | what follows | counts against `max_calls` | strikes | message to the customer | message to the operator |\n|---|---|---|---|---|---|\n");
        for &class in Class::ALL {
            let Contract {
                counts,
                strikes,
                retry_on_other_lane,
                customer,
                operator,
                ..
            } = class.contract();
            let follows = follows(class);
            let counts = if counts { "yes" } else { "no" };
            let other_lane = if retry_on_other_lane {
                ", or at once on another lane"
            } else {
                ""
            };
            writeln!(
                text,
                "| `{}` | {follows}{other_lane} | {counts} | {strikes} | {customer} | {operator} |",
                class.as_str()
            )
            .unwrap();
        }
        text.push_str("\n## Answer signals\n\n");
        text.push_str(
            "| answer signal | dialects | class | what follows | charged |\n|---|---|---|---|---|\n",
        );
        for rule in TABLE {
            let dialects = if rule.dialects == ALL_DIALECTS {
                "all".to_owned()
            } else {
                let names: Vec<&str> = rule
                    .dialects
                    .iter()
                    .map(|dialect| dialect.as_str())
                    .collect();
                names.join(", ")
            };
            let charged = if rule.class == Class::Ok {
                "yes"
            } else {
                "no: released"
            };
            writeln!(
                text,
                "| `{}` | {dialects} | `{}` | {} | {charged} |",
                rule.answer_signal,
                rule.class.as_str(),
                follows(rule.class),
            )
            .unwrap();
        }
        text
    }

    fn follows(class: Class) -> &'static str {
        match (class, class.contract().retries) {
            (Class::Ok, _) => "deliver",
            (_, Retries::Never) => "give up",
            (_, Retries::Once) => "try once more, then give up",
            (_, Retries::WhilePossible) => "try again while calls and time are left",
        }
    }
}
