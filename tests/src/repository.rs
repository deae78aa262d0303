//! The repository as git knows it, for tests that read code and pages.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;

use crate::root;

/// Finds the files in these folders (`.` for the whole repository) with one of these extensions, sorted. Without extensions, all
/// files. A new file counts unless git ignores it.
///
/// # Panics
///
/// Git does not answer, or finds no such file.
pub fn files(folders: &[&str], extensions: &[&str]) -> Vec<PathBuf> {
    let mut arguments = vec![
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
    ];
    arguments.extend(folders);
    let listed = git(&arguments).unwrap();
    let is_wanted = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extensions.is_empty() || extension.is_some_and(|found| extensions.contains(&found))
    };
    // A file that was deleted and not committed is still listed. A link may lead to a folder.
    let mut files: Vec<PathBuf> = listed
        .split_terminator('\0')
        .map(root)
        .filter(|path| path.is_file() && is_wanted(path))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no {extensions:?} in {folders:?}");
    files
}

/// Runs git at the root of the repository, and returns what it prints.
///
/// # Errors
///
/// Returns an error, with git's own message, if git fails.
pub fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root(""))
        .output()?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}
