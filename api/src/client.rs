//! Where a request comes from: the network that rate limits count, and its pseudonym in logs.
//!
//! The address is the peer of the connection. If the peer is a trusted proxy, the address is the last one in `X-Forwarded-For` or
//! `Forwarded` that is not a trusted proxy. The client may have invented everything before that address. If the two headers name
//! different addresses, the address is the peer's.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::HeaderMap;
use domain::clock;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::base_url::{Hop, PublicUrl, parse_forwarded, parse_x_forwarded};

/// What rate limits count as one client: an IPv4 address, or the first 64 bits of an IPv6 address, because one customer usually has
/// all addresses with the same 64 bits.
///
/// The type has no `Debug` and no `Display`, because logs may show only the pseudonym (see [`Pseudonyms`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of an address.
    pub fn from_address(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let kept = address.to_bits() & (u128::MAX << 64);
                IpAddr::V6(Ipv6Addr::from_bits(kept))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// The address of the client that sent a request on a connection from `peer`: that of the peer, or, if the peer is a trusted proxy,
/// the one that the proxies name.
pub fn address(public: &PublicUrl, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !public.trusts(peer) {
        return peer;
    }
    let found = |hops| client_address(public, hops);
    match (
        found(parse_x_forwarded(headers)),
        found(parse_forwarded(headers)),
    ) {
        // A proxy that sets only one kind of header passes the other kind on as the client wrote it. So if the two kinds contradict
        // each other, neither is believed.
        (Some(one), Some(other)) if one != other => peer,
        (one, other) => one.or(other).unwrap_or(peer),
    }
}

/// Finds the last address that is not a trusted proxy. The hops are read from the end, where our peer has written. Each earlier hop
/// was written by the proxy whose address the next hop names. If no such address is found, or a hop has no address,
/// returns the address that was read last; `None` if there was none.
fn client_address(public: &PublicUrl, hops: Vec<Hop>) -> Option<IpAddr> {
    let mut last = None;
    for hop in hops.into_iter().rev() {
        let Some(address) = hop.from else { break };
        last = Some(address);
        if !public.trusts(address) {
            break;
        }
    }
    last
}

/// Makes pseudonyms for networks. They change every day (UTC), are the same in all processes, and cannot be traced back to the address
/// without the signing key.
#[derive(Clone, Debug)]
pub struct Pseudonyms(SecretString);

impl Pseudonyms {
    /// Derives the pseudonyms from the key that also signs links.
    pub fn new(signing_key: SecretString) -> Self {
        Self(signing_key)
    }

    /// The pseudonym of a network today, such as `adr_6f1c0a9be2d47735`.
    pub fn of(&self, network: Network) -> String {
        self.on_day(&clock::now().date().to_string(), network)
    }

    fn on_day(&self, day: &str, Network(address): Network) -> String {
        let daily_key = mac(
            self.0.expose_secret().as_bytes(),
            &[b"client address on ", day.as_bytes()],
        );
        let text = address.to_string();
        let name = mac(&daily_key, &[text.as_bytes()]);
        format!("adr_{}", hex::encode(&name[..8]))
    }
}

/// HMAC-SHA-256 (RFC 2104).
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, IpAddr, Network, Pseudonyms, PublicUrl};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_address_counts_by_its_first_64_bits() {
        let same = |one: &str, other: &str| {
            Network::from_address(address(one)) == Network::from_address(address(other))
        };
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
    }

    #[test]
    fn the_client_is_the_last_untrusted_address() {
        let proxies = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().unwrap());
        let public = PublicUrl::new(None, proxies.into()).unwrap();
        let of = |peer: &str, pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for &(name, value) in pairs {
                headers.append(name, value.parse().unwrap());
            }
            super::address(&public, address(peer), &headers).to_string()
        };
        for (peer, pairs, expected) in [
            (
                "203.0.113.9",
                &[("x-forwarded-for", "1.2.3.4")][..],
                "203.0.113.9",
            ),
            ("10.0.0.7", &[("x-forwarded-for", "1.2.3.4")], "1.2.3.4"),
            // The client's own invention is before what the proxy added.
            (
                "10.0.0.7",
                &[("x-forwarded-for", "1.2.3.4, 203.0.113.9, 10.1.1.1")],
                "203.0.113.9",
            ),
            (
                "10.0.0.7",
                &[
                    ("x-forwarded-for", "1.2.3.4"),
                    ("x-forwarded-for", "203.0.113.9"),
                ],
                "203.0.113.9",
            ),
            (
                "10.0.0.7",
                &[("forwarded", "for=1.2.3.4, for=\"203.0.113.9:4711\"")],
                "203.0.113.9",
            ),
            (
                "10.0.0.7",
                &[
                    ("x-forwarded-for", "203.0.113.9"),
                    ("forwarded", "for=1.2.3.4"),
                ],
                "10.0.0.7",
            ),
            (
                "10.0.0.7",
                &[
                    ("x-forwarded-for", "203.0.113.9"),
                    ("forwarded", "for=203.0.113.9"),
                ],
                "203.0.113.9",
            ),
            (
                "10.0.0.7",
                &[("x-forwarded-for", "1.2.3.4, unknown")],
                "10.0.0.7",
            ),
            (
                "10.0.0.7",
                &[("x-forwarded-for", "1.2.3.4, unknown, 10.1.1.1")],
                "10.1.1.1",
            ),
            ("10.0.0.7", &[], "10.0.0.7"),
        ] {
            assert_eq!(of(peer, pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_pseudonym_depends_on_key_day_and_network() {
        let names = Pseudonyms::new("a key for tests".into());
        let again = Pseudonyms::new("a key for tests".into());
        let other = Pseudonyms::new("another key".into());
        let network = Network::from_address(address("192.0.2.1"));
        let name = names.on_day("2026-11-28", network);
        assert!(name.starts_with("adr_") && name.len() == 20, "{name}");
        assert_eq!(name, again.on_day("2026-11-28", network));
        assert_ne!(name, names.on_day("2026-11-29", network));
        assert_ne!(name, other.on_day("2026-11-28", network));
        assert_ne!(
            name,
            names.on_day("2026-11-28", Network::from_address(address("192.0.2.2")))
        );
    }
}
