//! A model on offer: what it can do, its price, what it costs us, and the stages of its life.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::Date;
use utoipa::ToSchema;

use super::Lane;
use crate::credits::Credits;
use crate::generation::Kind;
use crate::generation::image::{AspectRatio, Pixels, Size};

/// One model on offer.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its id in our API.
    pub id: String,
    /// The provider's name for it.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// What it makes.
    pub kind: Kind,
    /// Where it may be called, in this order. The first lane is its own. The others are fallbacks,
    /// which a job's owner can forbid. Never empty.
    pub lanes: Vec<Lane>,
    /// Sizes that it makes.
    pub sizes: Vec<Size>,
    /// Aspect ratios that it makes.
    pub ratios: Vec<AspectRatio>,
    /// Most input images of one job.
    pub max_inputs: usize,
    /// Largest single input, in bytes.
    pub max_input_bytes: usize,
    /// Most outputs of one job.
    pub max_outputs: u32,
    /// Longest time that one call may take.
    pub timeout: Duration,
    /// How many calls may be in flight at once, on each lane of the model.
    pub concurrency: Concurrency,
    /// When its provider announced it.
    pub announced: Date,
    /// From when on its provider advises against it.
    pub deprecated: Option<Date>,
    /// From when on its provider no longer runs it.
    pub shut_down: Option<Date>,
    /// Catalogue id of the model that replaces it.
    pub successor: Option<String>,
    /// Levels of thinking that it knows, the lowest first.
    pub thinking: Vec<String>,
    /// Sizes in pixels that the provider accepts. Empty if it accepts any. The nearest shape is
    /// requested.
    pub pixels: Vec<Pixels>,
    /// Whether it accepts a seed.
    pub takes_seed: bool,
    /// Fields added to each request unchanged, for servers that differ a little from their dialect.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Our prices, sorted by their first day, the latest first. Some may begin in the future.
    pub(super) prices: Vec<Price>,
    /// What the provider charges us.
    pub(super) cost: ProviderCost,
}

/// How many calls of one lane may be in flight at once. What is learned of the provider changes the
/// limit of the lane between 1 and `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// The limit of a lane of which nothing is known yet.
    pub initial: u32,
    /// The limit is never higher.
    pub max: u32,
}

impl Concurrency {
    /// The highest limit that a lane can have.
    pub const MAX: u32 = 2_000;
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            initial: 32,
            max: Self::MAX,
        }
    }
}

/// What the provider charges us, in millionths of a US dollar.
#[derive(Clone, Debug, Default)]
pub(super) struct ProviderCost {
    /// For one image, by size.
    pub(super) image: BTreeMap<Size, i64>,
    /// For a million input tokens.
    pub(super) million_input_tokens: i64,
    /// For a million tokens of thoughts and text.
    pub(super) million_thought_tokens: i64,
}

/// Tokens that a provider metered for a call. It may charge for them in addition to the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens of the request.
    pub input: i64,
    /// Tokens of thoughts and text in the answer.
    pub thought: i64,
}

/// The price of one delivered image, from a day on.
#[derive(Clone, Debug)]
pub struct Price {
    /// First day on which it is quoted (UTC). It is also the version of the price.
    pub from: Date,
    /// Credits for one image, by size.
    pub credits: BTreeMap<Size, Credits>,
}

/// Stage in the life of a model.
///
/// - `current`: on offer.
/// - `deprecated`: on offer, but its provider advises against it.
/// - `ending`: on offer for at most 60 more days.
/// - `shut_down`: no longer on offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// On offer.
    Current,
    /// On offer, but its provider advises against it.
    Deprecated,
    /// On offer for at most 60 more days.
    Ending,
    /// No longer on offer.
    ShutDown,
}

impl Model {
    /// The price in force `today`: its version, and the credits for one image of this size.
    pub fn price(&self, size: Size, today: Date) -> Option<(String, Credits)> {
        let price = self.current_price(today)?;
        Some((price.from.to_string(), *price.credits.get(&size)?))
    }

    /// The newest price whose first day is not after `today`.
    pub fn current_price(&self, today: Date) -> Option<&Price> {
        self.prices.iter().find(|price| price.from <= today)
    }

    /// What a call costs us, in millionths of a US dollar. `delivered` is the size of its image, or
    /// `None` if it made none. `tokens` is what the provider metered. Returns `None` if the numbers
    /// of the provider make no sense: they are too large, or the cost is negative.
    pub fn cost_micros(&self, delivered: Option<Size>, tokens: Tokens) -> Option<i64> {
        let image = delivered.and_then(|size| self.cost.image.get(&size).copied());
        let metered =
            |per_million: i64, tokens: i64| Some(per_million.checked_mul(tokens)? / 1_000_000);
        image
            .unwrap_or(0)
            .checked_add(metered(self.cost.million_input_tokens, tokens.input)?)?
            .checked_add(metered(self.cost.million_thought_tokens, tokens.thought)?)
            .filter(|cost| *cost >= 0)
    }

    /// The model's own lane. The others are fallbacks.
    pub fn lane(&self) -> &Lane {
        &self.lanes[0]
    }

    /// The lanes that a job may use: all of them, or only the first one without `fallback`.
    pub fn lanes(&self, fallback: bool) -> &[Lane] {
        if fallback {
            &self.lanes
        } else {
            &self.lanes[..1]
        }
    }

    /// The model's stage `today`.
    pub fn stage(&self, today: Date) -> Stage {
        match self.days_left(today) {
            Some(..=0) => Stage::ShutDown,
            Some(1..=60) => Stage::Ending,
            _ if self.deprecated.is_some_and(|on| on <= today) => Stage::Deprecated,
            _ => Stage::Current,
        }
    }

    /// Days from `today` until the model is shut down. Zero or negative if it was. `None` if no day
    /// is known.
    pub fn days_left(&self, today: Date) -> Option<i64> {
        Some((self.shut_down? - today).whole_days())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;
    use crate::catalog::Catalog;

    fn model(id: &str) -> Model {
        let catalog = Catalog::load(None, None).unwrap();
        catalog.get(id).unwrap().clone()
    }

    #[test]
    fn the_stage_follows_the_date() {
        let model = model("gemini-2.5-flash-image");
        for (day, stage) in [
            (date!(2026 - 09 - 17), Stage::Current),
            (date!(2026 - 09 - 18), Stage::Deprecated),
            (date!(2027 - 01 - 14), Stage::Ending),
            (date!(2027 - 03 - 14), Stage::Ending),
            (date!(2027 - 03 - 15), Stage::ShutDown),
        ] {
            assert_eq!(model.stage(day), stage, "{day}");
        }
    }

    #[test]
    fn a_refused_call_costs_what_was_metered() {
        let model = model("gemini-3-pro-image");
        let tokens = Tokens {
            input: 1_119,
            thought: 240,
        };
        assert_eq!(model.cost_micros(None, tokens), Some(2_238 + 2_880));
        assert_eq!(
            model.cost_micros(Some(Size::TwoK), Tokens::default()),
            Some(134_000)
        );
        // Numbers that no provider can mean.
        for input in [i64::MAX, -1_000_000_000] {
            let tokens = Tokens { input, thought: 0 };
            assert_eq!(model.cost_micros(None, tokens), None, "{input}");
        }
    }
}
