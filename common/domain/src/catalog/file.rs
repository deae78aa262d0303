//! Reads the catalogue's files and reports every mistake in them.
//!
//! Each model is read on its own, so a mistake in one model does not hide a mistake in another.
//! What needs all files, such as a successor in another file, is checked at the end.

mod entry;
mod link;
mod rules;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::model::ProviderCost;
use super::{Catalog, Lane, Model, Provider};
use crate::generation::image::{MAX_INPUT_BYTES, MAX_OUTPUTS};
use crate::outcome::table::Dialect;
use entry::{Fallback, ModelEntry};
use rules::{ModelMistakes, is_name};

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

/// Path and text of each `*.toml` file of a folder, sorted by path.
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
    references: Vec<ModelReference>,
    /// Fallbacks: the id of the model that has it, the fallback, and its place (file and line), in
    /// the order of the files.
    fallbacks: Vec<(String, Fallback, String)>,
}

/// One model names another one.
struct ModelReference {
    /// File and line.
    place: String,
    /// The model that names the other.
    model: String,
    /// What the other model is for this one: `successor`.
    role: &'static str,
    /// Catalogue id of the other model.
    other: String,
}

/// One file. It knows how to say where a mistake is.
struct ModelFile<'a> {
    /// Path of the file; of a shipped file only its name.
    file: &'a str,
    text: &'a str,
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
            // A byte of the file, as `at` is everywhere in this module.
            let at = id.span().start;
            let id = id.get_ref().as_ref().to_owned();
            match ModelEntry::deserialize(ValueDeserializer::from(entry)) {
                Ok(entry) => self.add_model(at, &id, entry, &provider, reader),
                Err(error) => {
                    let prefix = format!("model {id}: ");
                    reader.mistakes.push(match error.span() {
                        Some(_) => self.syntax_error(&prefix, &error),
                        None => self.mistake_at(at, &format!("{prefix}{}", error.message())),
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
            reader.mistakes.push(self.mistake_at(0, &conflict));
        }
    }

    /// Reads the keys outside of the models. Returns the provider, and the models' tables if there
    /// are any. After a mistake, the provider may have a wrong name and a wrong dialect, which can
    /// cause further mistakes.
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
                    mistakes.push(self.mistake_at(at, &mistake));
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
                    _ => mistakes.push(self.mistake_at(at, "models must be tables: [models.<id>]")),
                },
                other => mistakes.push(self.mistake_at(
                    at,
                    &format!(
                        "unknown key {other}: use provider, dialect, base_url, api_key or models"
                    ),
                )),
            }
        }
        if !is_name(&provider.name) {
            let missing = "needs provider = \"…\": up to 63 letters, digits, - and _";
            mistakes.push(self.mistake_at(0, missing));
        }
        match dialect {
            Some(dialect) => provider.dialect = dialect,
            None => mistakes.push(self.mistake_at(
                0,
                "needs dialect = \"vertex\", \"gemini\", \"interactions\" or \"openai\"",
            )),
        }
        (provider, models)
    }

    /// Checks one model, and adds it to the catalogue if it has no mistake. `at` is the byte at
    /// which its table begins.
    fn add_model(
        &self,
        at: usize,
        id: &str,
        entry: ModelEntry,
        provider: &Provider,
        reader: &mut CatalogReader,
    ) {
        let mistakes_before = reader.mistakes.len();
        let mut mistakes = ModelMistakes {
            file: self,
            model_id: id,
            found: &mut reader.mistakes,
        };
        entry.check_limits(at, &mut mistakes);
        entry.check_dialect(at, provider.dialect, &mut mistakes);
        let location = entry.location(at, provider.dialect, &mut mistakes);
        let concurrency = entry.concurrency(&mut mistakes);
        let pixels = entry.pixels(&mut mistakes);
        entry.check_costs(&mut mistakes);
        let prices = entry.prices(&mut mistakes);
        entry.check_dates(&mut mistakes);
        if reader.catalog.models.contains_key(id) {
            mistakes.add(at, "is in the catalogue twice");
        }
        if reader.mistakes.len() > mistakes_before {
            return;
        }

        if let Some(successor) = &entry.successor {
            reader.references.push(ModelReference {
                place: self.place(successor.span().start),
                model: id.to_owned(),
                role: "successor",
                other: successor.get_ref().clone(),
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
            concurrency,
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
        self.mistake_at(at, &format!("{prefix}{}", error.message()))
    }

    /// A problem, with the file and the line of this byte.
    fn mistake_at(&self, byte: usize, problem: &str) -> String {
        format!("{}: {problem}", self.place(byte))
    }

    /// File and line of this byte, such as `models/vertex.toml:12`.
    fn place(&self, byte: usize) -> String {
        let line = self.text.bytes().take(byte).filter(|&b| b == b'\n').count() + 1;
        // A file without a folder is a shipped one.
        let folder = if self.file.contains('/') {
            ""
        } else {
            "models/"
        };
        format!("{folder}{}:{line}", self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Concurrency;

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
    fn a_model_states_its_concurrency_or_has_the_default() {
        for (changes, initial, max) in [
            ("", 32, 2_000),
            ("concurrency = 200", 200, 2_000),
            ("max_concurrency = 400", 32, 400),
            ("max_concurrency = 4", 4, 4),
            ("concurrency = 200\nmax_concurrency = 200", 200, 200),
        ] {
            let catalog = read([("mine.toml".to_owned(), file(changes))]).unwrap();
            let expected = Concurrency { initial, max };
            assert_eq!(catalog.models["x"].concurrency, expected, "{changes}");
        }
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
                "kind = \"a\\nb\"",
                "models/mine.toml:4: model x: unknown variant `a\\nb`",
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
                "models/mine.toml:4: model x: `shut_down` is earlier than `announced`",
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
            (
                "concurrency = 0",
                "models/mine.toml:4: model x: concurrency must be 1 to 2000",
            ),
            (
                "max_concurrency = 2001",
                "models/mine.toml:4: model x: max_concurrency must be 1 to 2000",
            ),
            (
                "concurrency = 9\nmax_concurrency = 8",
                "models/mine.toml:4: model x: concurrency is higher than max_concurrency",
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
