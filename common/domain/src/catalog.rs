//! The catalogue: the models and their providers, read from `models/*.toml`.
//!
//! The shipped files are compiled into the program. `PLATEN_MODELS` names a folder that replaces
//! them, and `PLATEN_PROVIDERS` selects some of their providers. [`mod@file`] reads the files. It
//! reports every mistake with its file and line, and a catalogue with a mistake is not used at all:
//! it could quote wrong prices.

mod file;
mod lane;
pub mod lifecycle;
mod model;
mod violations;

use std::collections::BTreeMap;
use std::path::Path;

use time::Date;

use crate::credits::Quote;
use crate::generation::{Generation, Violation};
use crate::outcome::table::Dialect;

pub use file::CatalogError;
pub use lane::{InvalidLane, Lane};
pub use model::{Concurrency, Model, Price, Stage, Tokens};

/// The files that ship with Platen. Add a line here for a new file.
const SHIPPED: &[(&str, &str)] = &[
    ("vertex.toml", include_str!("../../../models/vertex.toml")),
    ("gemini.toml", include_str!("../../../models/gemini.toml")),
    (
        "interactions.toml",
        include_str!("../../../models/interactions.toml"),
    ),
    ("openai.toml", include_str!("../../../models/openai.toml")),
];

/// Every model and every provider, by name. Models that were shut down stay, so that their jobs can
/// still be read and their successors found.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, Model>,
    providers: BTreeMap<String, Provider>,
}

/// A provider: who runs models, and how to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name in lanes and metrics.
    pub name: String,
    /// The wire format that it understands.
    pub dialect: Dialect,
    /// Address of the server. `None`: the dialect's default. Set it for a proxy or for your own
    /// server.
    pub base_url: Option<String>,
    /// Name of the environment variable that holds the API key. The dialect decides what happens
    /// without one.
    pub api_key: Option<String>,
}

/// Why a request cannot be quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOffered {
    /// The catalogue has no such model.
    #[error("there is no model {0:?}: GET /v1/models lists all models")]
    UnknownModel(String),
    /// The model was shut down.
    #[error("{model} was shut down on {on}{}", successor.as_ref().map_or_else(String::new, |name| format!("; its successor is {name}")))]
    ShutDown {
        /// The model.
        model: String,
        /// First day on which it is not offered.
        on: Date,
        /// The model that replaces it.
        successor: Option<String>,
    },
    /// The model cannot do what the request asks for.
    #[error("the request does not fit the model")]
    Violations(Vec<Violation>),
}

impl Catalog {
    /// Reads the shipped catalogue, or all `*.toml` files of `folder` if one is given. If
    /// `providers` are given, only their models are kept.
    ///
    /// # Errors
    /// A file cannot be read or has mistakes, or the catalogue has no such provider.
    pub fn load(folder: Option<&Path>, providers: Option<&[String]>) -> Result<Self, CatalogError> {
        let catalog = match folder {
            Some(folder) => file::read(file::read_folder(folder)?)?,
            None => file::read(
                SHIPPED
                    .iter()
                    .map(|&(file, text)| (file.to_owned(), text.to_owned())),
            )?,
        };
        catalog.retain_providers(providers)
    }

    /// Removes the models and lanes of all other providers. `None` keeps everything.
    fn retain_providers(mut self, providers: Option<&[String]>) -> Result<Self, CatalogError> {
        let Some(wanted) = providers else {
            return Ok(self);
        };
        for name in wanted {
            if !self.providers.contains_key(name) {
                let known: Vec<&str> = self.providers.keys().map(String::as_str).collect();
                return Err(CatalogError::unknown_provider(name, &known));
            }
        }
        self.providers.retain(|name, _| wanted.contains(name));
        // A model whose own lane is gone is dropped, even if a fallback would be left: the first
        // lane sets its price and its limits.
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

    /// The model with this id, whether it is on offer or not.
    pub fn get(&self, id: &str) -> Option<&Model> {
        self.models.get(id)
    }

    /// All providers, by name.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.providers.values()
    }

    /// Dialect of a lane's provider. `None` if the catalogue has no such provider.
    pub fn dialect(&self, lane: &Lane) -> Option<Dialect> {
        self.providers.get(&lane.provider).map(|one| one.dialect)
    }

    /// The model, if it is on offer `today`.
    ///
    /// # Errors
    /// There is no such model, or it was shut down.
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

    /// The model, or the first of its successors that is on offer `today`, if it was shut down.
    ///
    /// # Errors
    /// There is no such model, or it and all of its successors were shut down.
    pub fn offered_or_successor(&self, id: &str, today: Date) -> Result<&Model, NotOffered> {
        let refused = match self.offered(id, today) {
            Ok(model) => return Ok(model),
            Err(refused) => refused,
        };
        let successors =
            std::iter::successors(self.get(id), |model| self.get(model.successor.as_deref()?));
        // Successors can form a cycle, so the search stops after as many steps as there are models.
        successors
            .take(self.models.len())
            .find(|model| model.stage(today) != Stage::ShutDown)
            .ok_or(refused)
    }

    /// The most that the request will cost.
    ///
    /// # Errors
    /// The model is not on offer, the request is not valid or asks for something that the model cannot
    /// do, or the model has no price today.
    pub fn quote(
        &self,
        id: &str,
        generation: &Generation,
        today: Date,
    ) -> Result<Quote, NotOffered> {
        let model = self.offered(id, today)?;
        let Generation::Image(request) = generation;
        let violations = violations::of_image(request, model);
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

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;
    use crate::generation::image::{AspectRatio, Format, ImageRequest, Rendering, Size};

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
    fn the_shipped_catalogue_has_every_dialect_and_price() {
        let catalog = catalog();
        for &dialect in Dialect::ALL {
            let is_used = catalog.providers().any(|one| one.dialect == dialect);
            assert!(is_used, "no shipped provider uses {dialect:?}");
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
    fn only_selected_providers_are_offered() {
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
            "PLATEN_PROVIDERS names opnai, which is not in the catalogue; choose from gemini, interactions, openai, vertex"
        );
    }

    #[test]
    fn a_quote_is_todays_price_times_the_outputs() {
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
    fn every_violation_is_reported() {
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
    fn a_retired_model_names_its_successor() {
        let (catalog, late) = (catalog(), date!(2027 - 03 - 15));
        let error = catalog.offered("gemini-2.5-flash-image", late).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gemini-2.5-flash-image was shut down on 2027-03-15; its successor is gemini-nano-banana-2.1"
        );
        let successor = catalog.offered_or_successor("gemini-2.5-flash-image", late);
        assert_eq!(successor.unwrap().id, "gemini-nano-banana-2.1");
    }
}
