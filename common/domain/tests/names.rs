//! The names of values in the database, in metrics and in the API. They are derived from the names
//! in the code; a name that is stored or sent must not change with the code.

use std::fmt::Debug;
use std::str::FromStr;

use domain::artifact::ArtifactKind;
use domain::generation::Kind;
use domain::generation::image::{InputRole, MediaType, Size};
use domain::job::State;
use domain::ledger::{Account, Cause};
use domain::outcome::Class;
use domain::outcome::table::Dialect;
use domain::ownership::Ownership;
use domain::retention::{FileClass, Purpose};
use serde::Serialize;

fn check<T: Copy + Into<&'static str>>(all: &[T], names: &str) {
    let found: Vec<&str> = all.iter().map(|&value| value.into()).collect();
    assert_eq!(found.join(" "), names);
}

/// Also checks that the names are read back.
fn check_read<T: Copy + Debug + PartialEq + FromStr + Into<&'static str>>(all: &[T], names: &str) {
    check(all, names);
    for &value in all {
        assert_eq!(value.into().parse().ok(), Some(value));
    }
    assert!("".parse::<T>().is_err() && names.to_uppercase().parse::<T>().is_err());
}

/// Also checks that the API has the same names.
fn check_sent<T: Copy + Serialize + Into<&'static str>>(all: &[T], names: &str) {
    check(all, names);
    for &value in all {
        let sent = serde_json::to_value(value).expect("a name is JSON");
        assert_eq!(sent, value.into());
    }
}

#[test]
fn stored_names_stay_as_they_are() {
    let states = "queued running succeeded partial failed canceled expired";
    check_read(State::ALL, states);
    check_sent(State::ALL, states);
    let classes = "ok no_output refused refused_prompt refused_copyright truncated provider_fault provider_invalid \
        unrecognized throttled unreachable bad_request unauthenticated config model_retired unknown internal canceled \
        expired poison";
    check_read(Class::ALL, classes);
    check_sent(Class::ALL, classes);
    check_read(&[Kind::Image], "image");
    check_sent(&[Kind::Image], "image");
    let kinds = [
        ArtifactKind::Original,
        ArtifactKind::Rendition,
        ArtifactKind::Thumbnail,
    ];
    check_read(&kinds, "original rendition thumbnail");
    check_sent(&kinds, "original rendition thumbnail");
    let media_types = [MediaType::Png, MediaType::Jpeg, MediaType::Webp];
    check_read(&media_types, "image/png image/jpeg image/webp");
    check_sent(&media_types, "image/png image/jpeg image/webp");
    let file_classes = "input original rendition thumbnail upload prompt";
    check_read(FileClass::ALL, file_classes);
    check_sent(FileClass::ALL, file_classes);
    let causes = [
        Cause::Promo,
        Cause::Hold,
        Cause::Capture,
        Cause::Release,
        Cause::Adjust,
    ];
    check_sent(&causes, "promo hold capture release adjust");
    let purposes = [Purpose::Delivery, Purpose::Analytics, Purpose::Support];
    check_read(&purposes, "delivery analytics support");
    let accounts = [
        Account::Available,
        Account::Held,
        Account::Promo,
        Account::Revenue,
        Account::Adjust,
    ];
    check(
        &accounts,
        "tenant:available tenant:held sys:promo sys:revenue sys:adjust",
    );
}

#[test]
fn other_names_stay_as_they_are() {
    check_sent(&[Size::OneK, Size::TwoK], "1K 2K");
    check_sent(Dialect::ALL, "vertex gemini interactions openai");
    check(Ownership::ALL, "ours not_adopted foreign absent");
    let roles = [
        InputRole::Product,
        InputRole::ModelReference,
        InputRole::Style,
        InputRole::Source,
    ];
    check_sent(&roles, "product model_reference style source");
}
