//! Which IP addresses may be connected to. The lists follow IANA's registries of special-purpose
//! addresses.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;

/// Networks of IPv4 that are not public.
const NOT_PUBLIC_V4: &[&str] = &[
    "0.0.0.0/8",        // this host
    "10.0.0.0/8",       // private
    "100.64.0.0/10",    // carrier-grade NAT
    "127.0.0.0/8",      // loopback
    "168.63.129.16/32", // Azure's host, with metadata
    "169.254.0.0/16",   // link-local, with metadata of clouds
    "172.16.0.0/12",    // private
    "192.0.0.0/24",     // protocol assignments
    "192.0.2.0/24",     // documentation
    "192.31.196.0/24",  // AS112
    "192.52.193.0/24",  // AMT
    "192.88.99.0/24",   // relays of 6to4
    "192.168.0.0/16",   // private
    "192.175.48.0/24",  // AS112
    "198.18.0.0/15",    // benchmarks
    "198.51.100.0/24",  // documentation
    "203.0.113.0/24",   // documentation
    "224.0.0.0/4",      // multicast
    "240.0.0.0/4",      // reserved, and broadcast
];

/// The addresses of IPv6 that are public, except those in [`NOT_PUBLIC_V6`]. Everything else is
/// local, multicast, or contains an address of IPv4 (mapped, compatible, NAT64).
const PUBLIC_V6: &str = "2000::/3";

/// Networks in [`PUBLIC_V6`] that are not public.
const NOT_PUBLIC_V6: &[&str] = &[
    "2001::/23",         // protocol assignments: Teredo, benchmarks, ORCHID
    "2001:db8::/32",     // documentation
    "2002::/16",         // 6to4: contains an address of IPv4
    "2620:4f:8000::/48", // AS112
    "3fff::/20",         // documentation
];

/// Networks that an operator may allow: those of a site and of this machine.
const MAY_BE_ALLOWED: &[&str] = &[
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
];

/// Metadata of clouds, which give credentials away, inside networks that an operator may allow.
const METADATA: &[&str] = &[
    "100.100.100.200/32", // Alibaba
    "fd00:ec2::/32",      // AWS
    "fd20:ce::254/128",   // Google
];

static NETWORKS: LazyLock<Networks> = LazyLock::new(|| Networks {
    not_public: parse(NOT_PUBLIC_V4).chain(parse(NOT_PUBLIC_V6)).collect(),
    public_v6: parse(&[PUBLIC_V6]).collect(),
    may_be_allowed: parse(MAY_BE_ALLOWED).collect(),
    metadata: parse(METADATA).collect(),
});

struct Networks {
    not_public: Vec<IpNet>,
    public_v6: Vec<IpNet>,
    may_be_allowed: Vec<IpNet>,
    metadata: Vec<IpNet>,
}

fn parse(networks: &'static [&'static str]) -> impl Iterator<Item = IpNet> {
    networks
        .iter()
        .map(|network| network.parse().expect("the lists contain networks"))
}

/// Why an address or URL is not connected to. The texts end the sentence "This URL is refused:".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a URL with a host.
    #[error("it is not a valid URL")]
    Invalid,
    /// Too long.
    #[error("it is longer than 2,048 characters")]
    TooLong,
    /// Neither https nor allowed http.
    #[error("it does not begin with https://")]
    Scheme,
    /// Another port.
    #[error("its port is neither 443 nor 8443")]
    Port,
    /// A name or password before the host.
    #[error("it contains a user name or a password")]
    Credentials,
    /// The host is, or leads to, an address that is not public.
    #[error("its host has an address that is not a public one")]
    Address,
}

/// Where a URL may lead: it depends on its scheme and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To public addresses, and to those in allowed networks.
    Public,
    /// To addresses in allowed networks only.
    Private,
}

/// The rules of a connector.
#[derive(Debug)]
pub(super) struct Rules {
    /// Networks that are allowed although they are not public.
    pub(super) networks: Vec<IpNet>,
    /// Ports that may be used on the internet.
    pub(super) ports: &'static [u16],
}

impl Rules {
    /// Refuses an address that may not be connected to.
    pub(super) fn vet(&self, address: IpAddr, reach: Reach) -> Result<(), Refusal> {
        let is_allowed =
            contains(&self.networks, address) && !contains(&NETWORKS.metadata, address);
        if is_allowed || (reach == Reach::Public && is_public(address)) {
            Ok(())
        } else {
            Err(Refusal::Address)
        }
    }
}

/// Whether an address belongs to a host on the internet.
fn is_public(address: IpAddr) -> bool {
    let is_in_use = address.is_ipv4() || contains(&NETWORKS.public_v6, address);
    is_in_use && !contains(&NETWORKS.not_public, address)
}

/// Whether an operator may allow this network: all of it must be private or of this machine.
pub fn may_be_allowed(network: &IpNet) -> bool {
    NETWORKS
        .may_be_allowed
        .iter()
        .any(|allowed| allowed.contains(network))
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_every_list_are_exact() {
        let is_public = |text: &str| is_public(text.parse().unwrap());
        for (address, expected) in [
            ("1.1.1.1", true),
            ("9.255.255.255", true),
            ("11.0.0.0", true),
            ("100.63.255.255", true),
            ("100.128.0.0", true),
            ("172.15.255.255", true),
            ("172.32.0.0", true),
            ("168.63.129.15", true),
            ("192.0.1.0", true),
            ("198.17.255.255", true),
            ("198.20.0.0", true),
            ("223.255.255.255", true),
            ("224.0.0.0", false),
            ("255.255.255.255", false),
            ("2001:200::1", true),
            ("2606:4700::1111", true),
            ("2001:1ff:ffff::", false),
            ("2003::", true),
            ("1fff:ffff::", false),
            ("4000::", false),
            ("::ffff:1.1.1.1", false),
            ("64:ff9b::1.1.1.1", false),
        ] {
            assert_eq!(is_public(address), expected, "{address}");
        }
        for network in NOT_PUBLIC_V4.iter().chain(NOT_PUBLIC_V6) {
            let network: IpNet = network.parse().unwrap();
            assert_eq!(network, network.trunc(), "written by its first address");
            for address in [network.network(), network.broadcast()] {
                assert!(!super::is_public(address), "{address}");
            }
        }
    }

    #[test]
    fn only_private_networks_may_be_allowed() {
        let may = |text: &str| may_be_allowed(&text.parse().unwrap());
        for network in ["10.1.0.0/16", "127.0.0.0/8", "::1/128", "fd12::/16"] {
            assert!(may(network), "{network}");
        }
        for network in [
            "0.0.0.0/0",
            "10.0.0.0/7",
            "169.254.0.0/16",
            "169.254.169.254/32",
            "8.8.8.8/32",
            "::/0",
            "fe80::/10",
            "::ffff:0:0/96",
        ] {
            assert!(!may(network), "{network}");
        }
    }

    #[test]
    fn metadata_is_refused_in_an_allowed_network() {
        let rules = Rules {
            networks: vec![
                "100.64.0.0/10".parse().unwrap(),
                "fc00::/7".parse().unwrap(),
            ],
            ports: &[443],
        };
        let vet = |text: &str| rules.vet(text.parse().unwrap(), Reach::Private);
        assert_eq!(vet("100.64.0.1"), Ok(()));
        assert_eq!(vet("fd12::1"), Ok(()));
        for metadata in ["100.100.100.200", "fd00:ec2::254", "fd20:ce::254"] {
            assert_eq!(vet(metadata), Err(Refusal::Address), "{metadata}");
        }
    }
}
