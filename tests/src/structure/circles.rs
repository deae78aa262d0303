//! Circles: files of a crate that import each other, directly or through others.
//!
//! What a module and its own submodules import from each other does not count: they are one thing.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::{Crate, Edge};

/// The files of a circle, with every import between two of them.
pub struct Circle<'a> {
    /// The imports that close the circle.
    pub edges: Vec<&'a Edge>,
}

/// All circles of a crate: the strongly connected parts of its graph.
pub fn of(krate: &Crate) -> Vec<Circle<'_>> {
    let mut imports: BTreeMap<&[String], Vec<&Edge>> = BTreeMap::new();
    for edge in krate.edges.iter().filter(|edge| !edge.is_of_one_branch()) {
        imports.entry(&edge.from).or_default().push(edge);
    }
    let reached: BTreeMap<&[String], BTreeSet<&[String]>> = imports
        .keys()
        .map(|from| (*from, reached_from(from, &imports)))
        .collect();

    let mut seen: BTreeSet<&[String]> = BTreeSet::new();
    let mut circles = Vec::new();
    for (module, reach) in &reached {
        if !reach.contains(module) || seen.contains(module) {
            continue;
        }
        let circle: BTreeSet<&[String]> = reach
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(module)))
            .collect();
        seen.extend(&circle);
        let edges = circle
            .iter()
            .flat_map(|from| &imports[from])
            .copied()
            .filter(|edge| circle.contains(edge.to.as_slice()))
            .collect();
        circles.push(Circle { edges });
    }
    circles
}

fn reached_from<'a>(
    from: &[String],
    imports: &BTreeMap<&'a [String], Vec<&'a Edge>>,
) -> BTreeSet<&'a [String]> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for edge in imports.get(module).into_iter().flatten() {
            if reached.insert(edge.to.as_slice()) {
                next.push(&edge.to);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate with these imports, by the modules that are in them.
    fn circles(imports: &[(&str, &str)]) -> Vec<Vec<String>> {
        let module = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
        let edges = imports.iter().map(|(from, to)| Edge {
            from: module(from),
            to: module(to),
            line: 1,
        });
        let krate = Crate {
            root: "src/lib.rs".to_owned(),
            files: BTreeMap::new(),
            test_files: BTreeSet::new(),
            edges: edges.collect(),
        };
        let names = |circle: Circle<'_>| {
            let names = circle.edges.iter().map(|edge| edge.from.join("::"));
            names.collect::<BTreeSet<_>>().into_iter().collect()
        };
        of(&krate).into_iter().map(names).collect()
    }

    #[test]
    fn circles_are_found_and_a_modules_own_submodules_are_not() {
        let none: [[&str; 0]; 0] = [];
        assert_eq!(circles(&[("a", "b"), ("b", "c"), ("a", "c")]), none);
        assert_eq!(circles(&[("a", "a::b"), ("a::b", "a")]), none);
        assert_eq!(circles(&[("a", "b"), ("b", "a")]), [["a", "b"]]);
        assert_eq!(
            circles(&[("a::b", "a::c"), ("a::c", "a::b")]),
            [["a::b", "a::c"]]
        );
        let two = [
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("c", "d"),
            ("d", "e"),
            ("e", "d"),
        ];
        assert_eq!(circles(&two), [vec!["a", "b", "c"], vec!["d", "e"]]);
    }
}
