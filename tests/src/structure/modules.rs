//! The modules of a crate, and which file names which other, by `use` or by a qualified path.
//!
//! A path belongs to the longest module that exists: `crate::jobs::lease::Claim` is `jobs::lease`. A re-export belongs to
//! the module that re-exports. Code under `#[cfg(test)]` does not count, and what macros write is not seen.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{File, Item, UseTree};

use super::functions::marks_test;

/// The names of a module and of those around it, from the root of its crate: `["jobs", "lease"]`.
type ModulePath = Vec<String>;

/// A library or a program of the workspace.
pub struct Crate {
    /// The file at its root: `api/src/lib.rs`.
    pub root: String,
    /// Modules that have a file of their own.
    pub files: BTreeMap<ModulePath, String>,
    /// Files that are compiled for tests only.
    pub test_files: BTreeSet<String>,
    /// The imports between its modules.
    pub edges: BTreeSet<Edge>,
}

/// One file names another of the same crate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Edge {
    /// The module that imports.
    pub from: ModulePath,
    /// The module whose item is imported.
    pub to: ModulePath,
    /// Where `from` names it, the first time.
    pub line: usize,
}

impl Edge {
    /// One of the two is inside the other.
    pub fn is_of_one_branch(&self) -> bool {
        self.from.starts_with(&self.to) || self.to.starts_with(&self.from)
    }
}

impl Crate {
    /// All crates with these files: each `src/lib.rs` and `src/main.rs` is the root of one.
    pub fn all(files: &BTreeMap<String, File>) -> Vec<Self> {
        files
            .keys()
            .filter(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"))
            .map(|root| Self::of(root, files))
            .collect()
    }

    fn of(root: &str, files: &BTreeMap<String, File>) -> Self {
        let mut reader = Reader {
            all: files,
            modules: BTreeMap::new(),
            files: BTreeMap::new(),
            test_files: BTreeSet::new(),
        };
        reader.read_file(root, &[], false);

        let mut edges = BTreeMap::new();
        for (module, file) in &reader.files {
            let mut paths = Paths::new(module.clone());
            paths.visit_file(&files[file]);
            for (to, line) in paths.resolve(&reader.modules) {
                let first = edges.entry((module.clone(), to)).or_insert(line);
                *first = line.min(*first);
            }
        }
        Self {
            root: root.to_owned(),
            files: reader.files,
            test_files: reader.test_files,
            edges: edges
                .into_iter()
                .filter(|((from, to), _)| from != to)
                .map(|((from, to), line)| Edge { from, to, line })
                .collect(),
        }
    }

    /// An import for people: `api/src/router.rs:18 -> api/src/app.rs`.
    pub fn show(&self, edge: &Edge) -> String {
        let [from, to] = [&edge.from, &edge.to].map(|module| &self.files[module]);
        format!("{from}:{} -> {to}", edge.line)
    }

    /// Its folder, which is how people call it: `common/domain`.
    pub fn folder(&self) -> &str {
        self.root.split("/src/").next().unwrap_or(&self.root)
    }
}

/// Follows `mod` items from the root of a crate.
struct Reader<'a> {
    all: &'a BTreeMap<String, File>,
    /// Each module, and the module whose file it is in: itself, or for `mod inner { … }` one around it.
    modules: BTreeMap<ModulePath, ModulePath>,
    files: BTreeMap<ModulePath, String>,
    test_files: BTreeSet<String>,
}

impl Reader<'_> {
    fn read_file(&mut self, path: &str, module: &[String], is_test: bool) {
        if is_test {
            self.test_files.insert(path.to_owned());
        } else {
            self.files.insert(module.to_owned(), path.to_owned());
            self.modules.insert(module.to_owned(), module.to_owned());
        }
        let stem = path.trim_end_matches(".rs");
        let (parent, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        let folder = if matches!(name, "lib" | "main" | "mod") {
            parent
        } else {
            stem
        };
        self.read_items(&self.all[path].items, folder, module, module, is_test);
    }

    fn read_items(
        &mut self,
        items: &[Item],
        folder: &str,
        module: &[String],
        file: &[String],
        is_test: bool,
    ) {
        for item in items {
            let Item::Mod(inner) = item else { continue };
            let is_test = is_test || inner.attrs.iter().any(marks_test);
            let name = inner.ident.to_string();
            let folder = format!("{folder}/{name}");
            let mut module = module.to_owned();
            module.push(name);
            if let Some((_, items)) = &inner.content {
                if !is_test {
                    self.modules.insert(module.clone(), file.to_owned());
                }
                self.read_items(items, &folder, &module, file, is_test);
                continue;
            }
            let places = [format!("{folder}.rs"), format!("{folder}/mod.rs")];
            if let Some(path) = places.iter().find(|path| self.all.contains_key(*path)) {
                self.read_file(path, &module, is_test);
            }
        }
    }
}

/// All paths of a file that may name a module, as they are written.
struct Paths {
    /// The module whose items are read.
    module: ModulePath,
    imports: Vec<Import>,
    named: Vec<Named>,
}

/// A leaf of a `use`, and the name that it has from there on.
struct Import {
    path: Named,
    name: String,
}

struct Named {
    /// The module in which it is written.
    within: ModulePath,
    segments: Vec<String>,
    line: usize,
}

impl Paths {
    fn new(file: ModulePath) -> Self {
        Self {
            module: file,
            imports: Vec::new(),
            named: Vec::new(),
        }
    }

    /// The files that these paths lead to, with lines.
    fn resolve(&self, modules: &BTreeMap<ModulePath, ModulePath>) -> Vec<(ModulePath, usize)> {
        let mut scope = Scope {
            modules,
            imported: BTreeMap::new(),
        };
        let mut found = Vec::new();
        // Twice: an import may begin with the name that a later one brings.
        for _ in 0..2 {
            for Import { path, name } in &self.imports {
                let Some((module, rest)) = scope.find(path) else {
                    continue;
                };
                if rest == 0 {
                    let key = (path.within.clone(), name.clone());
                    scope.imported.insert(key, module.clone());
                }
                found.push((module, path.line));
            }
        }
        for path in &self.named {
            found.extend(scope.find(path).map(|(module, _)| (module, path.line)));
        }
        found
            .into_iter()
            .map(|(module, line)| (modules[&module].clone(), line))
            .collect()
    }

    fn add(&mut self, segments: Vec<String>, line: usize) {
        // A single name is a variable, or an item that a `use` already told.
        if segments.len() > 1 {
            self.named.push(Named {
                within: self.module.clone(),
                segments,
                line,
            });
        }
    }

    fn add_import(&mut self, tree: &UseTree, before: &[String]) {
        let mut segments = before.to_owned();
        let name = match tree {
            UseTree::Path(path) => {
                segments.push(path.ident.to_string());
                return self.add_import(&path.tree, &segments);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_import(tree, before);
                }
                return;
            }
            UseTree::Name(name) => {
                segments.push(name.ident.to_string());
                name.ident.to_string()
            }
            UseTree::Rename(rename) => {
                segments.push(rename.ident.to_string());
                rename.rename.to_string()
            }
            UseTree::Glob(_) => String::new(),
        };
        // `use crate::jobs::{self}` names `jobs`.
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let name = match name.as_str() {
            "self" => segments.last().cloned().unwrap_or_default(),
            _ => name,
        };
        self.imports.push(Import {
            path: Named {
                within: self.module.clone(),
                segments,
                line: tree.span().start().line,
            },
            name,
        });
    }

    /// Paths in the arguments of a macro or an attribute, which are not parsed.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 || segments.is_empty() {
                        let path = std::mem::take(&mut segments);
                        self.add(path, line);
                        line = ident.span().start().line;
                    }
                    segments.push(ident.to_string());
                }
                other => {
                    let path = std::mem::take(&mut segments);
                    self.add(path, line);
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
            colons = 0;
        }
        self.add(segments, line);
    }
}

/// What the names of a file mean.
struct Scope<'a> {
    modules: &'a BTreeMap<ModulePath, ModulePath>,
    /// Modules that a `use` brought into another module, by that module and the name.
    imported: BTreeMap<(ModulePath, String), ModulePath>,
}

impl Scope<'_> {
    /// The longest module that a path names, and how many segments come after it.
    fn find(&self, path: &Named) -> Option<(ModulePath, usize)> {
        let mut segments = path.segments.iter().peekable();
        let mut module = match segments.next()?.as_str() {
            "crate" => Vec::new(),
            "self" => path.within.clone(),
            "super" => parent(&path.within)?,
            first => self.named(&path.within, first)?,
        };
        while segments.next_if(|name| *name == "super").is_some() {
            module = parent(&module)?;
        }
        while let Some(name) = segments.peek() {
            let mut inner = module.clone();
            inner.push((*name).clone());
            if !self.modules.contains_key(&inner) {
                break;
            }
            module = inner;
            segments.next();
        }
        Some((module, segments.count()))
    }

    fn named(&self, within: &ModulePath, name: &str) -> Option<ModulePath> {
        let mut inner = within.clone();
        inner.push(name.to_owned());
        if self.modules.contains_key(&inner) {
            return Some(inner);
        }
        let key = (within.clone(), name.to_owned());
        self.imported.get(&key).cloned()
    }
}

fn parent(module: &ModulePath) -> Option<ModulePath> {
    let (_, around) = module.split_last()?;
    Some(around.to_owned())
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !attributes.iter().any(marks_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.add_import(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments = path.segments.iter().map(|part| part.ident.to_string());
        self.add(segments.collect(), path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        visit::visit_path(self, &item.path);
        self.add_tokens(item.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'a syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the file of the module `a` imports, where the crate has the modules `a`, `a::inner`, `b` and `b::deep`.
    fn imports_of(a: &str) -> Vec<String> {
        let files = [
            ("x/src/lib.rs", "mod a; pub mod b;"),
            ("x/src/a.rs", a),
            ("x/src/a/inner.rs", ""),
            ("x/src/b.rs", "pub mod deep; pub use deep::Thing;"),
            ("x/src/b/deep.rs", "pub struct Thing;"),
        ];
        let files: BTreeMap<String, File> = files
            .into_iter()
            .map(|(path, text)| (path.to_owned(), syn::parse_file(text).unwrap()))
            .collect();
        let [krate] = &Crate::all(&files)[..] else {
            panic!("one crate is expected")
        };
        let edges = krate.edges.iter().filter(|edge| edge.from == ["a"]);
        edges.map(|edge| edge.to.join("::")).collect()
    }

    #[test]
    fn a_path_leads_to_the_longest_module_that_exists() {
        for (text, expected) in [
            ("use crate::b::deep::Thing;", &["b::deep"][..]),
            ("use crate::b::Thing;", &["b"]),
            (
                "use super::b::{self, deep::{Thing, Other}};",
                &["b", "b::deep"],
            ),
            ("use crate::b; fn f() { b::deep::f(); }", &["b", "b::deep"]),
            (
                "use crate::b::deep as it; fn f(_: it::Thing) {}",
                &["b::deep"],
            ),
            ("mod inner; use inner::Thing;", &["a::inner"]),
            ("mod inner; use self::inner::Thing;", &["a::inner"]),
            ("mod here { use super::super::b::Thing; }", &["b"]),
            ("fn f() { vec![crate::b::deep::Thing]; }", &["b::deep"]),
            ("#[doc(alias(crate::b::X))] fn f() {}", &["b"]),
            ("use std::b::deep; fn b() { let b = 1; }", &[]),
            ("#[cfg(test)] mod tests { use crate::b::Thing; }", &[]),
            ("#[cfg(test)] use crate::b::Thing;", &[]),
        ] {
            assert_eq!(imports_of(text), expected, "{text}");
        }
    }
}
