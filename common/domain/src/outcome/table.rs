//! Which answer falls into which class: every finish reason, block reason, HTTP status, broken transport and
//! malformed answer a provider can give.
//!
//! A *sign* is what an answer shows, in one word: `finish:SAFETY`, `status:503`, `cut`. Providers turn answers into
//! signs; [`class`] looks them up. A sign that ends in `*` stands for every one nobody listed: what a
//! server will say tomorrow is classified today. The fakes take the same words, so a test walks every row.

use super::Class;

/// How a provider is spoken to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Google Vertex AI, `generateContent`.
    Vertex,
    /// Gemini Developer API, `generateContent`.
    Gemini,
    /// Gemini Interactions: work in the background, with a handle.
    Interactions,
    /// OpenAI images, and the servers that speak like it.
    Openai,
}

impl Dialect {
    pub const ALL: [Self; 4] = [Self::Vertex, Self::Gemini, Self::Interactions, Self::Openai];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vertex => "vertex",
            Self::Gemini => "gemini",
            Self::Interactions => "interactions",
            Self::Openai => "openai",
        }
    }
}

/// One row of the outcome table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Who can answer so.
    pub dialects: &'static [Dialect],
    /// What the answer shows.
    pub answer_signal: &'static str,
    pub class: Class,
}

const EVERYONE: &[Dialect] = &Dialect::ALL;
const GENERATE_CONTENT: &[Dialect] = &[Dialect::Vertex, Dialect::Gemini];
const GOOGLE: &[Dialect] = &[Dialect::Vertex, Dialect::Gemini, Dialect::Interactions];
const VERTEX: &[Dialect] = &[Dialect::Vertex];
const KEYED: &[Dialect] = &[Dialect::Gemini, Dialect::Interactions, Dialect::Openai];
const INTERACTIONS: &[Dialect] = &[Dialect::Interactions];
const OPENAI: &[Dialect] = &[Dialect::Openai];
/// Those who may answer with a picture's address in place of the picture.
const BY_ADDRESS: &[Dialect] = &[Dialect::Interactions, Dialect::Openai];

const fn row(dialects: &'static [Dialect], sign: &'static str, class: Class) -> Rule {
    Rule {
        dialects,
        answer_signal: sign,
        class,
    }
}

/// The table. The first row that fits a dialect and a sign is the one.
pub static TABLE: &[Rule] = &[
    // A picture.
    row(EVERYONE, "ok", Class::Ok),
    row(EVERYONE, "wrong_type", Class::Ok),
    row(GENERATE_CONTENT, "only_thought", Class::Ok),
    // An answer without one.
    row(GENERATE_CONTENT, "finish:STOP", Class::NoOutput),
    row(GENERATE_CONTENT, "finish:NO_IMAGE", Class::NoOutput),
    row(GOOGLE, "text_only", Class::NoOutput),
    row(EVERYONE, "empty", Class::NoOutput),
    row(GENERATE_CONTENT, "finish:SAFETY", Class::Refused),
    row(
        GENERATE_CONTENT,
        "finish:PROHIBITED_CONTENT",
        Class::Refused,
    ),
    row(GENERATE_CONTENT, "finish:BLOCKLIST", Class::Refused),
    row(GENERATE_CONTENT, "finish:SPII", Class::Refused),
    row(GENERATE_CONTENT, "finish:IMAGE_SAFETY", Class::Refused),
    row(
        GENERATE_CONTENT,
        "finish:IMAGE_PROHIBITED_CONTENT",
        Class::Refused,
    ),
    row(GENERATE_CONTENT, "finish:MODEL_ARMOR", Class::Refused),
    row(GENERATE_CONTENT, "finish:ESCALATION", Class::Refused),
    row(
        GENERATE_CONTENT,
        "finish:RECITATION",
        Class::RefusedCopyright,
    ),
    row(
        GENERATE_CONTENT,
        "finish:IMAGE_RECITATION",
        Class::RefusedCopyright,
    ),
    row(GENERATE_CONTENT, "finish:MAX_TOKENS", Class::Truncated),
    row(GENERATE_CONTENT, "finish:CONTINUATION", Class::Truncated),
    row(GENERATE_CONTENT, "finish:LANGUAGE", Class::BadRequest),
    row(GENERATE_CONTENT, "finish:IMAGE_OTHER", Class::ProviderFault),
    row(GENERATE_CONTENT, "finish:OTHER", Class::ProviderFault),
    row(
        GENERATE_CONTENT,
        "finish:MALFORMED_RESPONSE",
        Class::ProviderFault,
    ),
    row(
        GENERATE_CONTENT,
        "finish:MALFORMED_FUNCTION_CALL",
        Class::ProviderFault,
    ),
    row(
        GENERATE_CONTENT,
        "finish:UNEXPECTED_TOOL_CALL",
        Class::ProviderFault,
    ),
    row(
        GENERATE_CONTENT,
        "finish:TOO_MANY_TOOL_CALLS",
        Class::ProviderFault,
    ),
    row(
        GENERATE_CONTENT,
        "finish:MISSING_THOUGHT_SIGNATURE",
        Class::ProviderFault,
    ),
    row(
        GENERATE_CONTENT,
        "finish:PUP_LIMITED_DISABLED",
        Class::ProviderFault,
    ),
    row(
        GENERATE_CONTENT,
        "finish:FINISH_REASON_UNSPECIFIED",
        Class::ProviderFault,
    ),
    row(GENERATE_CONTENT, "finish:*", Class::Unrecognized),
    row(GENERATE_CONTENT, "block:SAFETY", Class::RefusedPrompt),
    row(GENERATE_CONTENT, "block:OTHER", Class::RefusedPrompt),
    row(GENERATE_CONTENT, "block:BLOCKLIST", Class::RefusedPrompt),
    row(
        GENERATE_CONTENT,
        "block:PROHIBITED_CONTENT",
        Class::RefusedPrompt,
    ),
    row(GENERATE_CONTENT, "block:IMAGE_SAFETY", Class::RefusedPrompt),
    row(GENERATE_CONTENT, "block:MODEL_ARMOR", Class::RefusedPrompt),
    row(GENERATE_CONTENT, "block:JAILBREAK", Class::RefusedPrompt),
    row(GENERATE_CONTENT, "block:*", Class::Unrecognized),
    row(INTERACTIONS, "interaction:failed", Class::ProviderFault),
    row(INTERACTIONS, "interaction:cancelled", Class::ProviderFault),
    row(
        INTERACTIONS,
        "interaction:requires_action",
        Class::ProviderFault,
    ),
    row(
        INTERACTIONS,
        "interaction:requires_continuation",
        Class::Truncated,
    ),
    row(INTERACTIONS, "interaction:incomplete", Class::Truncated),
    row(
        INTERACTIONS,
        "interaction:budget_exceeded",
        Class::Truncated,
    ),
    row(INTERACTIONS, "interaction:*", Class::Unrecognized),
    row(INTERACTIONS, "gone", Class::Unknown),
    // Words of Interactions: in an error's body, or in an interaction that failed.
    row(INTERACTIONS, "error:safety", Class::Refused),
    row(INTERACTIONS, "error:prohibited_content", Class::Refused),
    row(INTERACTIONS, "error:blocklist", Class::Refused),
    row(INTERACTIONS, "error:spii", Class::Refused),
    row(INTERACTIONS, "error:image_safety", Class::Refused),
    row(
        INTERACTIONS,
        "error:image_prohibited_content",
        Class::Refused,
    ),
    row(INTERACTIONS, "error:content_blocked", Class::RefusedPrompt),
    row(INTERACTIONS, "error:recitation", Class::RefusedCopyright),
    row(
        INTERACTIONS,
        "error:image_recitation",
        Class::RefusedCopyright,
    ),
    row(INTERACTIONS, "error:language", Class::BadRequest),
    row(INTERACTIONS, "error:no_image", Class::NoOutput),
    row(INTERACTIONS, "error:image_other", Class::ProviderFault),
    row(
        INTERACTIONS,
        "error:malformed_function_call",
        Class::ProviderFault,
    ),
    row(
        INTERACTIONS,
        "error:malformed_tool_call",
        Class::ProviderFault,
    ),
    row(
        INTERACTIONS,
        "error:unexpected_tool_call",
        Class::ProviderFault,
    ),
    row(
        INTERACTIONS,
        "error:too_many_tool_calls",
        Class::ProviderFault,
    ),
    row(
        INTERACTIONS,
        "error:missing_thought_signature",
        Class::ProviderFault,
    ),
    row(INTERACTIONS, "error:invalid_request", Class::BadRequest),
    row(INTERACTIONS, "error:parameter_unknown", Class::BadRequest),
    row(INTERACTIONS, "error:out_of_range", Class::BadRequest),
    row(INTERACTIONS, "error:failed_precondition", Class::BadRequest),
    row(INTERACTIONS, "error:authentication", Class::Config),
    row(INTERACTIONS, "error:payment_required", Class::Config),
    row(INTERACTIONS, "error:permission_denied", Class::Config),
    row(INTERACTIONS, "error:quota_exceeded", Class::Config),
    row(INTERACTIONS, "error:model_not_found", Class::ModelRetired),
    row(INTERACTIONS, "error:rate_limit_exceeded", Class::Throttled),
    row(INTERACTIONS, "error:too_many_requests", Class::Throttled),
    row(INTERACTIONS, "error:aborted", Class::ProviderFault),
    row(INTERACTIONS, "error:cancelled", Class::ProviderFault),
    row(INTERACTIONS, "error:api_error", Class::ProviderFault),
    row(
        INTERACTIONS,
        "error:service_unavailable",
        Class::ProviderFault,
    ),
    row(
        INTERACTIONS,
        "error:deadline_exceeded",
        Class::ProviderFault,
    ),
    row(OPENAI, "error:moderation_blocked", Class::RefusedPrompt),
    row(
        OPENAI,
        "error:content_policy_violation",
        Class::RefusedPrompt,
    ),
    row(OPENAI, "error:content_filter", Class::RefusedPrompt),
    row(OPENAI, "error:insufficient_quota", Class::Config),
    row(OPENAI, "error:billing_hard_limit_reached", Class::Config),
    // A status that is no success.
    row(EVERYONE, "status:400", Class::BadRequest),
    row(VERTEX, "status:401", Class::Unauthenticated),
    row(KEYED, "status:401", Class::Config),
    row(EVERYONE, "status:403", Class::Config),
    row(EVERYONE, "status:404", Class::ModelRetired),
    row(EVERYONE, "status:408", Class::Unknown),
    row(EVERYONE, "no_quota", Class::Config),
    row(EVERYONE, "status:429", Class::Throttled),
    row(EVERYONE, "status:499", Class::ProviderFault),
    row(EVERYONE, "status:4*", Class::BadRequest),
    row(EVERYONE, "status:500", Class::ProviderFault),
    row(EVERYONE, "status:502", Class::ProviderFault),
    row(EVERYONE, "status:503", Class::ProviderFault),
    row(EVERYONE, "status:504", Class::ProviderFault),
    row(EVERYONE, "status:5*", Class::ProviderFault),
    row(EVERYONE, "status:*", Class::ProviderInvalid),
    // A transport that broke.
    row(EVERYONE, "connect", Class::Unreachable),
    row(EVERYONE, "reset", Class::Unknown),
    row(EVERYONE, "hang", Class::Unknown),
    row(EVERYONE, "stall", Class::Unknown),
    row(EVERYONE, "trickle", Class::Unknown),
    // An answer that cannot be used.
    row(EVERYONE, "cut", Class::ProviderInvalid),
    row(EVERYONE, "not_json", Class::ProviderInvalid),
    row(EVERYONE, "oversized", Class::ProviderInvalid),
    row(EVERYONE, "bad_base64", Class::ProviderInvalid),
    row(EVERYONE, "bad_picture", Class::ProviderInvalid),
    row(EVERYONE, "wrong_size", Class::ProviderInvalid),
    row(BY_ADDRESS, "elsewhere", Class::ProviderInvalid),
];

/// The class of an answer that shows `sign`. What no row fits is [`Class::Unrecognized`].
pub fn class(dialect: Dialect, sign: &str) -> Class {
    row_of(dialect, sign).map_or(Class::Unrecognized, |row| row.class)
}

/// Whether the table names this very sign.
pub fn names(dialect: Dialect, sign: &str) -> bool {
    row_of(dialect, sign).is_some_and(|row| row.answer_signal == sign)
}

fn row_of(dialect: Dialect, sign: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|row| {
        row.dialects.contains(&dialect)
            && match row.answer_signal.strip_suffix('*') {
                Some(beginning) => sign.starts_with(beginning),
                None => sign == row.answer_signal,
            }
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::{Contract, Retries};
    use super::*;

    #[test]
    fn the_exact_row_comes_before_the_one_for_all_others() {
        use Dialect::{Gemini, Openai, Vertex};

        for (dialect, sign, expected) in [
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
            assert_eq!(class(dialect, sign), expected, "{dialect:?} {sign}");
        }
    }

    #[test]
    fn no_row_hides_behind_an_earlier_one() {
        for row in TABLE {
            for &dialect in row.dialects {
                let found = row_of(dialect, row.answer_signal).unwrap();
                assert!(
                    std::ptr::eq(found, row),
                    "{} {dialect:?}",
                    row.answer_signal
                );
            }
        }
    }

    /// `docs/outcomes.md` from the code. Run with `WRITE_DOCS=1` to write it.
    #[test]
    fn the_documentation_tells_the_same_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/outcomes.md");
        let documented = documentation();
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, &documented).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            documented,
            "docs/outcomes.md is behind: run this test with WRITE_DOCS=1"
        );
    }

    fn documentation() -> String {
        let mut text = String::from(include_str!("preface.md"));
        text.push_str("\n## Classes\n\n");
        text.push_str("| class | what follows | counts against `max_calls` | strikes | what the customer is told | what the operator is told |\n|---|---|---|---|---|---|\n");
        for class in Class::ALL {
            let Contract {
                counts,
                strikes,
                retry_on_other_lane: elsewhere,
                customer,
                operator,
                ..
            } = class.contract();
            let follows = follows(class);
            let counts = if counts { "yes" } else { "no" };
            let elsewhere = if elsewhere {
                ", or at once on another lane"
            } else {
                ""
            };
            writeln!(
                text,
                "| `{}` | {follows}{elsewhere} | {counts} | {strikes} | {customer} | {operator} |",
                class.as_str()
            )
            .unwrap();
        }
        text.push_str("\n## Signs\n\n");
        text.push_str(
            "| an answer that shows | from | is | then | charged |\n|---|---|---|---|---|\n",
        );
        for row in TABLE {
            let from = if row.dialects == EVERYONE {
                "everyone".to_owned()
            } else {
                let names: Vec<&str> = row
                    .dialects
                    .iter()
                    .map(|dialect| dialect.as_str())
                    .collect();
                names.join(", ")
            };
            let charged = if row.class == Class::Ok {
                "yes"
            } else {
                "no: released"
            };
            writeln!(
                text,
                "| `{}` | {from} | `{}` | {} | {charged} |",
                row.answer_signal,
                row.class.as_str(),
                follows(row.class),
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
