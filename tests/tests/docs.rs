//! Documentation that is held by the code: generated tables are what the code says, and every relative link resolves.
//!
//! A generated table stands in a page between `<!-- generated: name -->` and `<!-- end of name -->`. `make docs` (the variable
//! `WRITE_DOCS=1`) writes the tables; without it the test compares.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use common::config::VARIABLES;
use domain::ledger::{Account, Cause};
use domain::permission::{KeyAccess, Permission, Role};
use storage::verify::{INVARIANTS, guards};
use telemetry::NAMES;
use tests::repository;

/// Page, name of the table in it, and what writes the table.
type Table = (&'static str, &'static str, fn() -> String);

const TABLES: &[Table] = &[
    ("docs/invariants.md", "invariants", invariants),
    ("docs/money.md", "accounts", accounts),
    ("docs/money.md", "causes", causes),
    ("docs/configuration.md", "variables", variables),
    ("docs/metrics.md", "metrics", metrics),
    ("docs/permissions.md", "permissions", permissions),
    ("docs/decisions/README.md", "decisions", decisions),
];

#[test]
fn generated_tables_are_up_to_date() {
    let write = std::env::var_os("WRITE_DOCS").is_some();
    let mut outdated = Vec::new();
    for (page, name, table) in TABLES {
        let path = tests::root(page);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));
        let (begin, end) = (
            format!("<!-- generated: {name} -->\n"),
            format!("<!-- end of {name} -->"),
        );
        let (before, rest) = text
            .split_once(&begin)
            .unwrap_or_else(|| panic!("{page} lacks {begin}"));
        let (_, after) = rest
            .split_once(&end)
            .unwrap_or_else(|| panic!("{page} lacks {end}"));
        let expected = format!("{before}{begin}{}{end}{after}", table());
        if write {
            fs::write(&path, &expected).unwrap();
        } else if text != expected {
            outdated.push(format!("{page}: {name}"));
        }
    }
    assert!(
        outdated.is_empty(),
        "run `make docs`, these tables differ from the code: {outdated:?}"
    );
}

/// What `platen verify` checks.
fn invariants() -> String {
    let mut text = "| number | promise |\n|---|---|\n".to_owned();
    for invariant in INVARIANTS.iter().chain([&guards::INVARIANT]) {
        row(&mut text, &[invariant.number, invariant.promises]);
    }
    text
}

/// The accounts of the ledger. A new account does not compile until it has its line here.
fn accounts() -> String {
    let describe = |account| match account {
        Account::Available => (
            "the tenant",
            "credits that may be spent; also `wallets.available`",
        ),
        Account::Held => (
            "the tenant",
            "credits set aside for open jobs; also `wallets.held`",
        ),
        Account::Promo => (
            "Platen",
            "the source of credits that were given; its sum is zero or negative",
        ),
        Account::Revenue => ("Platen", "credits that were charged"),
        Account::Adjust => (
            "Platen",
            "the other side of operators' adjustments; its sum may have either sign",
        ),
    };
    let mut text = "| account | owner | contains |\n|---|---|---|\n".to_owned();
    for account in [
        Account::Available,
        Account::Held,
        Account::Promo,
        Account::Revenue,
        Account::Adjust,
    ] {
        let (owner, contains) = describe(account);
        row(&mut text, &[&code(account.as_str()), owner, contains]);
    }
    text
}

/// The kinds of transfers that code writes. A new cause does not compile until it has its line here.
fn causes() -> String {
    let describe = |cause| match cause {
        Cause::Promo => (
            "`sys:promo`",
            "`tenant:available`",
            "credits are given (`platen grant`)",
            "the grant",
        ),
        Cause::Hold => (
            "`tenant:available`",
            "`tenant:held`",
            "a job is admitted",
            "the job",
        ),
        Cause::Capture => (
            "`tenant:held`",
            "`sys:revenue`",
            "a job delivers",
            "the job",
        ),
        Cause::Release => (
            "`tenant:held`",
            "`tenant:available`",
            "a job ends and did not deliver all that was held for",
            "the job",
        ),
        Cause::Adjust => (
            "`sys:adjust` or `tenant:available`",
            "`tenant:available` or `sys:adjust`",
            "an operator gives or takes credits",
            "the adjustment; for credits given also the grant",
        ),
    };
    let mut text = "| kind | from | to | when | `ref` |\n|---|---|---|---|---|\n".to_owned();
    for cause in [
        Cause::Promo,
        Cause::Hold,
        Cause::Capture,
        Cause::Release,
        Cause::Adjust,
    ] {
        let (from, to, when, reference) = describe(cause);
        row(
            &mut text,
            &[&code(cause.as_str()), from, to, when, reference],
        );
    }
    text
}

/// Every permission, and who holds it.
fn permissions() -> String {
    let roles: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
    let mut text = format!(
        "| permission | {} | key |\n|---|{}---|\n",
        roles.join(" | "),
        "---|".repeat(roles.len())
    );
    for permission in Permission::ALL {
        let holders = permission.holders();
        let by_role = Role::ALL.iter().map(|role| match role {
            role if holders.roles.contains(role) => "yes",
            _ => "",
        });
        let by_key = match holders.keys {
            KeyAccess::ByDefault => "yes",
            KeyAccess::IfNamed => "if its scopes name it",
            KeyAccess::Never => "",
        };
        let marks: Vec<&str> = by_role.chain([by_key]).collect();
        let name = code(permission.as_str());
        row(&mut text, &[&[name.as_str()], marks.as_slice()].concat());
    }
    text
}

/// Every environment variable.
fn variables() -> String {
    let mut text = "| variable | meaning |\n|---|---|\n".to_owned();
    for (name, means) in VARIABLES {
        row(&mut text, &[&code(name), means]);
    }
    text
}

/// Every metric with its type, labels and help text, read from where the code declares it.
fn metrics() -> String {
    let declared = declared_metrics();
    let billing = declared.values().filter(|metric| metric.is_billing).count();
    assert!(
        billing > 5,
        "only {billing} metrics of /metrics/billing found"
    );
    let mut text =
        "| metric | type | labels | served at | help |\n|---|---|---|---|---|\n".to_owned();
    let names: BTreeSet<&str> = NAMES.iter().copied().collect();
    for name in names {
        let metric = declared
            .get(name)
            .unwrap_or_else(|| panic!("{name} and its help text are declared nowhere"));
        let labels: Vec<String> = metric.labels.iter().map(|label| code(label)).collect();
        let served_at = if metric.is_billing {
            "`/metrics/billing`"
        } else {
            "`/metrics`"
        };
        row(
            &mut text,
            &[
                &code(name),
                metric.kind,
                &labels.join(", "),
                served_at,
                &metric.help,
            ],
        );
    }
    text
}

struct Metric {
    kind: &'static str,
    labels: Vec<String>,
    help: String,
    /// Read from the ledger at a scrape, not counted in the process.
    is_billing: bool,
}

/// Metrics are declared as a name literal followed by a help literal. The labels are the next `&[…]` of the statement.
fn declared_metrics() -> BTreeMap<String, Metric> {
    let mut found = BTreeMap::new();
    for path in repository::files(&["common", "api", "worker"], &["rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_billing = path.ends_with("money/billing/exposition.rs");
        for (at, _) in text.match_indices("\"platen_") {
            let Some((name, after)) = text[at + 1..].split_once('"') else {
                continue;
            };
            let Some(help) = after.strip_prefix(',').map(str::trim_start) else {
                continue;
            };
            let Some((help, after)) = help.strip_prefix('"').and_then(|help| help.split_once('"'))
            else {
                continue;
            };
            if help.starts_with("platen_") {
                continue; // A list of names.
            }
            let before = text[..at].trim_end();
            let context = &before[before.len().saturating_sub(60)..];
            let kind = if name.ends_with("_total") {
                "counter"
            } else if context.contains("histogram(") || context.contains("HistogramOpts") {
                "histogram"
            } else {
                "gauge"
            };
            // In a list of pairs of name and help the labels are given after the list.
            let is_pair = before
                .strip_suffix('(')
                .is_some_and(|before| before.ends_with([' ', '[', '\n', ',']));
            let statements = 1 + usize::from(is_pair);
            let end = after
                .match_indices(';')
                .nth(statements - 1)
                .map_or(after.len(), |(end, _)| end);
            let labels = after[..end]
                .split_once("&[")
                .and_then(|(_, list)| list.split_once(']'))
                .map(|(list, _)| list.split('"').skip(1).step_by(2).map(str::to_owned));
            let metric = Metric {
                kind,
                labels: labels.into_iter().flatten().collect(),
                help: help.to_owned(),
                is_billing,
            };
            found.insert(name.to_owned(), metric);
        }
    }
    found
}

/// Every record of a decision.
fn decisions() -> String {
    let mut text = "| number | decision |\n|---|---|\n".to_owned();
    let mut pages: Vec<PathBuf> = fs::read_dir(tests::root("docs/decisions"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("README.md"))
        .collect();
    pages.sort();
    for page in pages {
        let file = page.file_name().unwrap().to_str().unwrap();
        let title = fs::read_to_string(&page).unwrap();
        let title = title.lines().next().unwrap_or_default();
        let title =
            title.trim_start_matches(|c: char| matches!(c, '#' | ' ') || c.is_ascii_digit());
        row(
            &mut text,
            &[&format!("[{}]({file})", &file[..4.min(file.len())]), title],
        );
    }
    text
}

fn row(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(text, "| {} |", cells.join(" | ")).unwrap();
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

#[test]
fn every_relative_link_resolves() {
    let mut broken = Vec::new();
    let mut links = 0;
    for page in repository::files(&["."], &["md"]) {
        let text = fs::read_to_string(&page).unwrap();
        for target in link_targets(&text) {
            links += 1;
            if let Err(why) = resolve(&page, &text, &target) {
                broken.push(format!("{}: ({target}) {why}", page.display()));
            }
        }
    }
    assert!(links > 100, "only {links} links found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Targets of links that are not addresses of other hosts.
fn link_targets(text: &str) -> Vec<String> {
    let prose = without_code(text);
    let mut targets = Vec::new();
    for (at, _) in prose.match_indices("](") {
        let rest = &prose[at + 2..];
        let Some((target, _)) = rest.split_once(')') else {
            continue;
        };
        if !target.contains("://") && !target.starts_with("mailto:") {
            targets.push(target.trim().to_owned());
        }
    }
    targets
}

/// A page without its fenced blocks and without the text of inline code. Link text in backticks keeps its brackets.
fn without_code(text: &str) -> String {
    let mut prose = String::new();
    let mut is_fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced {
            let parts = line.split('`').enumerate();
            let outside = parts.filter_map(|(number, part)| (number % 2 == 0).then_some(part));
            prose.extend(outside);
            prose.push('\n');
        }
    }
    prose
}

fn resolve(page: &Path, text: &str, target: &str) -> Result<(), String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        page.to_path_buf()
    } else {
        page.parent().unwrap().join(file)
    };
    if !path.exists() {
        return Err("there is no such file".to_owned());
    }
    if anchor.is_empty() || path.extension().is_none_or(|extension| extension != "md") {
        return Ok(());
    }
    let text = if file.is_empty() {
        text.to_owned()
    } else {
        fs::read_to_string(&path).map_err(|error| error.to_string())?
    };
    if anchors(&text).contains(anchor) {
        Ok(())
    } else {
        Err(format!("{} has no such heading", path.display()))
    }
}

/// Anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut is_fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_fenced = !is_fenced;
        }
        if is_fenced || !line.starts_with('#') {
            continue;
        }
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        // A heading that occurs again gets a number.
        let mut numbered = anchor.clone();
        for number in 1.. {
            if anchors.insert(numbered) {
                break;
            }
            numbered = format!("{anchor}-{number}");
        }
    }
    anchors
}

#[test]
fn anchors_are_those_of_github() {
    let text = "# `platen verify` finds something\n```\n# no heading\n```\n## A word (`x_y`)\n## A word (`x_y`)\n";
    let expected = [
        "a-word-x_y",
        "a-word-x_y-1",
        "platen-verify-finds-something",
    ];
    assert_eq!(
        anchors(text).iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
    let links = link_targets("See [`a`](b.md#c), `[x](y)` and [web](https://example.com).");
    assert_eq!(links, ["b.md#c"]);
}

/// Names with two underscores or more that pages take from elsewhere, or quote as examples.
const FOREIGN: &[&str] = &[
    "AWS_SESSION_TOKEN",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "pg_use_reserved_connections",
    "proxy_next_upstream",
    "synchronous_standby_names",
    "what_was_paid_for_waits_while_the_stores_replies_are_lost",
];

/// Pages name tests, constraints, metrics and variables. One that was renamed or removed is found here.
#[test]
fn pages_name_only_what_exists() {
    let extensions = [
        "rs", "sql", "lua", "toml", "yml", "yaml", "json", "py", "pml", "txt", "html",
    ];
    let mut code = String::new();
    for path in repository::files(&["."], &extensions) {
        // Names of files are names of tests, too. This file's own examples do not count.
        if !path.ends_with("tests/tests/docs.rs") {
            writeln!(code, "{}", path.display()).unwrap();
            code.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
    for name in ["Makefile", ".ci/run", "scripts/setup", "scripts/model"] {
        code.push_str(&fs::read_to_string(tests::root(name)).unwrap());
    }
    let mut unknown = BTreeSet::new();
    for page in repository::files(&["."], &["md"]) {
        let is_history = page.ends_with("CHANGELOG.md")
            || page
                .parent()
                .is_some_and(|folder| folder.ends_with("decisions"));
        if is_history {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        for name in named(&text) {
            if !FOREIGN.contains(&name) && !code.contains(name) {
                unknown.insert(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "nothing in the code has these names: {unknown:#?}"
    );
}

/// Names in inline code with two underscores or more, which are hardly ever words of English, and filters of `make test`.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_name = |text: &&str| {
        text.matches('_').count() >= 2
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let unfenced = text.split("```").step_by(2);
    let inline = unfenced.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let filters = text.split("make test ARGS=").skip(1);
    let filters = filters.filter_map(|rest| rest.split(['`', ' ', '"', '\n', '<']).next());
    inline
        .filter(is_name)
        .chain(filters.filter(|filter| !filter.is_empty()))
}
