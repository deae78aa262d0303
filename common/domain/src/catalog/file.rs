//! Reads the catalogue's files and reports every mistake in them.
//!
//! Each model is read on its own, so a mistake in one model does not hide a mistake in another.
//! What needs all files, such as a successor in another file, is checked at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use time::Date;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Catalog, Lane, Model, Price, Provider, ProviderCost};
use crate::credits::Credits;
use crate::generation::Kind;
use crate::generation::image::{AspectRatio, MAX_INPUT_BYTES, MAX_OUTPUTS, Pixels, Size};
use crate::outcome::table::Dialect;

/// All mistakes in a catalogue, one per line. A catalogue with a mistake is not used.
#[derive(Debug, PartialEq, Eq)]
pub struct CatalogError(Vec<String>);

impl std::error::Error for CatalogError {}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl CatalogError {
    /// `PLATEN_PROVIDERS` names a provider that is not in the catalogue.
    pub(super) fn unknown_provider(name: &str, known: &[&str]) -> Self {
        let known = known.join(", ");
        Self(vec![format!(
            "PLATEN_PROVIDERS names {name}, which is not in the catalogue; choose from {known}"
        )])
    }
}

/// Name and text of each `*.toml` file of a folder, sorted by name.
pub(super) fn read_folder(
    folder: &Path,
) -> Result<impl Iterator<Item = (String, String)> + use<>, CatalogError> {
    let unreadable = |path: &Path, error: std::io::Error| {
        CatalogError(vec![format!("{} cannot be read: {error}", path.display())])
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            files.push((path.display().to_string(), text));
        }
    }
    files.sort();
    Ok(files.into_iter())
}

/// Reads all files into one catalogue. They are read together, because a successor or a fallback
/// may be in another file.
pub(super) fn read(
    files: impl IntoIterator<Item = (String, String)>,
) -> Result<Catalog, CatalogError> {
    let mut reader = CatalogReader::default();
    for (file, text) in files {
        ModelFile {
            file: &file,
            text: &text,
        }
        .read(&mut reader);
    }
    reader.finish()
}

/// What was read so far, and the mistakes in it.
#[derive(Default)]
struct CatalogReader {
    catalog: Catalog,
    mistakes: Vec<String>,
    /// Models that another model names. Checked when all files are read.
    named: Vec<NamedModel>,
    /// Model, fallback and place, in the order of the files.
    fallbacks: Vec<(String, Fallback, String)>,
}

/// One model names another one.
struct NamedModel {
    /// File and line.
    place: String,
    /// The model that names the other.
    model: String,
    /// What the other is to it.
    role: &'static str,
    /// The other model.
    names: String,
}

/// One file. It knows how to say where a mistake is.
struct ModelFile<'a> {
    file: &'a str,
    text: &'a str,
}

/// A model as it is written in a file. `Spanned` keeps the place of a value for its mistakes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    title: String,
    kind: Kind,
    name: Option<String>,
    location: Option<Spanned<String>>,
    sizes: Spanned<Vec<Size>>,
    ratios: Spanned<Vec<AspectRatio>>,
    max_inputs: usize,
    max_input_bytes: Option<Spanned<usize>>,
    max_outputs: Option<Spanned<u32>>,
    timeout_seconds: Spanned<u64>,
    announced: Day,
    deprecated: Option<Spanned<Day>>,
    shut_down: Option<Spanned<Day>>,
    successor: Option<Spanned<String>>,
    #[serde(default)]
    fallbacks: Vec<Spanned<Fallback>>,
    #[serde(default)]
    thinking: Vec<String>,
    #[serde(default)]
    pixels: Vec<Spanned<String>>,
    #[serde(default)]
    seed: bool,
    #[serde(default)]
    extra: serde_json::Map<String, serde_json::Value>,
    cost_usd_micros: Spanned<BTreeMap<Size, i64>>,
    cost_usd_micros_per_million_tokens: Option<Spanned<TokenCost>>,
    price: Spanned<Vec<Spanned<PriceEntry>>>,
}

/// What a fallback changes of the model's own lane. Exactly one of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Fallback {
    Location(String),
    Project(String),
    Model(String),
}

/// Cost of a million tokens, in millionths of a US dollar.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenCost {
    input: i64,
    thought: i64,
}

/// A price and the first day it is in force.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceEntry {
    from: Day,
    credits: BTreeMap<Size, Credits>,
}

/// A TOML date without a time.
#[derive(Clone, Copy)]
struct Day(Date);

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

impl ModelFile<'_> {
    /// Adds the provider and the models of this file to the catalogue.
    fn read(&self, reader: &mut CatalogReader) {
        let table = match DeTable::parse(self.text) {
            Ok(table) => table.into_inner(),
            Err(error) => return reader.mistakes.push(self.syntax_error("", &error)),
        };
        let (provider, models) = self.read_top_level(table, &mut reader.mistakes);
        for (id, entry) in models.into_iter().flatten() {
            let at = id.span().start;
            let id = id.get_ref().as_ref().to_owned();
            match ModelEntry::deserialize(ValueDeserializer::from(entry)) {
                Ok(entry) => self.add_model(at, &id, entry, &provider, reader),
                Err(error) => {
                    let prefix = format!("model {id}: ");
                    reader.mistakes.push(match error.span() {
                        Some(_) => self.syntax_error(&prefix, &error),
                        None => self.at(at, &format!("{prefix}{}", error.message())),
                    });
                }
            }
        }
        // Two files may share a provider, but then they must describe it the same way.
        let name = provider.name.clone();
        if let Some(other) = reader.catalog.providers.insert(name, provider.clone())
            && other != provider
        {
            let conflict = format!(
                "provider {} is described differently in another file",
                provider.name
            );
            reader.mistakes.push(self.at(0, &conflict));
        }
    }

    /// Reads the keys outside of the models. Returns the provider, and the models' tables if there
    /// are any.
    fn read_top_level<'a>(
        &self,
        table: DeTable<'a>,
        mistakes: &mut Vec<String>,
    ) -> (Provider, Option<DeTable<'a>>) {
        let mut provider = Provider {
            name: String::new(),
            dialect: Dialect::Vertex,
            base_url: None,
            api_key: None,
        };
        let mut dialect = None;
        let mut models = None;
        for (key, value) in table {
            let at = key.span().start;
            let mut text = |value: Spanned<DeValue<'_>>| match value.into_inner() {
                DeValue::String(text) if !text.is_empty() => Some(text.into_owned()),
                _ => {
                    let mistake = format!("{} must be a non-empty string", key.get_ref());
                    mistakes.push(self.at(at, &mistake));
                    None
                }
            };
            match key.get_ref().as_ref() {
                "provider" => provider.name = text(value).unwrap_or_default(),
                "base_url" => provider.base_url = text(value),
                "api_key" => provider.api_key = text(value),
                "dialect" => match Dialect::deserialize(ValueDeserializer::from(value)) {
                    Ok(known) => dialect = Some(known),
                    Err(error) => mistakes.push(self.syntax_error("", &error)),
                },
                "models" => match value.into_inner() {
                    DeValue::Table(tables) => models = Some(tables),
                    _ => mistakes.push(self.at(at, "models must be tables: [models.<id>]")),
                },
                other => mistakes.push(self.at(
                    at,
                    &format!(
                        "unknown key {other}: use provider, dialect, base_url, api_key or models"
                    ),
                )),
            }
        }
        if !is_name(&provider.name) {
            let missing = "needs provider = \"…\": up to 63 letters, digits, - and _";
            mistakes.push(self.at(0, missing));
        }
        match dialect {
            Some(dialect) => provider.dialect = dialect,
            None => mistakes.push(self.at(
                0,
                "needs dialect = \"vertex\", \"gemini\", \"interactions\" or \"openai\"",
            )),
        }
        (provider, models)
    }

    /// Checks one model, and adds it to the catalogue if it has no mistake. `at` is where its table
    /// begins.
    fn add_model(
        &self,
        at: usize,
        id: &str,
        entry: ModelEntry,
        provider: &Provider,
        reader: &mut CatalogReader,
    ) {
        let before = reader.mistakes.len();
        let mut mistakes = ModelMistakes {
            file: self,
            id,
            found: &mut reader.mistakes,
        };
        entry.check_limits(at, &mut mistakes);
        entry.check_dialect(at, provider.dialect, &mut mistakes);
        let location = entry.location(at, provider.dialect, &mut mistakes);
        let pixels = entry.pixels(&mut mistakes);
        entry.check_costs(&mut mistakes);
        let prices = entry.prices(&mut mistakes);
        entry.check_dates(&mut mistakes);
        if reader.catalog.models.contains_key(id) {
            mistakes.add(at, "is in the catalogue twice");
        }
        if reader.mistakes.len() > before {
            return;
        }

        if let Some(successor) = &entry.successor {
            reader.named.push(NamedModel {
                place: self.place(successor.span().start),
                model: id.to_owned(),
                role: "successor",
                names: successor.get_ref().clone(),
            });
        }
        for fallback in entry.fallbacks {
            let place = self.place(fallback.span().start);
            reader
                .fallbacks
                .push((id.to_owned(), fallback.into_inner(), place));
        }
        let tokens = entry
            .cost_usd_micros_per_million_tokens
            .map(Spanned::into_inner);
        let model = Model {
            id: id.to_owned(),
            name: entry.name.unwrap_or_else(|| id.to_owned()),
            title: entry.title,
            kind: entry.kind,
            lanes: vec![Lane {
                provider: provider.name.clone(),
                project: None,
                location,
                model: id.to_owned(),
            }],
            sizes: entry.sizes.into_inner(),
            ratios: entry.ratios.into_inner(),
            max_inputs: entry.max_inputs,
            max_input_bytes: entry
                .max_input_bytes
                .map_or(MAX_INPUT_BYTES, Spanned::into_inner),
            max_outputs: entry.max_outputs.map_or(MAX_OUTPUTS, Spanned::into_inner),
            timeout: Duration::from_secs(entry.timeout_seconds.into_inner()),
            announced: entry.announced.0,
            deprecated: entry.deprecated.map(|day| day.into_inner().0),
            shut_down: entry.shut_down.map(|day| day.into_inner().0),
            successor: entry.successor.map(Spanned::into_inner),
            thinking: entry.thinking,
            pixels,
            takes_seed: entry.seed,
            extra: entry.extra,
            prices,
            cost: ProviderCost {
                image: entry.cost_usd_micros.into_inner(),
                million_input_tokens: tokens.as_ref().map_or(0, |tokens| tokens.input),
                million_thought_tokens: tokens.as_ref().map_or(0, |tokens| tokens.thought),
            },
        };
        reader.catalog.models.insert(id.to_owned(), model);
    }

    /// The message of a TOML error, with its line.
    fn syntax_error(&self, prefix: &str, error: &toml::de::Error) -> String {
        let at = error.span().map_or(0, |span| span.start);
        self.at(at, &format!("{prefix}{}", error.message()))
    }

    /// A problem, with the line of this byte.
    fn at(&self, byte: usize, problem: &str) -> String {
        format!("{}: {problem}", self.place(byte))
    }

    /// File and line of this byte, such as `models/vertex.toml:12`.
    fn place(&self, byte: usize) -> String {
        let line = self.text.bytes().take(byte).filter(|&b| b == b'\n').count() + 1;
        let folder = if self.file.contains('/') {
            ""
        } else {
            "models/"
        };
        format!("{folder}{}:{line}", self.file)
    }
}

/// Collects the mistakes of one model.
struct ModelMistakes<'a> {
    file: &'a ModelFile<'a>,
    id: &'a str,
    found: &'a mut Vec<String>,
}

impl ModelMistakes<'_> {
    /// Adds a problem at this byte of the file.
    fn add(&mut self, at: usize, problem: &str) {
        let problem = format!("model {}: {problem}", self.id);
        self.found.push(self.file.at(at, &problem));
    }
}

impl ModelEntry {
    fn check_limits(&self, at: usize, mistakes: &mut ModelMistakes<'_>) {
        let id = mistakes.id;
        if id.is_empty() || id.len() > 100 || !is_model_name(id) {
            mistakes.add(at, "an id has up to 100 letters, digits, dots, - and _");
        }
        if self.sizes.get_ref().is_empty() {
            mistakes.add(self.sizes.span().start, "needs at least one size");
        }
        if self.ratios.get_ref().is_empty() {
            mistakes.add(self.ratios.span().start, "needs at least one ratio");
        }
        if !(1..=3600).contains(self.timeout_seconds.get_ref()) {
            mistakes.add(
                self.timeout_seconds.span().start,
                "timeout_seconds must be 1 to 3600",
            );
        }
        if let Some(outputs) = &self.max_outputs
            && !(1..=MAX_OUTPUTS).contains(outputs.get_ref())
        {
            mistakes.add(
                outputs.span().start,
                &format!("max_outputs must be 1 to {MAX_OUTPUTS}"),
            );
        }
        if let Some(bytes) = &self.max_input_bytes
            && !(1..=MAX_INPUT_BYTES).contains(bytes.get_ref())
        {
            mistakes.add(
                bytes.span().start,
                &format!("max_input_bytes must be 1 to {MAX_INPUT_BYTES}"),
            );
        }
    }

    /// Checks the keys that only some dialects allow.
    fn check_dialect(&self, at: usize, dialect: Dialect, mistakes: &mut ModelMistakes<'_>) {
        // Platen sets these fields from the job. An extra field of the same name would override it.
        let reserved = ["model", "prompt", "n", "stream", "image", "size"];
        if !self.extra.is_empty() && dialect != Dialect::Openai {
            mistakes.add(at, "extra is allowed with the dialect openai only");
        } else if let Some(field) = reserved
            .iter()
            .find(|field| self.extra.contains_key(**field))
        {
            mistakes.add(at, &format!("extra may not set {field}: Platen sets it"));
        }
        if !self.pixels.is_empty() && dialect != Dialect::Openai {
            mistakes.add(at, "pixels are allowed with the dialect openai only");
        }
        // Google's names become part of a URL.
        if let Some(name) = &self.name
            && !is_model_name(name)
            && dialect != Dialect::Openai
        {
            mistakes.add(
                at,
                "a Google model's name has letters, digits, dots, - and _",
            );
        }
    }

    fn location(&self, at: usize, dialect: Dialect, mistakes: &mut ModelMistakes<'_>) -> String {
        match (&self.location, dialect) {
            (Some(location), _) if !is_name(location.get_ref()) => {
                mistakes.add(
                    location.span().start,
                    "a location has up to 63 letters, digits, - and _",
                );
                String::new()
            }
            (Some(location), _) => location.get_ref().clone(),
            (None, Dialect::Vertex) => {
                mistakes.add(at, "needs a location, such as \"global\"");
                String::new()
            }
            (None, _) => "global".to_owned(),
        }
    }

    fn pixels(&self, mistakes: &mut ModelMistakes<'_>) -> Vec<Pixels> {
        let mut pixels = Vec::new();
        for text in &self.pixels {
            match parse_pixels(text.get_ref()) {
                Some(sides) => pixels.push(sides),
                None => mistakes.add(
                    text.span().start,
                    "pixels must look like \"1024x1536\", with sides of 16 to 16384",
                ),
            }
        }
        pixels
    }

    fn check_costs(&self, mistakes: &mut ModelMistakes<'_>) {
        for &size in self.sizes.get_ref() {
            let cost = self.cost_usd_micros.get_ref().get(&size);
            if cost.is_none_or(|&cost| cost < 0) {
                mistakes.add(
                    self.cost_usd_micros.span().start,
                    &format!("cost_usd_micros needs {size}, zero or more"),
                );
            }
        }
        if let Some(cost) = &self.cost_usd_micros_per_million_tokens
            && (cost.get_ref().input < 0 || cost.get_ref().thought < 0)
        {
            mistakes.add(cost.span().start, "the cost of tokens cannot be negative");
        }
    }

    /// The prices, newest first.
    fn prices(&self, mistakes: &mut ModelMistakes<'_>) -> Vec<Price> {
        let mut prices = Vec::new();
        for price in self.price.get_ref() {
            let at = price.span().start;
            let PriceEntry { from, credits } = price.get_ref();
            for size in self.sizes.get_ref() {
                if !credits.contains_key(size) {
                    mistakes.add(
                        at,
                        &format!("the price from {} has no credits for {size}", from.0),
                    );
                }
            }
            if credits.values().any(|price| *price > Credits::MAX_PRICE) {
                mistakes.add(at, &format!("a price is at most {}", Credits::MAX_PRICE));
            }
            if prices.iter().any(|other: &Price| other.from == from.0) {
                mistakes.add(at, &format!("two prices begin on {}", from.0));
            }
            prices.push(Price {
                from: from.0,
                credits: credits.clone(),
            });
        }
        if prices.is_empty() {
            mistakes.add(self.price.span().start, "needs at least one price");
        }
        prices.sort_by_key(|price| std::cmp::Reverse(price.from));
        prices
    }

    fn check_dates(&self, mistakes: &mut ModelMistakes<'_>) {
        for (name, day) in [
            ("deprecated", &self.deprecated),
            ("shut_down", &self.shut_down),
        ] {
            if let Some(day) = day
                && day.get_ref().0 < self.announced.0
            {
                mistakes.add(day.span().start, &format!("{name} is before announced"));
            }
        }
    }
}

impl CatalogReader {
    /// Checks what needs all files, and returns the catalogue if there is no mistake.
    fn finish(mut self) -> Result<Catalog, CatalogError> {
        for NamedModel {
            place,
            model,
            role,
            names,
        } in &self.named
        {
            if !self.catalog.models.contains_key(names) {
                self.mistakes.push(format!(
                    "{place}: model {model}: there is no {role} {names}"
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
            Err(CatalogError(self.mistakes))
        }
    }

    /// Adds a lane to a model.
    fn add_fallback(&mut self, id: &str, fallback: Fallback) -> Result<(), String> {
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

/// Whether the text is safe in a URL, in a Redis key and in a metric's label.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter))
}

/// Whether the text has the characters of a model's id or name.
fn is_model_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Parses `1024x1536`.
fn parse_pixels(text: &str) -> Option<Pixels> {
    let (width, height) = text.split_once('x')?;
    let side = |text: &str| {
        text.parse()
            .ok()
            .filter(|side| (16..=16_384).contains(side))
    };
    Some(Pixels {
        width: side(width)?,
        height: side(height)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = r#"
title = "X"
kind = "image"
location = "global"
sizes = ["1K"]
ratios = ["1:1"]
max_inputs = 1
timeout_seconds = 60
announced = 2026-01-01
cost_usd_micros = { 1K = 1 }
price = [{ from = 2026-01-01, credits = { 1K = 1 } }]
"#;

    fn mistakes(text: &str) -> Vec<String> {
        let files = [("mine.toml".to_owned(), text.to_owned())];
        read(files).map_or_else(|error| error.0, |_| Vec::new())
    }

    fn file(changes: &str) -> String {
        let kept = MODEL.lines().filter(|line| {
            let key = line.split(" =").next().unwrap_or_default();
            key.is_empty()
                || !changes
                    .lines()
                    .any(|change| change.starts_with(&format!("{key} =")))
        });
        let kept: Vec<&str> = kept.collect();
        format!(
            "provider = \"p\"\ndialect = \"vertex\"\n[models.x]\n{changes}\n{}\n",
            kept.join("\n")
        )
    }

    #[test]
    fn a_file_without_mistakes_is_accepted() {
        assert_eq!(mistakes(&file("")), Vec::<String>::new());
    }

    #[test]
    fn every_mistake_is_named_with_its_file_and_line() {
        for (changes, expected) in [
            (
                "colour = 1",
                "models/mine.toml:4: model x: unknown field `colour`",
            ),
            (
                "sizes = []",
                "models/mine.toml:4: model x: needs at least one size",
            ),
            (
                "sizes = [\"3K\"]",
                "models/mine.toml:4: model x: unknown variant `3K`",
            ),
            (
                "title = 7",
                "models/mine.toml:4: model x: invalid type: integer `7`",
            ),
            (
                "timeout_seconds = 0",
                "models/mine.toml:4: model x: timeout_seconds must be",
            ),
            (
                "successor = \"y\"",
                "models/mine.toml:4: model x: there is no successor y",
            ),
            (
                "fallbacks = [{ model = \"y\" }]",
                "models/mine.toml:4: model x: there is no model y to fall back to",
            ),
            (
                "fallbacks = [{ location = \"global\" }]",
                "models/mine.toml:4: model x: p/global/x is listed twice",
            ),
            (
                "shut_down = 2025-01-01",
                "models/mine.toml:4: model x: shut_down is before announced",
            ),
            ("announced = \"soon\"", "models/mine.toml:4: model x: "),
            (
                "price = []",
                "models/mine.toml:4: model x: needs at least one price",
            ),
            (
                "price = [{ from = 2026-01-01, credits = { 1K = 10000000001 } }]",
                "models/mine.toml:4: model x: a price is at most 10000000000 credits",
            ),
            (
                "price = [{ from = 2026-01-01, credits = { 2K = 1 } }]",
                "models/mine.toml:4: model x: the price from 2026-01-01 has no credits for 1K",
            ),
            (
                "cost_usd_micros = { 2K = 1 }",
                "models/mine.toml:4: model x: cost_usd_micros needs 1K",
            ),
            (
                "extra = { n = 2 }",
                "models/mine.toml:3: model x: extra is allowed with the dialect openai only",
            ),
            (
                "max_input_bytes = 0",
                "models/mine.toml:4: model x: max_input_bytes must be",
            ),
        ] {
            let found = mistakes(&file(changes));
            assert!(
                found.len() == 1 && found[0].starts_with(expected),
                "{changes}: {found:#?}"
            );
        }
    }

    #[test]
    fn one_mistake_does_not_hide_another() {
        let two = file("timeout_seconds = 0\nmax_outputs = 99") + "[models.y]\ntitle = 1\n";
        let found = mistakes(&two);
        assert_eq!(found.len(), 3, "{found:#?}");
        let header = mistakes("colour = 1\n[models]\n");
        assert_eq!(header.len(), 3, "{header:#?}");
        assert_eq!(mistakes("provider = ")[0].split(':').nth(1), Some("1"));
    }
}
