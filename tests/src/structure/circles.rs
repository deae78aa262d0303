//! Circles: files of a crate that import each other, directly or through others.
//!
//! What a module and its own submodules import from each other does not count: they are one thing.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::{Crate, Edge};

/// The files of a circle, with every import between two of them.
pub struct Circle<'a> {
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
