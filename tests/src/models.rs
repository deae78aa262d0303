//! Catalogues for tests: copies of the shipped files, with a line changed or a file added.

use std::path::Path;

use tempfile::TempDir;

/// A copy of the shipped catalogue.
pub fn shipped() -> TempDir {
    copied(&crate::root("models"))
}

/// A copy of the catalogue in another folder.
pub fn copied(models: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(models).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Replaces the first occurrence of a line.
///
/// # Panics
///
/// The file has no such line.
pub fn change(folder: &TempDir, file: &str, line: &str, by: &str) {
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(line), "{file} has no line {line}");
    std::fs::write(path, text.replacen(line, by, 1)).unwrap();
}

/// Appends to a file, which is created if it does not exist.
pub fn add(folder: &TempDir, file: &str, text: &str) {
    let path = folder.path().join(file);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(path, before + text).unwrap();
}

/// Sets the address of Vertex AI and Interactions to a fake. Needed for real processes, because only `platen up` and a
/// worker inside a test can be configured to use a fake.
pub fn played_by(folder: &TempDir, url: &str) {
    for dialect in ["vertex", "interactions"] {
        let line = format!("dialect = \"{dialect}\"");
        let with_address = format!("{line}\nbase_url = \"{url}\"");
        change(folder, &format!("{dialect}.toml"), &line, &with_address);
    }
    change(
        folder,
        "interactions.toml",
        "base_url",
        "api_key = \"GEMINI_API_KEY\"\nbase_url",
    );
}

/// Sets the address of OpenAI to a fake. It accepts any `OPENAI_API_KEY`.
pub fn openai_played_by(folder: &TempDir, url: &str) {
    let line = "dialect = \"openai\"";
    let with_address = format!("{line}\nbase_url = \"{url}\"\napi_key = \"OPENAI_API_KEY\"");
    change(folder, "openai.toml", line, &with_address);
}

/// The variables that a process needs for such a catalogue. Tokens come from the fake, too.
pub fn keys(url: &str) -> Vec<(String, String)> {
    let host = url.trim_start_matches("http://");
    let variables = [
        ("PLATEN_PROVIDERS", "vertex,interactions"),
        ("GOOGLE_CLOUD_PROJECT", "synthetic"),
        ("GCE_METADATA_HOST", host),
        ("GEMINI_API_KEY", "a key"),
    ];
    variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Sets the timeout of a call for every model of a file.
pub fn patience(folder: &TempDir, file: &str, seconds: u32) {
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| {
        if line.starts_with("timeout_seconds") {
            format!("timeout_seconds = {seconds}\n")
        } else {
            format!("{line}\n")
        }
    });
    std::fs::write(path, lines.collect::<String>()).unwrap();
}
