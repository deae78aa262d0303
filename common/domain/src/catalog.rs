//! The models on offer, as data: `models/*.toml`.
//!
//! The shipped files are compiled in; `PLATEN_MODELS` names a folder that replaces them, `PLATEN_PROVIDERS` says
//! which of their providers are used. [`mod@file`] reads them: every mistake is named with its file and line, and
//! none is survived: a catalogue that is half understood would quote half prices.

mod file;
mod lane;
pub mod lifecycle;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::Date;
use utoipa::ToSchema;

use crate::credits::{Credits, Quote};
use crate::generation::image::{AspectRatio, Pixels, Size};
use crate::generation::{Generation, Kind, Violation};
use crate::outcome::table::Dialect;

pub use file::CatalogError;
pub use lane::{InvalidLane, Lane};

/// The files that ship with Platen. A new file is a line here.
const SHIPPED: &[(&str, &str)] = &[
    ("vertex.toml", include_str!("../../../models/vertex.toml")),
    ("gemini.toml", include_str!("../../../models/gemini.toml")),
    (
        "interactions.toml",
        include_str!("../../../models/interactions.toml"),
    ),
    ("openai.toml", include_str!("../../../models/openai.toml")),
];

/// Every model on offer, by id, and who runs them.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, Model>,
    providers: BTreeMap<String, Provider>,
}

/// Who runs models, and how they are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    pub name: String,
    pub dialect: Dialect,
    /// Replaces the dialect's own address: for proxies, and for servers of one's own.
    pub base_url: Option<String>,
    /// The environment variable that holds the key; the dialect says what happens without one.
    pub api_key: Option<String>,
}

/// One model on offer.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its id in our API.
    pub id: String,
    /// What its provider calls it.
    pub name: String,
    pub title: String,
    pub kind: Kind,
    /// Where it may be called, in this order. The first is its own; the others are fallbacks, which a job's
    /// owner can forbid.
    pub lanes: Vec<Lane>,
    pub sizes: Vec<Size>,
    pub ratios: Vec<AspectRatio>,
    pub max_inputs: usize,
    /// Largest single input, in bytes.
    pub max_input_bytes: usize,
    pub max_outputs: u32,
    /// How long one call may take.
    pub timeout: Duration,
    pub announced: Date,
    pub deprecated: Option<Date>,
    pub shut_down: Option<Date>,
    pub successor: Option<String>,
    /// Levels of thinking it knows, the least first.
    pub thinking: Vec<String>,
    /// Pixels the provider takes, where it does not take any; the nearest shape is asked for.
    pub pixels: Vec<Pixels>,
    /// Whether it takes a seed.
    pub takes_seed: bool,
    /// Fields sent as they are, for servers that differ from their dialect in small ways.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Newest first.
    prices: Vec<Price>,
    cost: ProviderCost,
}

/// What the provider charges us, in millionths of a US dollar.
#[derive(Clone, Debug, Default)]
struct ProviderCost {
    /// For one picture, by size.
    picture: BTreeMap<Size, i64>,
    /// For a million tokens of input, and of thought and text.
    input: i64,
    thought: i64,
}

/// What a provider metered, of what it may charge besides the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: i64,
    /// Thoughts and text.
    pub thought: i64,
}

/// What one delivered picture costs, from a day on.
#[derive(Clone, Debug)]
pub struct Price {
    /// First day it is quoted (UTC); also the price's version.
    pub from: Date,
    pub credits: BTreeMap<Size, Credits>,
}

/// What a day means for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// On offer.
    Current,
    /// On offer, and its provider would rather it were not used any more.
    Deprecated,
    /// On offer for another sixty days at most.
    Ending,
    /// Not on offer any more.
    ShutDown,
}

/// Why a request cannot be quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOffered {
    #[error("there is no model {0:?}: GET /v1/models lists those there are")]
    UnknownModel(String),
    #[error("{model} was shut down on {on}{}", successor.as_ref().map_or_else(String::new, |name| format!("; its successor is {name}")))]
    ShutDown {
        model: String,
        on: Date,
        successor: Option<String>,
    },
    #[error("the request does not fit the model")]
    Violations(Vec<Violation>),
}

impl Catalog {
    /// The shipped catalogue, or the folder's `*.toml` when one is given; of it, the models of `providers`, or all.
    pub fn load(folder: Option<&Path>, providers: Option<&[String]>) -> Result<Self, CatalogError> {
        let catalog = match folder {
            Some(folder) => file::read(file::in_folder(folder)?)?,
            None => file::read(
                SHIPPED
                    .iter()
                    .map(|&(file, text)| (file.to_owned(), text.to_owned())),
            )?,
        };
        catalog.only(providers)
    }

    /// Without the models and lanes of other providers.
    fn only(mut self, providers: Option<&[String]>) -> Result<Self, CatalogError> {
        let Some(wanted) = providers else {
            return Ok(self);
        };
        for name in wanted {
            if !self.providers.contains_key(name) {
                let known: Vec<&str> = self.providers.keys().map(String::as_str).collect();
                return Err(CatalogError::no_such_provider(name, &known));
            }
        }
        self.providers.retain(|name, _| wanted.contains(name));
        self.models
            .retain(|_, model| wanted.contains(&model.lanes[0].provider));
        for model in self.models.values_mut() {
            model.lanes.retain(|lane| wanted.contains(&lane.provider));
        }
        Ok(self)
    }

    /// All models, by id.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    pub fn get(&self, id: &str) -> Option<&Model> {
        self.models.get(id)
    }

    /// Everyone who runs one of the models, by name.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.providers.values()
    }

    /// How the provider of a lane is spoken to.
    pub fn dialect(&self, lane: &Lane) -> Option<Dialect> {
        self.providers.get(&lane.provider).map(|one| one.dialect)
    }

    /// The model if it may be asked today.
    pub fn offered(&self, id: &str, today: Date) -> Result<&Model, NotOffered> {
        let model = self
            .get(id)
            .ok_or_else(|| NotOffered::UnknownModel(id.to_owned()))?;
        match model.shut_down {
            Some(on) if on <= today => Err(NotOffered::ShutDown {
                model: id.to_owned(),
                on,
                successor: model.successor.clone(),
            }),
            _ => Ok(model),
        }
    }

    /// The model, or where it was shut down the nearest successor that may be asked today.
    pub fn offered_or_successor(&self, id: &str, today: Date) -> Result<&Model, NotOffered> {
        let refused = match self.offered(id, today) {
            Ok(model) => return Ok(model),
            Err(refused) => refused,
        };
        let successors =
            std::iter::successors(self.get(id), |model| self.get(model.successor.as_deref()?));
        // Each model can be its own successor's successor; nobody's line is longer than the catalogue.
        successors
            .take(self.models.len())
            .find(|model| model.stage(today) != Stage::ShutDown)
            .ok_or(refused)
    }

    /// What the request will cost at most, if the model can do it at all.
    pub fn quote(
        &self,
        id: &str,
        generation: &Generation,
        today: Date,
    ) -> Result<Quote, NotOffered> {
        let model = self.offered(id, today)?;
        let Generation::Image(request) = generation;
        let violations = request.violations(model);
        if !violations.is_empty() {
            return Err(NotOffered::Violations(violations));
        }
        let (price_version, unit_price) = model.price(request.size, today).ok_or_else(|| {
            NotOffered::Violations(vec![Violation::new(
                "/size",
                format!("{id} has no price for {} today", request.size),
            )])
        })?;
        Ok(Quote {
            unit_price,
            price_version,
            outputs: request.outputs,
        })
    }
}

impl Model {
    /// The price in force on a day: its version and the credits for one picture.
    pub fn price(&self, size: Size, today: Date) -> Option<(String, Credits)> {
        let price = self.current_price(today)?;
        Some((price.from.to_string(), *price.credits.get(&size)?))
    }

    /// The newest price whose day has come.
    pub fn current_price(&self, today: Date) -> Option<&Price> {
        self.prices.iter().find(|price| price.from <= today)
    }

    /// What a call may cost us, in millionths of a US dollar: `delivered` is the size of the picture it gave. `None` where a
    /// provider says that it metered more than can be counted, or less than nothing.
    pub fn cost_micros(&self, delivered: Option<Size>, tokens: Tokens) -> Option<i64> {
        let picture = delivered.and_then(|size| self.cost.picture.get(&size).copied());
        let metered = |price: i64, tokens: i64| Some(price.checked_mul(tokens)? / 1_000_000);
        picture
            .unwrap_or(0)
            .checked_add(metered(self.cost.input, tokens.input)?)?
            .checked_add(metered(self.cost.thought, tokens.thought)?)
            .filter(|cost| *cost >= 0)
    }

    /// Its own lane; the others are fallbacks.
    pub fn lane(&self) -> &Lane {
        &self.lanes[0]
    }

    /// The lanes a job may use.
    pub fn lanes(&self, fallback: bool) -> &[Lane] {
        if fallback {
            &self.lanes
        } else {
            &self.lanes[..1]
        }
    }

    /// Where it stands in its life on a day.
    pub fn stage(&self, today: Date) -> Stage {
        match self.days_left(today) {
            Some(..=0) => Stage::ShutDown,
            Some(1..=60) => Stage::Ending,
            _ if self.deprecated.is_some_and(|on| on <= today) => Stage::Deprecated,
            _ => Stage::Current,
        }
    }

    /// Days until it is shut down, where that is known.
    pub fn days_left(&self, today: Date) -> Option<i64> {
        Some((self.shut_down? - today).whole_days())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;
    use crate::generation::image::{Format, ImageRequest, Rendering};

    const TODAY: Date = date!(2026 - 11 - 22);

    fn catalog() -> Catalog {
        Catalog::load(None, None).unwrap()
    }

    fn request(size: Size, ratio: AspectRatio, outputs: u32) -> Generation {
        Generation::Image(ImageRequest {
            prompt: "a bottle".to_owned(),
            art_direction: None,
            inputs: Vec::new(),
            aspect_ratio: ratio,
            size,
            outputs,
            format: Format::Png,
            rendering: Rendering::default(),
            seed: None,
        })
    }

    #[test]
    fn the_shipped_catalogue_is_whole() {
        let catalog = catalog();
        for dialect in Dialect::ALL {
            let spoken = catalog.providers().any(|one| one.dialect == dialect);
            assert!(spoken, "nobody who ships speaks {dialect:?}");
        }
        for model in catalog.models() {
            for &size in &model.sizes {
                assert!(model.price(size, TODAY).is_some(), "{}", model.id);
                let cost = model.cost_micros(Some(size), Tokens::default());
                assert!(cost > Some(0), "{}", model.id);
            }
        }
    }

    #[test]
    fn only_the_providers_that_are_wanted_are_offered() {
        let wanted = ["openai".to_owned()];
        let catalog = Catalog::load(None, Some(&wanted)).unwrap();
        assert!(
            catalog
                .models()
                .all(|model| model.lane().provider == "openai")
        );
        assert!(catalog.models().count() > 0);
        let error = Catalog::load(None, Some(&["opnai".to_owned()])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "PLATEN_PROVIDERS names opnai; there are gemini, interactions, openai, vertex"
        );
    }

    #[test]
    fn a_quote_is_the_price_of_the_day_times_the_outputs() {
        let quote = catalog()
            .quote(
                "gemini-3-pro-image",
                &request(Size::TwoK, AspectRatio::R4x5, 3),
                TODAY,
            )
            .unwrap();
        assert_eq!(
            (quote.hold().unwrap().get(), quote.price_version.as_str()),
            (72, "2026-05-28")
        );
    }

    #[test]
    fn what_a_model_cannot_do_is_said() {
        let catalog = catalog();
        let refused = |id: &str, generation| catalog.quote(id, &generation, TODAY).unwrap_err();
        assert!(matches!(
            refused("dall-e", request(Size::OneK, AspectRatio::Square, 1)),
            NotOffered::UnknownModel(_)
        ));
        let NotOffered::Violations(found) = refused(
            "gemini-3.1-flash-lite-image",
            request(Size::TwoK, AspectRatio::Square, 9),
        ) else {
            panic!("expected violations")
        };
        let pointers: Vec<&str> = found
            .iter()
            .map(|violation| violation.pointer.as_str())
            .collect();
        assert_eq!(pointers, ["/outputs", "/size"]);
        let NotOffered::Violations(found) = refused(
            "gemini-3-pro-image",
            request(Size::OneK, AspectRatio::R1x8, 1),
        ) else {
            panic!("expected violations")
        };
        assert_eq!(found[0].pointer, "/aspect_ratio");
    }

    #[test]
    fn a_model_that_was_shut_down_names_its_successor() {
        let (catalog, late) = (catalog(), date!(2027 - 03 - 15));
        let error = catalog.offered("gemini-2.5-flash-image", late).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gemini-2.5-flash-image was shut down on 2027-03-15; its successor is gemini-nano-banana-2.1"
        );
        let successor = catalog.offered_or_successor("gemini-2.5-flash-image", late);
        assert_eq!(successor.unwrap().id, "gemini-nano-banana-2.1");
    }

    #[test]
    fn a_model_ages_by_the_day() {
        let catalog = catalog();
        let model = catalog.get("gemini-2.5-flash-image").unwrap();
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
        let catalog = catalog();
        let model = catalog.get("gemini-3-pro-image").unwrap();
        let tokens = Tokens {
            input: 1_119,
            thought: 240,
        };
        assert_eq!(model.cost_micros(None, tokens), Some(2_238 + 2_880));
        assert_eq!(
            model.cost_micros(Some(Size::TwoK), Tokens::default()),
            Some(134_000)
        );
        // What a provider says that nobody can mean.
        for input in [i64::MAX, -1_000_000_000] {
            let tokens = Tokens { input, thought: 0 };
            assert_eq!(model.cost_micros(None, tokens), None, "{input}");
        }
    }
}
