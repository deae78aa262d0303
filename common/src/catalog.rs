//! The models on offer, as data: `models/*.toml`.
//!
//! The shipped files are compiled in; `PLATEN_MODELS` names a folder that replaces them. Every mistake is
//! named with its file, and none is survived: a catalogue that is half understood would quote half prices.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::Date;
use utoipa::ToSchema;

use crate::credits::{Credits, Quote};
use crate::generation::image::{AspectRatio, MAX_OUTPUTS, Size};
use crate::generation::{Generation, Kind, Violation};

/// The files that ship with Platen. A new file is a line here.
const SHIPPED: &[(&str, &str)] = &[("vertex.toml", include_str!("../../models/vertex.toml"))];

/// Every model on offer, by id.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, Model>,
}

/// One model on offer.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its id, in our API and at its provider.
    pub id: String,
    pub title: String,
    pub kind: Kind,
    pub provider: String,
    /// Where the provider runs it.
    pub location: String,
    pub sizes: Vec<Size>,
    pub ratios: Vec<AspectRatio>,
    pub max_inputs: usize,
    pub max_outputs: u32,
    /// How long one call may take.
    pub timeout: Duration,
    pub announced: Date,
    pub deprecated: Option<Date>,
    pub shut_down: Option<Date>,
    pub successor: Option<String>,
    /// Newest first.
    prices: Vec<Price>,
    /// What the provider charges us for one picture, in millionths of a US dollar.
    cost: BTreeMap<String, i64>,
}

/// What one delivered picture costs, from a day on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// First day it is quoted (UTC); also the price's version.
    #[serde(deserialize_with = "toml_date", serialize_with = "iso_date")]
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    /// Credits by size.
    #[schema(value_type = std::collections::HashMap<String, i64>)]
    pub credits: BTreeMap<String, Credits>,
}

/// A catalogue that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("models/{file}: {problem}")]
pub struct CatalogError {
    file: String,
    problem: String,
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
    /// The shipped catalogue, or the folder's `*.toml` when one is given.
    pub fn load(folder: Option<&Path>) -> Result<Self, CatalogError> {
        let Some(folder) = folder else {
            return Self::parse(
                SHIPPED
                    .iter()
                    .map(|&(file, text)| (file.to_owned(), text.to_owned())),
            );
        };
        let problem = |error: std::io::Error| CatalogError {
            file: folder.display().to_string(),
            problem: format!("cannot be read: {error}"),
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(problem)? {
            let path = entry.map_err(problem)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                files.push((
                    path.display().to_string(),
                    std::fs::read_to_string(&path).map_err(problem)?,
                ));
            }
        }
        files.sort();
        Self::parse(files)
    }

    fn parse(files: impl IntoIterator<Item = (String, String)>) -> Result<Self, CatalogError> {
        let mut models = BTreeMap::new();
        for (file, text) in files {
            let problem = |problem: String| CatalogError {
                file: file.clone(),
                problem,
            };
            let parsed: File = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
            for (id, entry) in parsed.models {
                let model = entry
                    .into_model(id.clone(), &parsed.provider)
                    .map_err(|error| problem(format!("model {id}: {error}")))?;
                if models.insert(id.clone(), model).is_some() {
                    return Err(problem(format!("model {id} is in the catalogue twice")));
                }
            }
        }
        if models.is_empty() {
            return Err(CatalogError {
                file: "*.toml".to_owned(),
                problem: "there is no model in it".to_owned(),
            });
        }
        Ok(Self { models })
    }

    /// All models, by id.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    pub fn get(&self, id: &str) -> Option<&Model> {
        self.models.get(id)
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
        Some((price.from.to_string(), *price.credits.get(size.as_str())?))
    }

    /// The newest price whose day has come.
    pub fn current_price(&self, today: Date) -> Option<&Price> {
        self.prices.iter().find(|price| price.from <= today)
    }

    /// What one picture of this size costs us, in millionths of a US dollar.
    pub fn cost_micros(&self, size: Size) -> Option<i64> {
        self.cost.get(size.as_str()).copied()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    provider: String,
    #[serde(default)]
    models: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    title: String,
    kind: Kind,
    location: String,
    sizes: Vec<Size>,
    ratios: Vec<AspectRatio>,
    max_inputs: usize,
    #[serde(default = "most_outputs")]
    max_outputs: u32,
    timeout_seconds: u64,
    #[serde(deserialize_with = "toml_date")]
    announced: Date,
    #[serde(default, deserialize_with = "optional_toml_date")]
    deprecated: Option<Date>,
    #[serde(default, deserialize_with = "optional_toml_date")]
    shut_down: Option<Date>,
    successor: Option<String>,
    cost_usd_micros: BTreeMap<String, i64>,
    price: Vec<Price>,
}

fn most_outputs() -> u32 {
    MAX_OUTPUTS
}

impl Entry {
    fn into_model(self, id: String, provider: &str) -> Result<Model, String> {
        let mut prices = self.price;
        prices.sort_by_key(|price| std::cmp::Reverse(price.from));
        if prices.is_empty() || self.sizes.is_empty() || self.ratios.is_empty() {
            return Err("needs at least one price, one size and one ratio".to_owned());
        }
        for price in &prices {
            for size in &self.sizes {
                if !price.credits.contains_key(size.as_str()) {
                    return Err(format!(
                        "the price from {} has no credits for {size}",
                        price.from
                    ));
                }
            }
        }
        if !(1..=MAX_OUTPUTS).contains(&self.max_outputs) {
            return Err(format!("max_outputs must be 1 to {MAX_OUTPUTS}"));
        }
        if !(1..=3600).contains(&self.timeout_seconds) {
            return Err("timeout_seconds must be 1 to 3600".to_owned());
        }
        Ok(Model {
            id,
            title: self.title,
            kind: self.kind,
            provider: provider.to_owned(),
            location: self.location,
            sizes: self.sizes,
            ratios: self.ratios,
            max_inputs: self.max_inputs,
            max_outputs: self.max_outputs,
            timeout: Duration::from_secs(self.timeout_seconds),
            announced: self.announced,
            deprecated: self.deprecated,
            shut_down: self.shut_down,
            successor: self.successor,
            prices,
            cost: self.cost_usd_micros,
        })
    }
}

fn from_toml(date: toml::value::Datetime) -> Option<Date> {
    let date = date.date?;
    let month = time::Month::try_from(date.month).ok()?;
    Date::from_calendar_date(i32::from(date.year), month, date.day).ok()
}

fn toml_date<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
    from_toml(toml::value::Datetime::deserialize(deserializer)?)
        .ok_or_else(|| serde::de::Error::custom("expected a date like 2026-10-06"))
}

fn optional_toml_date<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Date>, D::Error> {
    toml_date(deserializer).map(Some)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn iso_date<S: serde::Serializer>(date: &Date, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(date)
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;
    use crate::generation::image::{Format, ImageRequest};

    fn request(size: Size, ratio: AspectRatio, outputs: u32) -> Generation {
        Generation::Image(ImageRequest {
            prompt: "a bottle".to_owned(),
            art_direction: None,
            inputs: Vec::new(),
            aspect_ratio: ratio,
            size,
            outputs,
            format: Format::Png,
            seed: None,
        })
    }

    #[test]
    fn the_shipped_catalogue_is_whole() {
        let catalog = Catalog::load(None).unwrap();
        for model in catalog.models() {
            for &size in &model.sizes {
                assert!(
                    model.price(size, date!(2026 - 11 - 22)).is_some(),
                    "{}",
                    model.id
                );
                assert!(model.cost_micros(size).is_some(), "{}", model.id);
            }
            if let Some(successor) = &model.successor {
                assert!(
                    catalog.get(successor).is_some(),
                    "{} names an unknown successor",
                    model.id
                );
            }
        }
    }

    #[test]
    fn a_quote_is_the_price_of_the_day_times_the_outputs() {
        let catalog = Catalog::load(None).unwrap();
        let quote = catalog
            .quote(
                "gemini-3-pro-image",
                &request(Size::TwoK, AspectRatio::R4x5, 3),
                date!(2026 - 11 - 22),
            )
            .unwrap();
        assert_eq!(
            (quote.hold().unwrap().get(), quote.price_version.as_str()),
            (72, "2026-05-28")
        );
    }

    #[test]
    fn what_a_model_cannot_do_is_said() {
        let catalog = Catalog::load(None).unwrap();
        let today = date!(2026 - 11 - 22);
        let refused = |id: &str, generation| catalog.quote(id, &generation, today).unwrap_err();
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
        let catalog = Catalog::load(None).unwrap();
        let error = catalog
            .offered("gemini-2.5-flash-image", date!(2027 - 03 - 15))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "gemini-2.5-flash-image was shut down on 2027-03-15; its successor is gemini-nano-banana-2.1"
        );
    }

    #[test]
    fn a_mistake_names_its_file() {
        let error = Catalog::parse([(
            "mine.toml".to_owned(),
            "provider = 'x'\n[models.y]\ncolour = 1".to_owned(),
        )])
        .unwrap_err();
        assert!(
            error.to_string().starts_with("models/mine.toml: "),
            "{error}"
        );
    }
}
