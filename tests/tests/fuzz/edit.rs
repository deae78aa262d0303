//! Small changes of a valid input: most of it stays valid, so that they reach further than noise.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::prop_oneof;
use proptest::sample::Index;
use proptest::strategy::Strategy;

/// One change at a random place.
#[derive(Clone, Debug)]
pub(crate) enum Edit<T> {
    Replace(Index, T),
    Insert(Index, T),
    Remove(Index),
    Cut(Index),
}

/// Up to `most` changes. Half of the time there is none.
pub(crate) fn edits<T: Clone + Debug>(
    items: impl Strategy<Value = T> + Clone,
    most: usize,
) -> impl Strategy<Value = Vec<Edit<T>>> {
    let place = any::<Index>;
    let edit = prop_oneof![
        8 => (place(), items.clone()).prop_map(|(at, item)| Edit::Replace(at, item)),
        4 => (place(), items).prop_map(|(at, item)| Edit::Insert(at, item)),
        4 => place().prop_map(Edit::Remove),
        1 => place().prop_map(Edit::Cut),
    ];
    prop_oneof![vec(edit.clone(), 0..1), vec(edit, 1..=most)]
}

/// The input after its changes.
pub(crate) fn apply<T: Clone>(mut input: Vec<T>, edits: &[Edit<T>]) -> Vec<T> {
    for edit in edits {
        match edit {
            Edit::Insert(at, item) => input.insert(at.index(input.len() + 1), item.clone()),
            _ if input.is_empty() => {}
            Edit::Replace(at, item) => {
                let at = at.index(input.len());
                input[at] = item.clone();
            }
            Edit::Remove(at) => {
                input.remove(at.index(input.len()));
            }
            Edit::Cut(at) => input.truncate(at.index(input.len())),
        }
    }
    input
}

/// The text after its changes.
pub(crate) fn apply_to_text(text: &str, edits: &[Edit<char>]) -> String {
    apply(text.chars().collect(), edits).into_iter().collect()
}
