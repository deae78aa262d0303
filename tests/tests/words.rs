//! Retired words: names that were replaced and must not come back. `docs/glossary.md` has the words in use.
//!
//! Checked are names in code and configuration, and prose in pages. The change log and the records of decisions tell
//! history and keep the old words; migrations and `.sqlx` are never changed.

use std::fs;
use std::path::{Path, PathBuf};

use tests::repository;

/// Refused anywhere, in strings and comments too: names that people and programs used.
const NAMES: &[(&str, &str)] = &[
    ("platen_darkroom_", "platen_render_pool_"),
    ("platen_lane_closed", "platen_lane_unavailable"),
    (
        "platen_lane_tenants_closed",
        "platen_lane_tenants_unavailable",
    ),
    ("platen_redis_away", "platen_redis_unavailable"),
    ("platen_bucket_away", "platen_bucket_unavailable"),
    ("PlatenLaneClosed", "PlatenLaneUnavailable"),
    ("PlatenRedisAway", "PlatenRedisUnavailable"),
    ("PlatenBucketAway", "PlatenBucketUnavailable"),
    ("platen hold ", "platen legal-hold add"),
    ("platen lift ", "platen legal-hold remove"),
    ("platen admin story", "platen admin timeline"),
];

/// Refused as a part of any identifier, in whatever case: `DarkroomPool`, `the_shelf`.
const PARTS: &[(&str, &str)] = &[
    ("darkroom", "render pool"),
    ("shelf", "spool"),
    ("doorbell", "ready queue"),
    ("ding", "ready job"),
];

/// Refused as a whole identifier.
const IDENTIFIERS: &[(&str, &str)] = &[
    ("Ring", "ReadyQueue"),
    ("Door", "LaneLimiter"),
    ("Entered", "LanePermit"),
    ("let_in", "acquire"),
    ("AT_THE_DOOR", "ACQUIRE_TIMEOUT"),
    ("Lifter", "Base64Extractor"),
    ("Lifted", "Base64Extractor"),
    ("Dialled", "SharedConnection"),
    ("go_beyond", "acquire_overflow"),
    ("Worked", "AttemptResult"),
    ("Unkept", "StoreFailure"),
    ("Deed", "BulkAction"),
    ("Story", "Timeline"),
    ("Shown", "ContentDisposition"),
    ("is_away", "mark_unavailable or is_available"),
    ("is_back", "mark_available"),
    ("pick_up", "checkout"),
    ("top_up_ring", "fill_ready_queue"),
    ("ring_new", "push_new"),
];

/// Refused in the prose of pages: words that have no other meaning there.
const PROSE: &[(&str, &str)] = &[
    ("darkroom", "render pool"),
    ("doorbell", "wake-up signal, or ready queue"),
    ("shelf", "spool, or bucket"),
    ("go_beyond", "acquire_overflow"),
    ("at_the_door", "ACQUIRE_TIMEOUT"),
    ("ring_new", "push_new"),
    ("top_up_ring", "fill_ready_queue"),
];

#[test]
fn no_retired_word_is_used() {
    let mut found = Vec::new();
    let mut examined = 0;
    for path in files() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        examined += 1;
        let name = path.strip_prefix(tests::root("")).unwrap_or(&path);
        for (number, fault) in faults(&path, &text) {
            found.push(format!("{}:{number}: {fault}", name.display()));
        }
    }
    assert!(examined > 300, "only {examined} files were examined");
    assert!(
        found.is_empty(),
        "{} uses of retired words (docs/glossary.md):\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn planted_words_are_found() {
    let count = |file: &str, text: &str| faults(Path::new(file), text).len();
    assert_eq!(count("a.rs", "let darkroom_size = Shelf::new();"), 2);
    assert_eq!(count("a.rs", "let a = 1; // the doorbell is history"), 0);
    assert_eq!(count("a.rs", "metric(\"platen_redis_away\")"), 1);
    assert_eq!(count("a.rs", "fn let_in(heading: Heading) {}"), 1);
    assert_eq!(count("a.lua", "local shelf = 1 -- shelf"), 1);
    assert_eq!(count("a.yml", "alert: PlatenLaneClosed"), 1);
    assert_eq!(count("a.md", "The doorbell rings."), 1);
    assert_eq!(count("a.md", "[0001](decisions/0001-a-doorbell.md)"), 0);
    assert_eq!(count("a.md", "A pending job, off-the-shelf parts."), 0);
}

/// Line and what is wrong with it.
fn faults(path: &Path, text: &str) -> Vec<(usize, String)> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let comment = match extension {
        Some("rs") => Some("//"),
        Some("lua") => Some("--"),
        Some("toml" | "yml" | "yaml") => Some("#"),
        _ => None,
    };
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut refuse = |word: &str, instead: &str| {
            found.push((number, format!("`{word}` is retired: use {instead}")));
        };
        for (name, instead) in NAMES {
            if line.contains(name) {
                refuse(name, instead);
            }
        }
        if extension == Some("md") {
            let prose = without_link_targets(line).to_lowercase();
            for word in prose.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))) {
                for (_, instead) in PROSE.iter().filter(|(retired, _)| word == *retired) {
                    refuse(word, instead);
                }
            }
            continue;
        }
        let code = comment.map_or(line, |comment| line.split(comment).next().unwrap_or(line));
        for identifier in code.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
            let whole = IDENTIFIERS.iter().find(|(word, _)| identifier == *word);
            let lower = identifier.to_ascii_lowercase();
            let part = PARTS.iter().find(|(word, _)| {
                lower.contains(word) && parts(identifier).any(|part| part == *word)
            });
            if let Some((_, instead)) = whole.or(part) {
                refuse(identifier, instead);
            }
        }
    }
    found
}

/// The words of an identifier in lower case: `TheShelf` and `the_shelf` are `the` and `shelf`.
fn parts(identifier: &str) -> impl Iterator<Item = String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && was_lower) {
            parts.push(String::new());
        }
        was_lower = c.is_lowercase();
        if c != '_' {
            parts
                .last_mut()
                .expect("there is one")
                .extend(c.to_lowercase());
        }
    }
    parts.into_iter()
}

/// A line of a page without the targets of its links, which are names of files.
fn without_link_targets(line: &str) -> String {
    let mut text = String::new();
    for (number, part) in line.split("](").enumerate() {
        let kept = if number == 0 {
            part
        } else {
            part.split_once(')').map_or("", |(_, rest)| rest)
        };
        text.push_str(kept);
        text.push(' ');
    }
    text
}

fn files() -> Vec<PathBuf> {
    let skipped = [".sqlx", "migrations", "decisions"];
    // The contributors' page quotes retired words as bad examples.
    let exempt = [
        "words.rs",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "package-lock.json",
    ];
    let extensions = ["rs", "lua", "toml", "yml", "yaml", "json", "md"];
    let mut files = repository::files(&["."], &extensions);
    files.retain(|path| {
        let path = path.strip_prefix(tests::root("")).unwrap_or(path);
        let mut names = path.iter().filter_map(|name| name.to_str());
        !names.clone().any(|name| skipped.contains(&name))
            && !names.next_back().is_some_and(|name| exempt.contains(&name))
    });
    files
}
