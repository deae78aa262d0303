//! The structure of the code, measured: functions with their lengths, files, and which file imports which.
//!
//! `make structure` prints it, `make draw` draws functions to read, and the test `structure` holds the limits. Read next:
//! [`functions`], then [`modules`], then [`circles`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Context;

use crate::figures::percentile;
use crate::repository;

pub mod circles;
pub mod functions;
pub mod modules;

use functions::Function;
use modules::Crate;

/// All Rust files of the repository, and the crates that they make.
pub struct Workspace {
    /// The Rust files, in the order of their paths.
    pub files: Vec<SourceFile>,
    /// The crates of the workspace.
    pub crates: Vec<Crate>,
}

/// A Rust file.
pub struct SourceFile {
    /// From the root of the repository.
    pub path: String,
    /// The whole text of the file.
    pub text: String,
    /// In a folder of tests, in the crate `tests`, or a module under `#[cfg(test)]`.
    pub is_test: bool,
    /// The functions in the file, in their order.
    pub functions: Vec<Function>,
}

impl SourceFile {
    /// Its length in lines.
    pub fn length(&self) -> usize {
        self.text.lines().count()
    }

    /// A function's whole text, with its documentation and attributes.
    pub fn text_of(&self, function: &Function) -> String {
        let lines = self.text.lines().skip(function.first_line - 1);
        lines
            .take(function.last_line + 1 - function.first_line)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Workspace {
    /// Reads every Rust file that git knows.
    pub fn read() -> anyhow::Result<Self> {
        let mut texts = BTreeMap::new();
        let mut parsed = BTreeMap::new();
        for file in repository::files(&["."], &["rs"]) {
            let path = file.strip_prefix(crate::root(""))?;
            let path = path.to_str().context("a name in UTF-8")?.to_owned();
            let text = fs::read_to_string(&file).with_context(|| path.clone())?;
            let syntax = syn::parse_file(&text).with_context(|| path.clone())?;
            texts.insert(path.clone(), text);
            parsed.insert(path, syntax);
        }

        let crates = Crate::all(&parsed);
        let test_modules: BTreeSet<&str> = crates
            .iter()
            .flat_map(|krate| &krate.test_files)
            .map(String::as_str)
            .collect();
        let files = texts
            .into_iter()
            .map(|(path, text)| {
                let is_test = is_of_tests(&path) || test_modules.contains(path.as_str());
                let functions = functions::of(&parsed[&path], is_test);
                SourceFile {
                    path,
                    text,
                    is_test,
                    functions,
                }
            })
            .collect();
        Ok(Self { files, crates })
    }

    /// Every function with its file.
    pub fn functions(&self) -> impl Iterator<Item = (&SourceFile, &Function)> {
        self.files
            .iter()
            .flat_map(|file| file.functions.iter().map(move |function| (file, function)))
    }

    /// The functions that ship, shortest first.
    pub fn shipped_functions(&self) -> Vec<(&SourceFile, &Function)> {
        let mut functions: Vec<_> = self
            .functions()
            .filter(|(_, function)| !function.is_test)
            .collect();
        functions.sort_by_key(|(_, function)| function.length());
        functions
    }

    /// The length in lines that `percent` percent of the functions that ship do not exceed.
    pub fn length_of_functions(&self, percent: usize) -> usize {
        let functions = self.shipped_functions();
        let lengths: Vec<usize> = functions
            .iter()
            .map(|(_, function)| function.length())
            .collect();
        percentile(&lengths, percent)
    }

    /// The files that ship, longest first.
    pub fn shipped_files(&self) -> Vec<&SourceFile> {
        let mut files: Vec<_> = self.files.iter().filter(|file| !file.is_test).collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.length()));
        files
    }
}

/// The current commit's hash.
pub fn current_commit() -> anyhow::Result<String> {
    Ok(repository::git(&["rev-parse", "HEAD"])?.trim().to_owned())
}

fn is_of_tests(path: &str) -> bool {
    path.split('/').any(|folder| folder == "tests")
}
