//! How a file of models is written, and everything that can be wrong with one.
//!
//! A model is read by itself, so one model's mistake does not hide another's. What only shows when all files are
//! there, such as a successor that nobody offers, is looked for at the end.

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

/// A catalogue that cannot be used: every mistake in it, one a line.
#[derive(Debug, PartialEq, Eq)]
pub struct CatalogError(Vec<String>);

impl std::error::Error for CatalogError {}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl CatalogError {
    pub(super) fn no_such_provider(name: &str, known: &[&str]) -> Self {
        let known = known.join(", ");
        Self(vec![format!(
            "PLATEN_PROVIDERS names {name}; there are {known}"
        )])
    }
}

/// The `*.toml` of a folder, by name, with their text.
pub(super) fn in_folder(
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

/// Reads all files together: a successor or a fallback may stand in another one.
pub(super) fn read(
    files: impl IntoIterator<Item = (String, String)>,
) -> Result<Catalog, CatalogError> {
    let mut reading = Reading::default();
    for (file, text) in files {
        Source {
            file: &file,
            text: &text,
        }
        .read(&mut reading);
    }
    reading.finish()
}

/// What was read so far, and what was wrong with it.
#[derive(Default)]
struct Reading {
    catalog: Catalog,
    mistakes: Vec<String>,
    /// Models that others name: where, by whom, as what, and which.
    named: Vec<Named>,
    /// Fallbacks in the order they are written.
    fallbacks: Vec<(String, Fallback, String)>,
}

struct Named {
    place: String,
    model: String,
    role: &'static str,
    names: String,
}

/// One file, for saying where a mistake is.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
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

/// What a fallback changes; exactly one of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Fallback {
    Location(String),
    Project(String),
    Model(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenCost {
    input: i64,
    thought: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceEntry {
    from: Day,
    credits: BTreeMap<Size, Credits>,
}

/// A day as TOML writes it.
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

impl Source<'_> {
    fn read(&self, reading: &mut Reading) {
        let table = match DeTable::parse(self.text) {
            Ok(table) => table.into_inner(),
            Err(error) => return reading.mistakes.push(self.unreadable("", &error)),
        };
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
                    let mistake = self.at(at, &format!("{} must be a text", key.get_ref()));
                    reading.mistakes.push(mistake);
                    None
                }
            };
            match key.get_ref().as_ref() {
                "provider" => provider.name = text(value).unwrap_or_default(),
                "base_url" => provider.base_url = text(value),
                "api_key" => provider.api_key = text(value),
                "dialect" => match Dialect::deserialize(ValueDeserializer::from(value)) {
                    Ok(spoken) => dialect = Some(spoken),
                    Err(error) => reading.mistakes.push(self.unreadable("", &error)),
                },
                "models" => match value.into_inner() {
                    DeValue::Table(tables) => models = Some(tables),
                    _ => reading
                        .mistakes
                        .push(self.at(at, "models must be tables: [models.<id>]")),
                },
                other => reading.mistakes.push(self.at(
                    at,
                    &format!("there is no {other}; there are provider, dialect, base_url, api_key and models"),
                )),
            }
        }
        if !is_name(&provider.name) {
            let lacks = "needs provider = \"…\": letters, digits, - and _";
            reading.mistakes.push(self.at(0, lacks));
        }
        match dialect {
            Some(dialect) => provider.dialect = dialect,
            None => reading.mistakes.push(self.at(
                0,
                "needs dialect = \"vertex\", \"gemini\", \"interactions\" or \"openai\"",
            )),
        }
        for (id, entry) in models.into_iter().flatten() {
            let at = id.span().start;
            let id = id.get_ref().as_ref().to_owned();
            match Entry::deserialize(ValueDeserializer::from(entry)) {
                Ok(entry) => self.model(at, &id, entry, &provider, reading),
                Err(error) => {
                    let whose = format!("model {id}: ");
                    reading.mistakes.push(match error.span() {
                        Some(_) => self.unreadable(&whose, &error),
                        None => self.at(at, &format!("{whose}{}", error.message())),
                    });
                }
            }
        }
        let name = provider.name.clone();
        if let Some(other) = reading.catalog.providers.insert(name, provider.clone())
            && other != provider
        {
            let twice = format!(
                "provider {} is described twice, and not alike",
                provider.name
            );
            reading.mistakes.push(self.at(0, &twice));
        }
    }

    fn model(&self, at: usize, id: &str, entry: Entry, provider: &Provider, reading: &mut Reading) {
        let before = reading.mistakes.len();
        let mut wrong = |at: usize, problem: &str| {
            reading
                .mistakes
                .push(self.at(at, &format!("model {id}: {problem}")));
        };
        if id.is_empty()
            || id.len() > 100
            || !id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        {
            wrong(at, "an id has up to 100 letters, digits, dots, - and _");
        }
        if entry.sizes.get_ref().is_empty() {
            wrong(entry.sizes.span().start, "needs at least one size");
        }
        if entry.ratios.get_ref().is_empty() {
            wrong(entry.ratios.span().start, "needs at least one ratio");
        }
        if !(1..=3600).contains(entry.timeout_seconds.get_ref()) {
            wrong(
                entry.timeout_seconds.span().start,
                "timeout_seconds must be 1 to 3600",
            );
        }
        if let Some(most) = &entry.max_outputs
            && !(1..=MAX_OUTPUTS).contains(most.get_ref())
        {
            wrong(
                most.span().start,
                &format!("max_outputs must be 1 to {MAX_OUTPUTS}"),
            );
        }
        if let Some(most) = &entry.max_input_bytes
            && !(1..=MAX_INPUT_BYTES).contains(most.get_ref())
        {
            wrong(
                most.span().start,
                &format!("max_input_bytes must be 1 to {MAX_INPUT_BYTES}"),
            );
        }
        let ours = ["model", "prompt", "n", "stream", "image", "size"];
        if !entry.extra.is_empty() && provider.dialect != Dialect::Openai {
            wrong(at, "only the dialect openai takes extra");
        } else if let Some(field) = ours.iter().find(|field| entry.extra.contains_key(**field)) {
            wrong(at, &format!("extra may not say {field}: Platen does"));
        }
        if !entry.pixels.is_empty() && provider.dialect != Dialect::Openai {
            wrong(at, "only the dialect openai takes pixels");
        }
        if let Some(name) = &entry.name
            && !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && provider.dialect != Dialect::Openai
        {
            wrong(at, "Google's names have letters, digits, dots, - and _");
        }
        let location = match (&entry.location, provider.dialect) {
            (Some(location), _) if !is_name(location.get_ref()) => {
                wrong(
                    location.span().start,
                    "a location has letters, digits and -",
                );
                String::new()
            }
            (Some(location), _) => location.get_ref().clone(),
            (None, Dialect::Vertex) => {
                wrong(at, "needs a location, such as \"global\"");
                String::new()
            }
            (None, _) => "global".to_owned(),
        };
        let mut pixels = Vec::new();
        for text in &entry.pixels {
            match parse_pixels(text.get_ref()) {
                Some(sides) => pixels.push(sides),
                None => wrong(text.span().start, "pixels are written like \"1024x1536\""),
            }
        }
        for &size in entry.sizes.get_ref() {
            let cost = entry.cost_usd_micros.get_ref().get(&size);
            if cost.is_none_or(|&cost| cost < 0) {
                wrong(
                    entry.cost_usd_micros.span().start,
                    &format!("cost_usd_micros needs {size}, zero or more"),
                );
            }
        }
        if let Some(cost) = &entry.cost_usd_micros_per_million_tokens
            && (cost.get_ref().input < 0 || cost.get_ref().thought < 0)
        {
            wrong(cost.span().start, "tokens cannot cost less than nothing");
        }
        let mut prices = Vec::new();
        for price in entry.price.get_ref() {
            let at = price.span().start;
            let PriceEntry { from, credits } = price.get_ref();
            for size in entry.sizes.get_ref() {
                if !credits.contains_key(size) {
                    wrong(
                        at,
                        &format!("the price from {} has no credits for {size}", from.0),
                    );
                }
            }
            if credits.values().any(|price| *price > Credits::MAX_PRICE) {
                wrong(at, &format!("a price is at most {}", Credits::MAX_PRICE));
            }
            if prices.iter().any(|other: &Price| other.from == from.0) {
                wrong(at, &format!("two prices begin on {}", from.0));
            }
            prices.push(Price {
                from: from.0,
                credits: credits.clone(),
            });
        }
        if prices.is_empty() {
            wrong(entry.price.span().start, "needs at least one price");
        }
        prices.sort_by_key(|price| std::cmp::Reverse(price.from));
        for (name, day) in [
            ("deprecated", &entry.deprecated),
            ("shut_down", &entry.shut_down),
        ] {
            if let Some(day) = day
                && day.get_ref().0 < entry.announced.0
            {
                wrong(day.span().start, &format!("{name} lies before announced"));
            }
        }
        if reading.catalog.models.contains_key(id) {
            wrong(at, "is in the catalogue twice");
        }
        if reading.mistakes.len() > before {
            return;
        }

        if let Some(successor) = &entry.successor {
            reading.named.push(Named {
                place: self.place(successor.span().start),
                model: id.to_owned(),
                role: "successor",
                names: successor.get_ref().clone(),
            });
        }
        for fallback in entry.fallbacks {
            let place = self.place(fallback.span().start);
            reading
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
                picture: entry.cost_usd_micros.into_inner(),
                input: tokens.as_ref().map_or(0, |tokens| tokens.input),
                thought: tokens.as_ref().map_or(0, |tokens| tokens.thought),
            },
        };
        reading.catalog.models.insert(id.to_owned(), model);
    }

    fn unreadable(&self, whose: &str, error: &toml::de::Error) -> String {
        let at = error.span().map_or(0, |span| span.start);
        self.at(at, &format!("{whose}{}", error.message()))
    }

    fn at(&self, byte: usize, problem: &str) -> String {
        format!("{}: {problem}", self.place(byte))
    }

    /// `models/vertex.toml:12`.
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

impl Reading {
    fn finish(mut self) -> Result<Catalog, CatalogError> {
        for Named {
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
            if let Err(problem) = self.fall_back(&id, fallback) {
                self.mistakes
                    .push(format!("{place}: model {id}: {problem}"));
            }
        }
        if self.catalog.models.is_empty() && self.mistakes.is_empty() {
            self.mistakes.push(
                "there is no model in the catalogue: no *.toml, or nothing in them".to_owned(),
            );
        }
        if self.mistakes.is_empty() {
            Ok(self.catalog)
        } else {
            Err(CatalogError(self.mistakes))
        }
    }

    fn fall_back(&mut self, id: &str, fallback: Fallback) -> Result<(), String> {
        let Some(model) = self.catalog.models.get(id) else {
            return Ok(());
        };
        let own = model.lanes[0].clone();
        let of_google_cloud = self
            .catalog
            .providers
            .get(&own.provider)
            .is_some_and(|provider| provider.dialect == Dialect::Vertex);
        let lane = match fallback {
            Fallback::Location(_) | Fallback::Project(_) if !of_google_cloud => {
                return Err("only Vertex AI has locations and projects to fall back to".to_owned());
            }
            Fallback::Location(location) if is_name(&location) => Lane { location, ..own },
            Fallback::Location(location) => return Err(format!("{location:?} is no location")),
            Fallback::Project(project) if is_name(&project) => Lane {
                project: Some(project),
                ..own
            },
            Fallback::Project(project) => return Err(format!("{project:?} is no project")),
            Fallback::Model(name) => {
                let other = (self.catalog.models.get(&name))
                    .ok_or_else(|| format!("there is no model {name} to fall back to"))?;
                let equivalent = other.kind == model.kind
                    && model.sizes.iter().all(|size| other.sizes.contains(size))
                    && model
                        .ratios
                        .iter()
                        .all(|ratio| other.ratios.contains(ratio))
                    && other.max_inputs >= model.max_inputs
                    && other.max_input_bytes >= model.max_input_bytes;
                if !equivalent {
                    return Err(format!(
                        "{name} cannot stand in: it lacks a size, a ratio or room for inputs"
                    ));
                }
                other.lanes[0].clone()
            }
        };
        let lanes = &mut self
            .catalog
            .models
            .get_mut(id)
            .expect("found just now")
            .lanes;
        if lanes.contains(&lane) {
            return Err(format!("{lane} is named twice"));
        }
        lanes.push(lane);
        Ok(())
    }
}

/// Safe in a URL, in a key of Redis and in a metric's label.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter))
}

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
    fn a_file_without_mistakes_is_a_catalogue() {
        assert_eq!(mistakes(&file("")), Vec::<String>::new());
    }

    #[test]
    fn every_mistake_is_named_with_its_file_and_line() {
        for (changes, said) in [
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
                "models/mine.toml:4: model x: p/global/x is named twice",
            ),
            (
                "shut_down = 2025-01-01",
                "models/mine.toml:4: model x: shut_down lies before announced",
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
                "models/mine.toml:3: model x: only the dialect openai takes extra",
            ),
            (
                "max_input_bytes = 0",
                "models/mine.toml:4: model x: max_input_bytes must be",
            ),
        ] {
            let found = mistakes(&file(changes));
            assert!(
                found.len() == 1 && found[0].starts_with(said),
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
