//! The URLs of running servers, and the file of the data folder that tells them to other processes.

use std::{
    fs::File,
    io::{Read, Seek},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The URLs of the servers of a data folder. They contain passwords, so this type has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Urls {
    /// The process that started the servers.
    pub pid: u32,
    /// The login `platen`, for the commands of the program. It may act as every runtime role and has no rights of its
    /// own.
    pub database_url: String,
    /// Logins that act as one role each. `None` if an older Platen wrote the file.
    #[serde(default)]
    pub logins: Option<LoginUrls>,
    /// The login `platen_admin`, which owns and migrates the database.
    pub owner_url: String,
    /// The Redis that keeps the ready queue.
    pub redis_url: String,
}

/// Database URLs whose logins act as one role each.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginUrls {
    /// For the role `platen_api`.
    pub api: String,
    /// For the role `platen_worker`.
    pub worker: String,
    /// For the role `platen_reader`.
    pub reader: String,
}

/// The file that tells where the servers of a data folder answer.
///
/// The same file is the lock on the data folder, so that lock and content cannot disagree:
///
/// - If the file is locked and has content, the servers run.
/// - If it is locked and empty, the servers are starting.
/// - If it is not locked, its content is from an earlier run.
pub(crate) fn urls_file(data: &Path) -> PathBuf {
    data.join("servers.json")
}

/// The URLs of the servers that a running Platen keeps in this data folder. Returns `None` if no Platen runs there, or
/// if its file cannot be opened.
///
/// # Errors
///
/// Returns an error if a Platen is just starting there, or if its file cannot be read.
pub fn running_urls(data: &Path) -> Result<Option<Urls>> {
    let Ok(mut file) = File::open(urls_file(data)) else {
        return Ok(None);
    };
    // Nobody holds the lock, so no Platen runs. A shared lock, so that two readers do not take each other for a Platen.
    if file.try_lock_shared().is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let urls = serde_json::from_str(&text).with_context(|| {
        format!(
            "the Platen in {} is just starting: try again",
            data.display()
        )
    })?;
    Ok(Some(urls))
}
