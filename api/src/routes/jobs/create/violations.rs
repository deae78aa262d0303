//! Collects everything that is wrong with a body, so that it is reported at once. Also parses texts that must be one of a few known
//! words.

use domain::generation::Violation;
use serde::Serialize;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// The violations found so far.
#[derive(Default)]
pub(super) struct Violations(Vec<Violation>);

impl From<Vec<Violation>> for Violations {
    fn from(found: Vec<Violation>) -> Self {
        Self(found)
    }
}

impl Violations {
    pub(super) fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Violation::new(pointer, detail));
    }

    /// Returns the value of a result. If the result is a violation, adds it and returns `None`.
    pub(super) fn keep<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        result.map_err(|violation| self.0.push(violation)).ok()
    }

    /// Parses one of a few known words. Returns the default if the text is missing or unknown. An unknown text also adds a
    /// violation.
    pub(super) fn choice<T: Copy + Default + Serialize>(
        &mut self,
        pointer: &str,
        text: Option<String>,
        all: &[T],
    ) -> T {
        text.and_then(|text| self.keep(choice(pointer, &text, all)))
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
        .find(|value| word(*value) == text)
        .copied()
        .ok_or_else(|| {
            let names: Vec<String> = all.iter().map(word).collect();
            Violation::new(pointer, format!("Use one of {}.", names.join(", ")))
        })
}

/// The schema of a text that is one of a few known words.
pub(super) fn words<T: Serialize>(description: &str, all: &[T], default: Option<&T>) -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .enum_values(Some(all.iter().map(word)))
        .default(default.map(|value| word(value).into()))
        .into()
}

/// The text of a value in JSON.
fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
