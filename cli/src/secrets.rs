//! Small files only their owner may read.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// A new file with mode 0600, in place of what was there.
pub(crate) fn create(path: &Path) -> anyhow::Result<File> {
    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a whole file with mode 0600.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    create(path)?
        .write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// 256 random bits that need no quoting anywhere: not in a URL, not in SQL, not in a configuration file.
pub(crate) fn random() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// The secret a file holds, made when there is none yet.
pub(crate) fn kept_or_made(path: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(kept) if !kept.is_empty() => return Ok(kept),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
        // Empty: the last one who made it was killed before a word was written.
        _ => {}
    }
    let made = random();
    write(path, &made)?;
    Ok(made)
}
