//! Catalogues for tests: the shipped files in a folder of their own, with a line changed or a file added.

use std::path::Path;

use tempfile::TempDir;

/// A copy of the shipped files.
pub fn shipped() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    for file in std::fs::read_dir(models).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Replaces the first occurrence of a line, which must be there.
pub fn change(folder: &TempDir, file: &str, line: &str, by: &str) {
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(line), "{file} has no line {line}");
    std::fs::write(path, text.replacen(line, by, 1)).unwrap();
}

/// Adds to a file, or begins it.
pub fn add(folder: &TempDir, file: &str, text: &str) {
    let path = folder.path().join(file);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(path, before + text).unwrap();
}
