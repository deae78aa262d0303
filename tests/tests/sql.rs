//! What SQL must not say, wherever it stands: a `*` for columns, an `INSERT` without its columns, a row's type.
//!
//! Each means "all columns there are", and a migration may add one while processes serve: their prepared statements then
//! fail, and values move into the wrong columns. So every statement names its columns.

use std::fs;
use std::path::Path;

use tests::repository;

/// Where SQL may stand.
const FOLDERS: [&str; 14] = [
    "api",
    "cli",
    "common",
    "dashboards",
    "deploy",
    "docs",
    "fakes",
    "imaging",
    "migrations",
    "scripts",
    "servers",
    "tests",
    "worker",
    ".ci",
];

#[test]
fn every_statement_names_its_columns() {
    let mut found = Vec::new();
    let mut statements = 0;
    for path in repository::files(&FOLDERS, &[]) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for sql in texts(&path, &text) {
            statements += usize::from(is_sql(&sql));
            let name = path.strip_prefix(tests::root("")).unwrap_or(&path);
            // The check's own examples.
            if !name.ends_with("tests/tests/sql.rs") {
                found.extend(faults(&sql).map(|fault| format!("{}: {fault}", name.display())));
            }
        }
    }
    assert!(statements > 200, "only {statements} statements were found");
    assert!(found.is_empty(), "name the columns:\n{}", found.join("\n"));
}

#[test]
fn what_is_planted_is_found() {
    let refused = [
        "SELECT * FROM jobs",
        "select * from jobs",
        "SELECT DISTINCT * FROM jobs",
        "SELECT DISTINCT ON (model, id) * FROM jobs",
        "SELECT jobs.* FROM jobs",
        "SELECT id, j.* FROM jobs j",
        "SELECT 1, * FROM jobs",
        "SELECT id AS \"id!\",\n  c.* FROM calls c",
        "SELECT count(*), * FROM jobs",
        "WITH a AS (SELECT * FROM unnest($1::uuid[]) AS t(id)) SELECT id FROM a",
        "UPDATE jobs SET fence = 1 RETURNING *",
        "DELETE FROM billing_lines RETURNING billing_lines.*",
        "INSERT INTO jobs VALUES (1)",
        "INSERT INTO jobs SELECT id FROM old",
        "INSERT INTO jobs AS j VALUES (1)",
        "DECLARE job jobs%ROWTYPE; SELECT 1",
    ];
    for sql in refused {
        assert!(faults(sql).next().is_some(), "{sql}");
    }
    let allowed = [
        "SELECT count(*) FROM jobs",
        "SELECT COUNT( * ) * 2, 3 * n, (a + b) * c FROM jobs -- not *, and not jobs.*",
        "INSERT INTO jobs (id) VALUES (1)",
        "INSERT INTO deletions AS planned (id)\nSELECT 1",
        "Select **one**, * or none.",
    ];
    for sql in allowed {
        assert_eq!(faults(sql).next(), None, "{sql}");
    }
    let code = "// SELECT * in a comment\nlet quote = '\"'; let a = \"SELECT \\\" x.* \"; let b = r#\"RETURNING \"*\"\"#;";
    assert_eq!(literals(code), ["SELECT \\\" x.* ", "RETURNING \"*\""]);
}

/// What is wrong with a text, where it is SQL.
fn faults(text: &str) -> impl Iterator<Item = String> {
    let sql: Vec<&str> = text
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default())
        .collect();
    let sql = sql.join("\n");
    let mut faults = Vec::new();
    for (at, _) in sql.match_indices('*') {
        let (before, after) = (&sql[..at], &sql[at + 1..]);
        // Two of them are no SQL.
        let alone = !before.ends_with('*') && !after.starts_with('*');
        if alone && means_all_columns(before.trim_end()) {
            faults.push(excerpt(&sql, at));
        }
    }
    for (at, words) in sql.match_indices("INSERT INTO ") {
        if !names_columns(&sql[at + words.len()..]) {
            faults.push(excerpt(&sql, at));
        }
    }
    if let Some(at) = sql.find("%ROWTYPE") {
        faults.push(excerpt(&sql, at));
    }
    faults.into_iter()
}

/// Whether a `*` behind this stands for columns, and is neither a product nor what is counted.
fn means_all_columns(before: &str) -> bool {
    let word = |text: &str, word: &str| {
        let start = text.len().checked_sub(word.len());
        start.is_some_and(|start| {
            text.is_char_boundary(start)
                && text[start..].eq_ignore_ascii_case(word)
                && !text[..start]
                    .ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
        })
    };
    let distinct_on = before.strip_suffix(')').is_some_and(|inside| {
        let open = inside.rfind('(').unwrap_or(0);
        let words: Vec<&str> = inside[..open].split_whitespace().collect();
        words.ends_with(&["DISTINCT", "ON"])
    });
    let in_a_list = before.ends_with(['.', ',']) && is_sql(before);
    ["SELECT", "RETURNING", "DISTINCT"]
        .iter()
        .any(|keyword| word(before, keyword))
        || distinct_on
        || in_a_list
}

/// Whether what follows `INSERT INTO ` is a table, perhaps another name for it, and a list.
fn names_columns(rest: &str) -> bool {
    let name = |text: &str| {
        let end = text.find(|letter: char| !letter.is_alphanumeric() && !"_.{}".contains(letter));
        end.unwrap_or(text.len())
    };
    let mut rest = rest[name(rest)..].trim_start();
    if let Some(renamed) = rest.strip_prefix("AS ") {
        rest = renamed[name(renamed)..].trim_start();
    }
    rest.starts_with('(')
}

fn is_sql(text: &str) -> bool {
    let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.any(|word| ["SELECT", "RETURNING", "INSERT", "UPDATE", "DELETE"].contains(&word))
}

fn excerpt(sql: &str, at: usize) -> String {
    let line = sql[..at].lines().count().max(1) - 1;
    sql.lines().nth(line).unwrap_or_default().trim().to_owned()
}

/// The parts of a file that may be SQL.
fn texts(path: &Path, text: &str) -> Vec<String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("sql") => vec![text.to_owned()],
        Some("rs") => literals(text),
        // Pages and scripts: a paragraph at a time.
        _ => text.split("\n\n").map(str::to_owned).collect(),
    }
}

/// The strings of a Rust file.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let (before, from) = rest.split_at(at);
        let raw = from.strip_prefix('r').map(|from| {
            let marks = from.len() - from.trim_start_matches('#').len();
            (marks, &from[marks..])
        });
        rest = if from.starts_with("//") {
            &from[from.find('\n').unwrap_or(from.len())..]
        } else if let Some((marks, quoted)) = raw.filter(|(_, from)| from.starts_with('"'))
            && !before.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
        {
            let end = format!("\"{}", "#".repeat(marks));
            let length = quoted[1..].find(&end).unwrap_or(quoted.len() - 1);
            found.push(quoted[1..=length].to_owned());
            &quoted[(1 + length + end.len()).min(quoted.len())..]
        } else if from.starts_with("'\"'") || from.starts_with("'\\\"'") {
            &from[from[1..].find('\'').unwrap_or(0) + 2..]
        } else if let Some(quoted) = from.strip_prefix('"') {
            let mut escaped = false;
            let end = quoted.find(|letter: char| {
                let ends = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                ends
            });
            let end = end.unwrap_or(quoted.len());
            found.push(quoted[..end].to_owned());
            &quoted[(end + 1).min(quoted.len())..]
        } else {
            &from[1..]
        };
    }
    found
}
