//! Ids: the pattern in `/openapi.json` and the parser agree, and an id has one canonical text.

use domain::id::{ArtifactId, CallId, GrantId, JobId, RequestId, TenantId, UploadId};
use proptest::prelude::any;
use proptest::strategy::Union;
use proptest::string::string_regex;
use proptest::{prop_assert, prop_assert_eq};
use serde_json::{Value, to_value};
use uuid::Uuid;

use super::edit::{apply_to_text, edits};
use super::{Verdict, fuzz};

/// A kind of id: its prefix, its schema, and its text after it was parsed.
struct Kind {
    prefix: &'static str,
    schema: fn() -> Value,
    parse: fn(&str) -> Option<(Uuid, String)>,
}

macro_rules! kinds {
    ($($id:ident),*) => {
        [$(Kind {
            prefix: $id::PREFIX,
            schema: || to_value($id::schema()).unwrap(),
            parse: |text| text.parse::<$id>().ok().map(|id| (id.0, id.to_string())),
        }),*]
    };
}

const KINDS: [Kind; 7] = kinds!(
    TenantId, JobId, CallId, ArtifactId, UploadId, GrantId, RequestId
);

#[test]
fn the_pattern_of_an_id_is_what_its_parser_accepts() {
    let patterned = Union::new(KINDS.iter().map(|kind| {
        let schema = (kind.schema)();
        let pattern = schema["pattern"].as_str().unwrap();
        let pattern = pattern.strip_prefix('^').unwrap();
        string_regex(pattern.strip_suffix('$').unwrap()).unwrap()
    }));
    let inputs = (patterned, edits(any::<char>(), 3), any::<u128>());
    fuzz("ids", &inputs, |(text, edits, other)| {
        let edited = apply_to_text(&text, &edits);
        let mut read = KINDS
            .iter()
            .filter_map(|kind| Some((kind, (kind.parse)(&edited)?)));
        let Some((kind, (id, written))) = read.next() else {
            prop_assert!(edited != text, "the pattern allows {text}");
            return Ok(Verdict::Refused);
        };
        prop_assert!(read.next().is_none(), "{edited} is an id of two kinds");
        prop_assert_eq!(&written, &edited.to_ascii_lowercase());
        let rest = written.strip_prefix(kind.prefix);
        prop_assert!(rest.is_some_and(|rest| rest.starts_with('_')));
        prop_assert_eq!((kind.parse)(&written), Some((id, written.clone())));

        // Texts sort as the ids do, so a list sorted by either is the same.
        let other = Uuid::from_u128(other);
        let others_text = JobId(other).to_string();
        let own_text = JobId(id).to_string();
        prop_assert_eq!(own_text.cmp(&others_text), id.cmp(&other));
        Ok(Verdict::Read)
    });
}
