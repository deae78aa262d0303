//! URLs that customers give us: one that is accepted without a look-up contains no address that is not public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::connector::Connector;
use proptest::prelude::*;
use proptest::sample::select;

use super::edit::{apply_to_text, edits};
use super::{Verdict, fuzz};

/// What damaged URLs are made of.
const CHARS: &[char] = &[
    '0', '1', '2', '7', '9', 'x', 'a', 'f', '.', ':', '[', ']', '@', '#', '?', '/', '\\', '%', ' ',
    '\t', '\n', '-', '_', '。', '①', '\u{ad}', '\u{200b}',
];

/// An address of IPv4 in one of the notations that programs accept.
fn ipv4() -> impl Strategy<Value = String> {
    let first = prop_oneof![Just(127_u8), Just(10), Just(169), any::<u8>()];
    (first, any::<[u8; 3]>(), 0..6_u8).prop_map(|(a, [b, c, d], notation)| {
        let number = u32::from_be_bytes([a, b, c, d]);
        match notation {
            0 => format!("{a}.{b}.{c}.{d}"),
            1 => number.to_string(),
            2 => format!("{number:#x}"),
            3 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            4 => format!("{a}.{}", number & 0xff_ffff),
            _ => format!("{a}.{b}.{}", number & 0xffff),
        }
    })
}

/// An address of IPv6, often with one of IPv4 inside.
fn ipv6() -> impl Strategy<Value = String> {
    let first = select(vec![
        0, 0x64, 0x2001, 0x2002, 0x2606, 0x3fff, 0xfc00, 0xfe80, 0xff02,
    ]);
    let whole = (first, any::<[u16; 7]>())
        .prop_map(|(a, [b, c, d, e, f, g, h])| Ipv6Addr::new(a, b, c, d, e, f, g, h));
    let mapped = any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).to_ipv6_mapped());
    prop_oneof![whole, mapped].prop_map(|address| format!("[{address}]"))
}

fn urls() -> impl Strategy<Value = String> {
    let scheme = prop_oneof![9 => Just("https"), 1 => Just("http")];
    let name = "[a-z]{1,8}\\.(example|com)";
    let host = prop_oneof![2 => name, 2 => ipv4(), 1 => ipv6()];
    let port = prop_oneof![Just(""), Just(":443"), Just(":8443"), Just(":80")];
    let url = (scheme, host, port, "(/[a-z]{0,5})?(\\?a=b)?(#c)?")
        .prop_map(|(scheme, host, port, rest)| format!("{scheme}://{host}{port}{rest}"));
    (url, edits(select(CHARS), 4)).prop_map(|(url, edits)| apply_to_text(&url, &edits))
}

/// Written without the lists of the connector: by the standard library, and by the bits of IPv6.
fn is_surely_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_documentation()
                || address.octets()[0] == 0
                || address.octets()[0] >= 240
        }
        IpAddr::V6(address) => address.segments()[0] & 0xe000 != 0x2000,
    }
}

#[test]
fn an_accepted_url_names_no_local_address() {
    let connector = Connector::new(&[]).unwrap();
    fuzz("urls", &urls(), |text| {
        let Ok(url) = connector.check(&text) else {
            return Ok(Verdict::Refused);
        };
        prop_assert_eq!(url.scheme(), "https");
        prop_assert!(matches!(url.port_or_known_default(), Some(443 | 8443)));
        prop_assert!(url.username().is_empty() && url.password().is_none());
        prop_assert!(url.fragment().is_none());
        prop_assert_eq!(connector.check(url.as_str()), Ok(url.clone()));
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => prop_assert!(!is_surely_local(address), "{}", host),
            Err(_) => {
                // A look-up would take a name that ends in a number for an address.
                let last = host
                    .trim_end_matches('.')
                    .rsplit('.')
                    .next()
                    .unwrap_or_default();
                let is_decimal = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
                let is_hex = last
                    .strip_prefix("0x")
                    .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
                prop_assert!(!is_decimal && !is_hex, "{}", host);
            }
        }
        Ok(Verdict::Read)
    });
}
