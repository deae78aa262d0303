//! E-mail addresses: one that is accepted is a single address, which adds no header and no recipient.

use common::mail::address::MailAddress;
use proptest::prelude::*;
use proptest::sample::select;

use super::edit::{apply_to_text, edits};
use super::{Verdict, fuzz};

/// What damaged addresses are made of.
const CHARS: &[char] = &[
    'a', 'Z', '0', '.', '@', '+', '-', '_', ' ', '\r', '\n', '\0', ',', ';', ':', '<', '>', '(',
    '"', '\\', '[', '%', '\'', 'ü', '。', '\u{200b}',
];

fn addresses() -> impl Strategy<Value = String> {
    let address = "[a-zA-Z0-9.+_']{1,12}@([a-zü0-9-]{1,8}\\.){1,3}[a-z]{2,5}";
    (address, edits(select(CHARS), 3)).prop_map(|(address, edits)| apply_to_text(&address, &edits))
}

#[test]
fn an_accepted_address_is_one_address() {
    fuzz("mail_addresses", &addresses(), |text| {
        let Ok(address) = text.parse::<MailAddress>() else {
            return Ok(Verdict::Refused);
        };
        let exposed = address.expose();
        prop_assert!(
            exposed.bytes().all(|byte| byte.is_ascii_graphic()),
            "{:?}",
            exposed
        );
        prop_assert!(
            !exposed.contains(['<', '>', ',', ';', ':', '"', '(', ')', '[', '\\']),
            "{}",
            exposed
        );
        prop_assert_eq!(exposed.matches('@').count(), 1);
        prop_assert!(exposed.len() <= 254);
        // The normal form is its own normal form, and one mailbox.
        let again: MailAddress = exposed.parse().unwrap();
        prop_assert_eq!(again.expose(), exposed);
        prop_assert_eq!(again.fingerprint(), address.fingerprint());
        Ok(Verdict::Read)
    });
}
