//! Catalogues for tests: the shipped files in a folder of their own, with a line changed or a file added.

use std::path::Path;

use tempfile::TempDir;

/// A copy of the shipped files.
pub fn shipped() -> TempDir {
    copied(&crate::root("models"))
}

/// A copy of a version's files.
pub fn copied(models: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
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

/// Lets a fake play Vertex AI and Interactions for processes of their own, whose configuration can name no fake.
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

/// The same for OpenAI; its key is whatever `OPENAI_API_KEY` says.
pub fn openai_played_by(folder: &TempDir, url: &str) {
    let line = "dialect = \"openai\"";
    let with_address = format!("{line}\nbase_url = \"{url}\"\napi_key = \"OPENAI_API_KEY\"");
    change(folder, "openai.toml", line, &with_address);
}

/// What such a process must be told besides: the fake is also where tokens come from.
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

/// Gives every model of a file so many seconds for a call.
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
