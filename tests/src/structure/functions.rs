//! The functions of a file: where they are, how long they are, and what they return.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, File, GenericArgument, PathArguments, Signature, Type};

/// A function or method with a body.
pub struct Function {
    /// With the type that it belongs to: `Credits::checked_add`.
    pub name: String,
    /// The line of its documentation or first attribute.
    pub first_line: usize,
    /// The line of its signature.
    pub line: usize,
    /// The line of its closing brace.
    pub last_line: usize,
    /// Whether it is a test or compiled for tests only.
    pub is_test: bool,
    /// It returns a `Result` of a `Result`, and so has two kinds of failure that look alike.
    pub returns_nested_result: bool,
}

impl Function {
    /// Lines from the signature to the closing brace, without documentation and attributes.
    pub fn length(&self) -> usize {
        self.last_line + 1 - self.line
    }
}

/// All functions of a file, inner ones too. What macros write is not seen.
pub fn of(file: &File, is_test: bool) -> Vec<Function> {
    let mut finder = Finder {
        is_test,
        owner: None,
        functions: Vec::new(),
    };
    finder.visit_file(file);
    finder.functions
}

struct Finder {
    is_test: bool,
    /// The type or trait whose methods are read.
    owner: Option<String>,
    functions: Vec<Function>,
}

impl Finder {
    fn add(&mut self, attributes: &[Attribute], signature: &Signature, body: &Block) {
        let line = signature.span().start().line;
        let name = match &self.owner {
            Some(owner) => format!("{owner}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        self.functions.push(Function {
            name,
            first_line: attributes
                .iter()
                .map(|attribute| attribute.span().start().line)
                .fold(line, usize::min),
            line,
            last_line: body.brace_token.span.close().end().line,
            is_test: self.is_test || attributes.iter().any(marks_test),
            returns_nested_result: returns_nested_result(signature),
        });
    }

    fn inside(&mut self, owner: Option<String>, is_test: bool, visit: impl FnOnce(&mut Self)) {
        let outer = (self.owner.take(), self.is_test);
        self.owner = owner;
        self.is_test |= is_test;
        visit(self);
        (self.owner, self.is_test) = outer;
    }
}

impl<'a> Visit<'a> for Finder {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        let is_test = module.attrs.iter().any(marks_test);
        self.inside(None, is_test, |finder| {
            visit::visit_item_mod(finder, module);
        });
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let is_test = item.attrs.iter().any(marks_test);
        self.inside(name_of(&item.self_ty), is_test, |finder| {
            visit::visit_item_impl(finder, item);
        });
    }

    fn visit_item_trait(&mut self, item: &'a syn::ItemTrait) {
        let is_test = item.attrs.iter().any(marks_test);
        self.inside(Some(item.ident.to_string()), is_test, |finder| {
            visit::visit_item_trait(finder, item);
        });
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.add(&item.attrs, &item.sig, &item.block);
        let is_test = item.attrs.iter().any(marks_test);
        self.inside(None, is_test, |finder| visit::visit_item_fn(finder, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.add(&item.attrs, &item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.add(&item.attrs, &item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

fn name_of(of: &Type) -> Option<String> {
    match of {
        Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        Type::Reference(reference) => name_of(&reference.elem),
        _ => None,
    }
}

/// `#[cfg(test)]`, `#[test]`, `#[tokio::test]`.
pub(super) fn marks_test(attribute: &Attribute) -> bool {
    if attribute.path().is_ident("cfg") {
        return attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|condition| condition.is_ident("test"));
    }
    let path = &attribute.path().segments;
    path.last().is_some_and(|last| last.ident == "test")
}

fn returns_nested_result(signature: &Signature) -> bool {
    struct Search(bool);
    impl<'a> Visit<'a> for Search {
        fn visit_path_segment(&mut self, segment: &'a syn::PathSegment) {
            let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
                return;
            };
            if segment.ident == "Result"
                && let Some(GenericArgument::Type(Type::Path(inner))) = arguments.args.first()
                && let Some(inner) = inner.path.segments.last()
            {
                self.0 |= inner.ident == "Result";
            }
            visit::visit_path_segment(self, segment);
        }
    }
    let mut search = Search(false);
    search.visit_return_type(&signature.output);
    search.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_with_their_lines() {
        let text = "
/// Adds.
fn add(
    a: u8,
) -> u8 {
    fn inner() {}
    a
}
impl<'a> Sum<'a> {
    async fn of() -> io::Result<Result<u8, Full>> { 1 }
}
#[cfg(test)]
mod tests {
    fn helper() {}
}
";
        let found: Vec<_> = of(&syn::parse_file(text).unwrap(), false)
            .into_iter()
            .map(|f| {
                let lines = (f.first_line, f.line, f.length());
                (f.name, lines, f.is_test, f.returns_nested_result)
            })
            .collect();
        let expected = [
            ("add", (2, 3, 6), false, false),
            ("inner", (6, 6, 1), false, false),
            ("Sum::of", (10, 10, 1), false, true),
            ("helper", (14, 14, 1), true, false),
        ];
        assert_eq!(
            found,
            expected.map(|(name, lines, test, nested)| (name.to_owned(), lines, test, nested))
        );
    }
}
