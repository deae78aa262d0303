//! A model as it is written in a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use time::Date;
use toml::Spanned;

use crate::credits::Credits;
use crate::generation::Kind;
use crate::generation::image::{AspectRatio, Size};

/// A model as it is written in a file. `Spanned` keeps the place of a value, to report a mistake in
/// it. `CONTRIBUTING.md` explains each key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    pub(super) title: String,
    pub(super) kind: Kind,
    pub(super) name: Option<String>,
    pub(super) location: Option<Spanned<String>>,
    pub(super) sizes: Spanned<Vec<Size>>,
    pub(super) ratios: Spanned<Vec<AspectRatio>>,
    pub(super) max_inputs: usize,
    pub(super) max_input_bytes: Option<Spanned<usize>>,
    pub(super) max_outputs: Option<Spanned<u32>>,
    pub(super) timeout_seconds: Spanned<u64>,
    pub(super) concurrency: Option<Spanned<u32>>,
    pub(super) max_concurrency: Option<Spanned<u32>>,
    pub(super) announced: Day,
    pub(super) deprecated: Option<Spanned<Day>>,
    pub(super) shut_down: Option<Spanned<Day>>,
    pub(super) successor: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) fallbacks: Vec<Spanned<Fallback>>,
    #[serde(default)]
    pub(super) thinking: Vec<String>,
    #[serde(default)]
    pub(super) pixels: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) seed: bool,
    #[serde(default)]
    pub(super) extra: serde_json::Map<String, serde_json::Value>,
    pub(super) cost_usd_micros: Spanned<BTreeMap<Size, i64>>,
    pub(super) cost_usd_micros_per_million_tokens: Option<Spanned<TokenCost>>,
    pub(super) price: Spanned<Vec<Spanned<PriceEntry>>>,
}

/// What a fallback changes of the model's own lane. A fallback in a file has exactly one of these
/// keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum Fallback {
    /// Another location of the same provider and project.
    Location(String),
    /// Another project of the same provider.
    Project(String),
    /// The own lane of another model. The value is that model's id.
    Model(String),
}

/// Cost of a million tokens, in millionths of a US dollar.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenCost {
    pub(super) input: i64,
    pub(super) thought: i64,
}

/// A price and the first day it is in force.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceEntry {
    pub(super) from: Day,
    pub(super) credits: BTreeMap<Size, Credits>,
}

/// A TOML date without a time.
#[derive(Clone, Copy)]
pub(super) struct Day(pub(super) Date);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let day = |date: toml::value::Date| {
            let month = time::Month::try_from(date.month).ok()?;
            Date::from_calendar_date(i32::from(date.year), month, date.day).ok()
        };
        let written = toml::value::Datetime::deserialize(deserializer)?;
        (written
            .date
            .filter(|_| written.time.is_none())
            .and_then(day))
        .map(Self)
        .ok_or_else(|| serde::de::Error::custom("expected a day, such as 2026-10-06"))
    }
}
