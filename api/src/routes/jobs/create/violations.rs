//! Collects everything that is wrong with a body, so that it is reported at once. Also parses texts that must be one of a few known
//! words.

use domain::generation::Violation;
use serde::Serialize;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// The violations found so far.
#[derive(Default)]
pub(super) struct Violations(Vec<Violation>);

impl From<Vec<Violation>> for Violations {
    fn from(violations: Vec<Violation>) -> Self {
        Self(violations)
    }
}

impl Violations {
    pub(super) fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Violation::new(pointer, detail));
    }

    /// If a result is a violation, adds it and returns `None`. Otherwise returns the value.
    pub(super) fn add_if_err<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        result.map_err(|violation| self.0.push(violation)).ok()
    }

    /// Parses one of a few known words. Returns the default if the text is missing or unknown. An unknown text also adds a
    /// violation.
    pub(super) fn choice_or_default<T: Copy + Default + Serialize>(
        &mut self,
        pointer: &str,
        text: Option<String>,
        all: &[T],
    ) -> T {
        text.and_then(|text| self.add_if_err(choice(pointer, &text, all)))
            .unwrap_or_default()
    }

    pub(super) fn all(&self) -> Vec<Violation> {
        self.0.clone()
    }

    pub(super) fn into_all(self) -> Vec<Violation> {
        self.0
    }
}

/// Parses one of a few known words. The violation lists the words.
pub(super) fn choice<T: Copy + Serialize>(
    pointer: &str,
    text: &str,
    all: &[T],
) -> Result<T, Violation> {
    all.iter()
        .find(|value| json_text(*value) == text)
        .copied()
        .ok_or_else(|| {
            let names: Vec<String> = all.iter().map(json_text).collect();
            Violation::new(pointer, format!("Use one of {}.", names.join(", ")))
        })
}

/// The schema of a text that is one of a few known words, for `/openapi.json`.
pub(super) fn words_schema<T: Serialize>(
    description: &str,
    all: &[T],
    default: Option<&T>,
) -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .enum_values(Some(all.iter().map(json_text)))
        .default(default.map(|value| json_text(value).into()))
        .into()
}

/// The text that a value is in JSON. All values here are texts.
fn json_text<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
