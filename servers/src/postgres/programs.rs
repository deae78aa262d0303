//! Finds the installed versions of Postgres.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::program;

const MIN_VERSION: u32 = 15;
const INSTALL: &str = "Platen needs PostgreSQL 15 or newer (the programs `initdb` and `postgres`): on Debian and Ubuntu \
    `sudo apt-get install postgresql`, elsewhere the PostgreSQL server of your system; or set DATABASE_URL to a server \
    of your own";

/// The programs of one version of Postgres.
pub(super) struct Programs {
    /// Creates a cluster.
    pub(super) initdb: PathBuf,
    /// The server.
    pub(super) postgres: PathBuf,
}

impl Programs {
    /// Finds the version that created the cluster, or the newest version if there is no cluster yet.
    ///
    /// # Errors
    ///
    /// Returns an error if that version is not installed, or if all installed versions are too old.
    pub(super) fn find(cluster: &Path) -> Result<Self> {
        let cluster_version: Option<u32> = match fs::read_to_string(cluster.join("PG_VERSION")) {
            Ok(version) => version.trim().parse().ok(),
            Err(_) => None,
        };
        let mut installed = installed();
        installed.sort_by_key(|&(version, _)| version);
        let newest = installed.last().map(|&(version, _)| version);
        let (_, bin) = installed
            .into_iter()
            .rfind(|&(version, _)| cluster_version.is_none_or(|cluster_version| cluster_version == version) && version >= MIN_VERSION)
            .with_context(|| match (cluster_version, newest) {
                (Some(cluster_version), _) => format!(
                    "{} was made by PostgreSQL {cluster_version}, which is not installed: on Debian and Ubuntu \
                     `sudo apt-get install postgresql-{cluster_version}`",
                    cluster.display()
                ),
                (None, Some(newest)) => format!("PostgreSQL {newest} is too old. {INSTALL}"),
                (None, None) => INSTALL.to_owned(),
            })?;
        Ok(Self {
            initdb: bin.join("initdb"),
            postgres: bin.join("postgres"),
        })
    }
}

/// A sentence that says what to install before a private Postgres can start. Returns `None` if a version that is new
/// enough is installed.
pub fn missing() -> Option<&'static str> {
    (!installed()
        .iter()
        .any(|&(version, _)| version >= MIN_VERSION))
    .then_some(INSTALL)
}

/// The installed versions, each with the folder that contains both programs: the folder in `PATH`, and the folders of
/// Debian's packages, which are not in `PATH`.
fn installed() -> Vec<(u32, PathBuf)> {
    let in_path =
        program::in_path("postgres").and_then(|program| Some(program.parent()?.to_owned()));
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    debian
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .chain(in_path)
        .filter(|bin| bin.join("initdb").is_file())
        .filter_map(|bin| {
            Some((
                program::major_version(&bin.join("postgres"), "(PostgreSQL) ")?,
                bin,
            ))
        })
        .collect()
}
