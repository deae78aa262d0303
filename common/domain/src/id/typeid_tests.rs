//! The test vectors of the
//! [TypeID specification](https://github.com/jetify-com/typeid/tree/main/spec), version 0.3:
//! `valid.json` and `invalid.json`.
//!
//! Each of our ids has a prefix of its own. So vectors without a prefix test the 26 characters
//! alone, and the others are read with the prefix that they have or should have.

use super::{decode, encode, parse};

/// Prefix, characters, UUID.
const VALID: [(&str, &str, u128); 9] = [
    ("", "00000000000000000000000000", 0),
    ("", "00000000000000000000000001", 1),
    ("", "0000000000000000000000000a", 0xa),
    ("", "0000000000000000000000000g", 0x10),
    ("", "00000000000000000000000010", 0x20),
    ("", "7zzzzzzzzzzzzzzzzzzzzzzzzz", u128::MAX),
    (
        "prefix",
        "0123456789abcdefghjkmnpqrs",
        0x0110_c853_1d09_52d8_d73e_1194_e95b_5f19,
    ),
    (
        "prefix",
        "01h455vb4pex5vsknk084sn02q",
        0x0189_0a5d_ac96_774b_bcce_b302_099a_8057,
    ),
    ("pre_fix", "00000000000000000000000000", 0),
];

/// Name in `invalid.json`, id. Without those of [`UPPER_CASE`].
const INVALID: [(&str, &str); 17] = [
    ("prefix-numeric", "12345_00000000000000000000000000"),
    ("prefix-period", "pre.fix_00000000000000000000000000"),
    ("prefix-non-ascii", "préfix_00000000000000000000000000"),
    ("prefix-spaces", "  prefix_00000000000000000000000000"),
    (
        "prefix-64-chars",
        "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl_00000000000000000000000000",
    ),
    ("separator-empty-prefix", "_00000000000000000000000000"),
    ("separator-empty", "_"),
    ("suffix-short", "prefix_1234567890123456789012345"),
    ("suffix-long", "prefix_123456789012345678901234567"),
    ("suffix-spaces", "prefix_1234567890123456789012345 "),
    ("suffix-hyphens", "prefix_123456789-123456789-123456"),
    ("suffix-wrong-alphabet", "prefix_ooooooiiiiiiuuuuuuulllllll"),
    (
        "suffix-ambiguous-crockford",
        "prefix_i23456789ol23456789oi23456",
    ),
    (
        "suffix-hyphens-crockford",
        "prefix_123456789-0123456789-0123456",
    ),
    ("suffix-overflow", "prefix_8zzzzzzzzzzzzzzzzzzzzzzzzz"),
    (
        "prefix-underscore-start",
        "_prefix_00000000000000000000000000",
    ),
    (
        "prefix-underscore-end",
        "prefix__00000000000000000000000000",
    ),
];

/// The ids of `invalid.json` whose only mistake is upper case. We read them: people and programs
/// change the case of ids.
const UPPER_CASE: [&str; 2] = [
    "PREFIX_00000000000000000000000000",
    "prefix_0123456789ABCDEFGHJKMNPQRS",
];

#[test]
fn valid_typeids_are_read_and_written() {
    for (prefix, characters, bits) in VALID {
        let uuid = uuid::Uuid::from_u128(bits);
        assert_eq!(encode(uuid), characters);
        assert_eq!(decode(characters), Some(uuid), "{characters}");
        if !prefix.is_empty() {
            let id = format!("{prefix}_{characters}");
            assert_eq!(parse(prefix, &id), Ok(uuid), "{id}");
        }
    }
}

#[test]
fn invalid_typeids_are_rejected() {
    for (name, id) in INVALID {
        assert!(parse("prefix", id).is_err(), "{name}: {id}");
        let (_, characters) = id.rsplit_once('_').expect("all of them have an underscore");
        if name.starts_with("suffix") {
            assert_eq!(decode(characters), None, "{name}: {id}");
        }
    }
}

#[test]
fn upper_case_is_read_although_it_is_invalid() {
    for id in UPPER_CASE {
        let lower = id.to_lowercase();
        assert_eq!(parse("prefix", id), parse("prefix", &lower));
        assert!(parse("prefix", id).is_ok(), "{id}");
    }
}
