//! Cases that have a test in the suite: each is run as that test.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

/// Row, what is tried, and the end of the test's name.
pub const CASES: &[(&str, &str, &str)] = &[];

/// Runs all of them, and says of each whether it passed.
pub async fn run() -> anyhow::Result<Vec<bool>> {
    let tests: Vec<String> = CASES
        .iter()
        .map(|(_, _, test)| format!("test(/{test}$/)"))
        .collect();
    let output = Command::new("cargo")
        .args([
            "nextest",
            "run",
            "--locked",
            "--workspace",
            "--no-fail-fast",
        ])
        .args(["--status-level", "pass", "--color", "never"])
        .args(["--filterset", &tests.join(" | ")])
        .current_dir(crate::root(""))
        .stdin(Stdio::null())
        .output()
        .await
        .context("cargo nextest does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let passed: BTreeSet<&str> = said
        .lines()
        .filter(|line| line.trim_start().starts_with("PASS "))
        .filter_map(|line| line.rsplit(' ').next())
        .collect();
    ensure!(
        CASES.is_empty() || !passed.is_empty(),
        "no test was run: {said}"
    );
    let of = |test: &str| passed.iter().any(|name| name.ends_with(test));
    Ok(CASES.iter().map(|(_, _, test)| of(test)).collect())
}
