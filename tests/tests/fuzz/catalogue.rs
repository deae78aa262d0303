//! Files of the catalogue: they give a catalogue that keeps its rules, or mistakes that name file, line and field.

use std::collections::BTreeSet;

use domain::catalog::Catalog;
use domain::credits::Credits;
use proptest::collection::vec;
use proptest::prelude::{Just, any};
use proptest::sample::{Index, select};
use proptest::strategy::Strategy;
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq, prop_oneof};
use tempfile::TempDir;
use time::Date;

use super::edit::{apply_to_text, edits};
use super::{Verdict, fuzz};

/// A file with every field, each on a line of its own.
const FILE: &str = r#"provider = "mine"
dialect = "openai"
base_url = "http://127.0.0.1:1"
api_key = "MY_KEY"
[models.first]
name = "a-model"
title = "First"
kind = "image"
location = "global"
sizes = ["1K"]
ratios = ["1:1", "16:9"]
max_inputs = 1
max_input_bytes = 1000
max_outputs = 2
timeout_seconds = 60
concurrency = 200
max_concurrency = 400
announced = 2026-01-01
deprecated = 2026-02-01
shut_down = 2026-03-01
successor = "second"
fallbacks = [{ model = "second" }]
thinking = ["low", "high"]
pixels = ["1024x1024"]
seed = true
extra = { quality = "high" }
cost_usd_micros = { 1K = 1 }
cost_usd_micros_per_million_tokens = { input = 1, thought = 1 }
price = [{ from = 2026-01-01, credits = { 1K = 1 } }]
[models.second]
title = "Second"
kind = "image"
sizes = ["1K", "2K"]
ratios = ["1:1", "16:9"]
max_inputs = 4
timeout_seconds = 60
announced = 2026-01-01
cost_usd_micros = { 1K = 1, 2K = 2 }
price = [{ from = 2026-01-01, credits = { 1K = 1, 2K = 2 } }]
"#;

/// A change of one line.
#[derive(Clone, Debug)]
enum Change {
    Value(String),
    Key(String),
    Removed,
    Doubled,
}

fn values() -> impl Strategy<Value = String> {
    let texts = prop_oneof!["[ -~]{0,8}", "\\PC{0,70}", Just("a\nb".to_owned())];
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        select(vec![
            "0",
            "-1",
            "1e400",
            "nan",
            "true",
            "[]",
            "{}",
            "\"\"",
            "[[[[]]]]",
            "[\"1K\", \"2K\"]",
            "[\"2K\"]",
            "[\"1K\", \"1K\"]",
            "2026-13-01",
            "2025-01-01",
            "2026-01-01T00:00:00Z",
            "\"vertex\"",
            "\"gemini\"",
            "\"first\"",
            "\"2026-01-01\"",
            "[{ location = \"eu\" }]",
            "[{ model = \"first\" }]",
            "[{}]",
            "{ 1K = -1 }",
            "{ 1K = 1, 3K = 1 }",
            "{ input = -1, thought = 0 }",
            "{ n = 1 }",
            "[\"0x0\"]",
            "[\"99999999999x1\"]",
            "[{ from = 2026-01-01, credits = { 1K = 99999999999 } }]",
            "[{ from = 2026-01-01, credits = {} }]",
        ])
        .prop_map(str::to_owned),
        texts.prop_map(|text| toml_text(&text)),
    ]
}

/// A string of TOML. The debug form of Rust escapes differently only what is not printable.
fn toml_text(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[test]
fn a_file_is_a_catalogue_or_its_mistakes() {
    let folder = TempDir::new().unwrap();
    let change = prop_oneof![
        6 => values().prop_map(Change::Value),
        1 => "[a-z_\"]{1,9}".prop_map(Change::Key),
        1 => "\\PC{0,9}".prop_map(|key| Change::Key(toml_text(&key))),
        1 => Just(Change::Removed),
        1 => Just(Change::Doubled),
    ];
    let inputs = prop_oneof![
        3 => (vec((any::<Index>(), change), 0..=2), Just(Vec::new())),
        1 => (Just(Vec::new()), edits(any::<char>(), 4)),
    ];
    fuzz("catalogue", &inputs, |(changes, edits)| {
        let mut lines: Vec<String> = FILE.lines().map(str::to_owned).collect();
        for (at, change) in &changes {
            let at = at.index(lines.len());
            let line = lines[at].clone();
            let (key, value) = line.split_once(" = ").unwrap_or((&line, ""));
            match change {
                Change::Removed => lines[at].clear(),
                Change::Doubled => lines[at] = format!("{line}\n{line}"),
                _ if line.starts_with('[') => {}
                Change::Value(value) => lines[at] = format!("{key} = {value}"),
                Change::Key(key) => lines[at] = format!("{key} = {value}"),
            }
        }
        let text = apply_to_text(&lines.join("\n"), &edits);
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, &text).unwrap();
        match Catalog::load(Some(folder.path()), None) {
            Ok(catalog) => keeps_its_rules(&catalog).map(|()| Verdict::Read),
            Err(error) => {
                let (error, path) = (error.to_string(), path.display().to_string());
                for mistake in error.lines() {
                    names_its_place(mistake, &path, &text, edits.is_empty())?;
                }
                Ok(Verdict::Refused)
            }
        }
    });
}

fn keeps_its_rules(catalog: &Catalog) -> Result<(), TestCaseError> {
    let mut models = 0;
    for model in catalog.models() {
        models += 1;
        prop_assert!(catalog.get(&model.id).is_some());
        prop_assert!((1..=100).contains(&model.id.len()));
        prop_assert!((1..=3_600).contains(&model.timeout.as_secs()));
        prop_assert!(!model.sizes.is_empty() && !model.ratios.is_empty());
        let ends = [model.deprecated, model.shut_down];
        prop_assert!(ends.iter().flatten().all(|day| *day >= model.announced));
        if let Some(successor) = &model.successor {
            prop_assert!(catalog.get(successor).is_some(), "{successor}");
        }

        let newest = model.current_price(Date::MAX);
        prop_assert!(newest.is_some());
        for size in &model.sizes {
            let credits = newest.and_then(|price| price.credits.get(size));
            prop_assert!(credits.is_some_and(|credits| *credits <= Credits::MAX_PRICE));
        }

        let lanes: BTreeSet<String> = model.lanes.iter().map(ToString::to_string).collect();
        prop_assert_eq!(lanes.len(), model.lanes.len());
        for lane in &model.lanes {
            prop_assert!(catalog.dialect(lane).is_some(), "{lane}");
            prop_assert_eq!(lane.to_string().parse().ok(), Some(lane.clone()));
        }
    }
    prop_assert!(models > 0);
    Ok(())
}

/// A mistake begins with the file and a line in it. If the file is TOML it also names the field, or the line is that of the
/// field.
fn names_its_place(
    mistake: &str,
    path: &str,
    text: &str,
    is_toml: bool,
) -> Result<(), TestCaseError> {
    // Of a folder without a model no file is to blame.
    if mistake.starts_with("the catalogue has no model") {
        return Ok(());
    }
    let place = mistake.strip_prefix(&format!("{path}:"));
    let place = place.and_then(|rest| rest.split_once(": "));
    let Some((line, problem)) = place else {
        return Err(TestCaseError::fail(format!("no file and line: {mistake}")));
    };
    let number: usize = line.parse().unwrap_or_default();
    let lines: Vec<&str> = text.split('\n').collect();
    prop_assert!(
        (1..=lines.len()).contains(&number),
        "no such line: {mistake}"
    );
    if is_toml {
        // A table that is there twice is a mistake of its own line, which has no field.
        let is_doubled_table = problem == "duplicate key" && lines[number - 1].starts_with('[');
        let has_field = lines[number - 1].contains(" = ") || is_doubled_table;
        let names = |line: &str| {
            let key = line.split_once(" = ").map(|(key, _)| key);
            key.is_some_and(|key| problem.contains(key))
        };
        let is_named = FILE.lines().chain(lines.iter().copied()).any(names);
        prop_assert!(has_field || is_named, "no field: {mistake}");
    }
    Ok(())
}
