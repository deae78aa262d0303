//! The older version whose processes serve while this version migrates. It is pinned in `tests/rolling-base`, built once,
//! and kept in `target/rolling-base`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::repository::git;
use crate::root;

/// The older version: the pinned one or another.
#[derive(Debug)]
pub struct Base {
    /// Its commit.
    pub commit: String,
    /// The number of its last migration.
    pub migration: u32,
}

/// The result of its build.
pub struct Built {
    /// The program.
    pub platen: PathBuf,
    /// Its catalogue.
    pub models: PathBuf,
}

impl Base {
    /// The version in `tests/rolling-base`.
    pub fn pinned() -> anyhow::Result<Self> {
        let text = fs::read_to_string(root("tests/rolling-base"))?;
        let value = |name: &str| {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.with_context(|| format!("tests/rolling-base has no line `{name} …`"))
        };
        Ok(Self {
            commit: value("commit")?.to_owned(),
            migration: value("migration")?.parse()?,
        })
    }

    /// The version of a commit of this repository.
    pub fn of(commit: &str) -> anyhow::Result<Self> {
        let commit = git(&[
            "rev-parse",
            "--verify",
            "--quiet",
            &format!("{commit}^{{commit}}"),
        ])
        .with_context(|| not_here(commit))?;
        let files = git(&["ls-tree", "--name-only", &commit, "migrations/"])?;
        Ok(Self {
            migration: newest(files.lines().map(str::to_owned))?,
            commit,
        })
    }

    /// Builds its program, unless that was done before.
    pub fn build(&self) -> anyhow::Result<Built> {
        let ours = std::env::current_exe()?;
        let ours = ours.parent().context("a program is in a folder")?;
        let folder = ours.join("../rolling-base").join(&self.commit);
        let built = Built {
            platen: folder.join("platen"),
            models: folder.join("models"),
        };
        if built.platen.is_file() {
            return Ok(built);
        }
        git(&["cat-file", "-e", &format!("{}^{{commit}}", self.commit)])
            .with_context(|| not_here(&self.commit))?;
        println!("building {} once, which takes minutes", self.commit);
        let (source, target) = (folder.join("source"), folder.join("target"));
        // Left from a build that was interrupted. It is no error if there is nothing.
        let _removed = fs::remove_dir_all(&folder);
        fs::create_dir_all(&source)?;
        unpack(&self.commit, &source)?;
        link_dependencies(ours, &target.join("debug"))?;
        let mut cargo = Command::new("cargo");
        // The whole workspace, as this program was built, so that dependencies have the same features and need not be
        // built again.
        cargo
            .args(["build", "--locked", "--workspace", "--bin", "platen"])
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", &target);
        ensure!(cargo.status()?.success(), "{} does not build", self.commit);
        if !built.models.exists() {
            fs::rename(source.join("models"), &built.models)?;
        }
        fs::rename(target.join("debug/platen"), &built.platen)?;
        fs::remove_dir_all(target)?;
        fs::remove_dir_all(source)?;
        Ok(built)
    }
}

/// The number of the last migration of this version.
pub fn newest_migration() -> anyhow::Result<u32> {
    let files = fs::read_dir(root("migrations"))?;
    newest(files.filter_map(|file| file.ok()?.file_name().into_string().ok()))
}

/// The greatest number of files named like `0001_what.sql`, with or without a folder.
fn newest(files: impl Iterator<Item = String>) -> anyhow::Result<u32> {
    let numbers = files.filter_map(|file| {
        let name = file.rsplit('/').next()?;
        name.split_once('_')?.0.parse().ok()
    });
    numbers.max().context("there are no migrations")
}

/// Links the built dependencies of this version, so that those that are the same are not built again.
fn link_dependencies(ours: &Path, theirs: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(theirs)?;
    for folder in ["deps", "build", ".fingerprint"] {
        let linked = Command::new("cp")
            .args(["--archive", "--link"])
            .args([ours.join(folder), theirs.join(folder)])
            .status()?;
        ensure!(
            linked.success(),
            "{folder} of our build cannot be linked for the base's"
        );
    }
    Ok(())
}

fn unpack(commit: &str, into: &Path) -> anyhow::Result<()> {
    let mut archive = Command::new("git")
        .args(["archive", "--format=tar", commit])
        .current_dir(root(""))
        .stdout(Stdio::piped())
        .spawn()?;
    let files = archive.stdout.take().context("git has no output")?;
    // Its files are new (`-m`), or cargo would take our crates, which it finds among the dependencies, for those of the base.
    let unpacked = Command::new("tar")
        .args(["-x", "-m"])
        .current_dir(into)
        .stdin(files)
        .status()?;
    ensure!(
        archive.wait()?.success() && unpacked.success(),
        "{commit} cannot be unpacked"
    );
    Ok(())
}

fn not_here(commit: &str) -> String {
    format!(
        "the commit {commit} is not in this repository: fetch its whole history, or name another with BASE=<commit>"
    )
}
