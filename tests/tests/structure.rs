//! Limits of the code's structure: how long functions and files are, that no files import each other in a circle, and which
//! crate may depend on which. `make structure` prints the numbers.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use tests::structure::{Workspace, circles};

/// The longest function, in lines. Tests too. A longer table is a constant.
const MAX_FUNCTION_LINES: usize = 120;
/// What 99 % of the functions outside tests do not exceed, in lines.
const MAX_P99_LINES: usize = 80;
/// The longest file outside tests, in lines.
const MAX_FILE_LINES: usize = 500;

/// What each crate depends on, without dependencies of its tests: `CONTRIBUTING.md` shows the same lines.
const CRATES: &str = "\
api -> bucket common domain imaging queue storage telemetry
bench -> drawing servers
bucket -> domain
cli -> api bucket common domain fakes queue servers storage telemetry worker
common -> bucket domain queue storage telemetry
domain ->
drawing ->
fakes -> drawing
imaging -> domain
queue -> domain
servers ->
storage -> domain
telemetry -> domain
tests -> api bucket cli common domain fakes imaging queue servers storage telemetry worker
worker -> bucket common domain imaging queue storage telemetry
";

/// What the pure crates must be compiled without.
const IO_CRATES: &[&str] = &["sqlx", "redis", "apalis"];

static WORKSPACE: LazyLock<Workspace> = LazyLock::new(|| Workspace::read().unwrap());

#[test]
fn functions_and_files_are_short() {
    let functions = WORKSPACE.shipped_functions();
    assert!(functions.len() > 1_000, "found {}", functions.len());
    let p99 = WORKSPACE.length_of_functions(99);
    assert!(p99 <= MAX_P99_LINES, "p99 is {p99} lines");

    let mut too_long: Vec<String> = WORKSPACE
        .functions()
        .filter(|(_, function)| function.length() > MAX_FUNCTION_LINES)
        .map(|(file, function)| {
            let length = function.length();
            format!("{}:{} {length} lines", file.path, function.line)
        })
        .collect();
    too_long.extend(
        WORKSPACE
            .shipped_files()
            .into_iter()
            .filter(|file| file.length() > MAX_FILE_LINES)
            .map(|file| format!("{} {} lines", file.path, file.length())),
    );
    assert!(too_long.is_empty(), "too long: {too_long:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut imports = Vec::new();
    for krate in &WORKSPACE.crates {
        for circle in circles::of(krate) {
            imports.extend(circle.edges.iter().map(|edge| krate.show(edge)));
        }
    }
    assert!(imports.is_empty(), "circles of files: {imports:#?}");
    let api = WORKSPACE.crates.iter().find(|one| one.folder() == "api");
    assert!(api.unwrap().edges.len() > 100, "imports are found");
}

/// Two kinds of failure need a type that names them.
#[test]
fn no_function_returns_a_result_of_a_result() {
    let found: Vec<String> = WORKSPACE
        .functions()
        .filter(|(_, function)| function.returns_nested_result)
        .map(|(file, function)| format!("{}:{} {}", file.path, function.line, function.name))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn crates_depend_on_each_other_as_contributing_shows() {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let mut lines: Vec<String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let mut names: Vec<&str> = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|one| one["path"].is_string() && one["kind"].is_null())
                .map(|one| one["name"].as_str().unwrap())
                .collect();
            names.sort_unstable();
            let line = format!(
                "{} -> {}",
                package["name"].as_str().unwrap(),
                names.join(" ")
            );
            line.trim_end().to_owned()
        })
        .collect();
    lines.sort_unstable();
    assert_eq!(lines.join("\n"), CRATES.trim_end());

    let page = fs::read_to_string(tests::root("CONTRIBUTING.md")).unwrap();
    assert!(page.contains(CRATES), "CONTRIBUTING.md shows:\n{CRATES}");
}

#[test]
fn values_and_images_are_compiled_without_servers() {
    for package in ["domain", "imaging"] {
        let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none"]);
        assert!(tree.lines().count() > 10, "{tree}");
        let found: Vec<&str> = tree
            .lines()
            .filter(|line| IO_CRATES.iter().any(|name| line.starts_with(name)))
            .collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
    }
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new("cargo")
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(tests::root(""))
        .output()
        .unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {problem}");
    String::from_utf8(output.stdout).unwrap()
}
