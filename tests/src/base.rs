//! The version whose processes still serve while a newer one migrates: pinned in `tests/rolling-base`, built once, kept in
//! `target/rolling-base`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::root;

/// The pinned version, or another in its place.
#[derive(Debug)]
pub struct Base {
    pub commit: String,
    /// The number of its last migration.
    pub migration: u32,
}

/// What was built of it.
pub struct Built {
    pub platen: PathBuf,
    /// The catalogue it was shipped with.
    pub models: PathBuf,
}

impl Base {
    /// As `tests/rolling-base` says.
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

    /// Its program, built where that has not been done.
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
        // What a build that was ended early has left.
        let _none_is_well = fs::remove_dir_all(&folder);
        fs::create_dir_all(&source)?;
        unpack(&self.commit, &source)?;
        link_dependencies(ours, &target.join("debug"))?;
        let mut cargo = Command::new("cargo");
        // The whole workspace, as we are built: so its dependencies have the same features, and ours are taken.
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

/// The number of the last migration of this tree.
pub fn newest_migration() -> anyhow::Result<u32> {
    let files = fs::read_dir(root("migrations"))?;
    newest(files.filter_map(|file| file.ok()?.file_name().into_string().ok()))
}

/// Of `0001_what.sql`, perhaps in a folder, the greatest number.
fn newest(files: impl Iterator<Item = String>) -> anyhow::Result<u32> {
    let numbers = files.filter_map(|file| {
        let name = file.rsplit('/').next()?;
        name.split_once('_')?.0.parse().ok()
    });
    numbers.max().context("there are no migrations")
}

/// Links what was built of the dependencies, so that what is the same there is not built again.
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
    let files = archive.stdout.take().context("git writes to us")?;
    let unpacked = Command::new("tar")
        .arg("-x")
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

fn git(words: &[&str]) -> anyhow::Result<String> {
    let answer = Command::new("git")
        .args(words)
        .current_dir(root(""))
        .output()?;
    if !answer.status.success() {
        bail!(
            "git {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&answer.stderr).trim()
        );
    }
    Ok(String::from_utf8(answer.stdout)?.trim().to_owned())
}
