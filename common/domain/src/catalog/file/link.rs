//! What must be true of models together: successors and fallbacks that other files may name.

use super::entry::Fallback;
use super::rules::is_name;
use super::{CatalogError, CatalogReader, ModelReference};
use crate::catalog::{Catalog, Lane};
use crate::outcome::table::Dialect;

impl CatalogReader {
    /// Adds the fallback lanes, and makes the checks that are possible only after all files have
    /// been read. Returns the catalogue if there is no mistake.
    pub(super) fn finish(mut self) -> Result<Catalog, CatalogError> {
        for ModelReference {
            place,
            model,
            role,
            other,
        } in &self.references
        {
            if !self.catalog.models.contains_key(other) {
                self.mistakes.push(format!(
                    "{place}: model {model}: there is no {role} {other}"
                ));
            }
        }
        for (id, fallback, place) in std::mem::take(&mut self.fallbacks) {
            if let Err(problem) = self.add_fallback(&id, fallback) {
                self.mistakes
                    .push(format!("{place}: model {id}: {problem}"));
            }
        }
        if self.catalog.models.is_empty() && self.mistakes.is_empty() {
            self.mistakes.push(
                "the catalogue has no model: the folder has no *.toml file with a model".to_owned(),
            );
        }
        if self.mistakes.is_empty() {
            Ok(self.catalog)
        } else {
            let mistakes = self.mistakes.iter();
            Err(CatalogError(
                mistakes.map(|mistake| on_one_line(mistake)).collect(),
            ))
        }
    }

    /// Adds a fallback lane to the model with this id.
    ///
    /// # Errors
    /// Returns what is wrong with the fallback, in words.
    pub(super) fn add_fallback(&mut self, id: &str, fallback: Fallback) -> Result<(), String> {
        // A model with a mistake is not in the catalogue. Its mistake is reported already.
        let Some(model) = self.catalog.models.get(id) else {
            return Ok(());
        };
        let own = model.lanes[0].clone();
        let is_vertex = self
            .catalog
            .providers
            .get(&own.provider)
            .is_some_and(|provider| provider.dialect == Dialect::Vertex);
        let lane = match fallback {
            Fallback::Location(_) | Fallback::Project(_) if !is_vertex => {
                return Err(
                    "a fallback to a location or project needs the dialect vertex".to_owned(),
                );
            }
            Fallback::Location(location) if is_name(&location) => Lane { location, ..own },
            Fallback::Location(location) => {
                return Err(format!("{location:?} is not a location"));
            }
            Fallback::Project(project) if is_name(&project) => Lane {
                project: Some(project),
                ..own
            },
            Fallback::Project(project) => {
                return Err(format!("{project:?} is not a project"));
            }
            Fallback::Model(name) => {
                let other = (self.catalog.models.get(&name))
                    .ok_or_else(|| format!("there is no model {name} to fall back to"))?;
                // A job that was checked against its own model must also be valid for the fallback.
                let is_equivalent = other.kind == model.kind
                    && model.sizes.iter().all(|size| other.sizes.contains(size))
                    && model
                        .ratios
                        .iter()
                        .all(|ratio| other.ratios.contains(ratio))
                    && other.max_inputs >= model.max_inputs
                    && other.max_input_bytes >= model.max_input_bytes;
                if !is_equivalent {
                    return Err(format!(
                        "{name} cannot be a fallback: it must have the same kind, and every size, ratio and input limit"
                    ));
                }
                other.lanes[0].clone()
            }
        };
        let lanes = &mut self
            .catalog
            .models
            .get_mut(id)
            .expect("the model was found above")
            .lanes;
        if lanes.contains(&lane) {
            return Err(format!("{lane} is listed twice"));
        }
        lanes.push(lane);
        Ok(())
    }
}

/// The mistake with its control characters escaped. A mistake quotes the file, whose texts may have
/// line ends.
fn on_one_line(mistake: &str) -> String {
    let mut line = String::with_capacity(mistake.len());
    for letter in mistake.chars() {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}
