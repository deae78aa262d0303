//! The URL under which clients reach this API. Links to files begin with it.
//!
//! `PLATEN_PUBLIC_URL` sets it. Without this setting, a proxy listed in `PLATEN_TRUSTED_PROXIES` may name it, in `Forwarded` (RFC
//! 7239) or in `X-Forwarded-Proto` and `X-Forwarded-Host`. From any other peer, `Host` is used only if it names this machine
//! itself. Otherwise a client could make the API give out links to a host of the client's choice. If none of these names a URL,
//! links are paths.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use ipnet::IpNet;

use crate::header_list::elements;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The public URL of the API, and the proxies that may name it.
#[derive(Clone, Debug, Default)]
pub struct PublicUrl {
    /// Scheme, host and an optional path, without a slash at the end. If it is set, headers are ignored.
    url: Option<String>,
    /// The trusted proxies.
    proxies: Vec<IpNet>,
}

impl PublicUrl {
    /// Takes the values of `PLATEN_PUBLIC_URL` and `PLATEN_TRUSTED_PROXIES`.
    ///
    /// # Errors
    /// Returns an error if `url` is not an `http` or `https` URL, or has a user, a query or a fragment.
    pub fn new(url: Option<&str>, proxies: Vec<IpNet>) -> anyhow::Result<Self> {
        let url = url.map(|text| {
            base_url(text).with_context(|| {
                format!("PLATEN_PUBLIC_URL: {text:?} is not a base URL; expected one like https://pictures.example")
            })
        });
        Ok(Self {
            url: url.transpose()?,
            proxies,
        })
    }

    /// The proxies whose headers are trusted.
    pub(crate) fn proxies(&self) -> &[IpNet] {
        &self.proxies
    }

    /// Whether an address is that of a trusted proxy.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|net| net.contains(&address))
    }
}

/// Checks a base URL. Returns it with its host in lower case and without a slash at the end, so that a path can be appended.
/// Returns `None` if the text is not an `http` or `https` URL, or has a user, a query or a fragment.
fn base_url(text: &str) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    let has_query_or_fragment = uri.query().is_some() || text.contains('#');
    let is_http = ["http", "https"].contains(&uri.scheme_str()?);
    let host = host(uri.authority()?.as_str())?;
    (is_http && !has_query_or_fragment).then(|| {
        let path = uri.path().trim_end_matches('/');
        format!("{}://{host}{path}", uri.scheme_str().unwrap_or_default())
    })
}

/// The two ends of a connection. Every request has it as an extension.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The address that the request came from.
    pub peer: IpAddr,
    /// The local address that the client has called; `None` if the system does not know it.
    pub local: Option<SocketAddr>,
}

/// The beginning of links: scheme, host and an optional path; empty if they are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Finds the base URL for the links in the answer to one request. It is empty if nothing that is trusted names one.
    pub(crate) fn from_request(
        public: &PublicUrl,
        connection: Option<Connection>,
        headers: &HeaderMap,
    ) -> Self {
        if let Some(url) = &public.url {
            return Self(url.clone());
        }
        let host_header = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let sent_host = host_header.and_then(host);
        let origin = match connection {
            Some(Connection { peer, .. }) if public.trusts(peer) => {
                forwarded(public, headers, sent_host)
            }
            // This port speaks plain HTTP. Only a proxy can add TLS.
            _ => sent_host
                .filter(|host| is_this_machine(host, connection))
                .map(|host| ("http", host)),
        };
        Self(origin.map_or_else(String::new, |(scheme, host)| format!("{scheme}://{host}")))
    }

    /// The link to a path of this API. If the base URL is not known, the link is only the path.
    pub fn link(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

/// Parses a host with an optional port. Returns `None` if the text contains anything else, such as a user.
fn host(text: &str) -> Option<String> {
    let host: Authority = text.parse().ok()?;
    let is_host_only = !host.host().is_empty() && !text.contains('@');
    is_host_only.then(|| host.to_string().to_ascii_lowercase())
}

/// Whether a host names this machine: a loopback name or address with any port, or the local address and port of the connection.
fn is_this_machine(host: &str, connection: Option<Connection>) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let Ok(address) = bare.parse::<IpAddr>() else {
        return name == "localhost" || name.ends_with(".localhost");
    };
    let called = connection.and_then(|connection| connection.local);
    address.is_loopback()
        || called.is_some_and(|called| {
            let port = authority.port_u16().unwrap_or(80);
            called.ip().to_canonical() == address && called.port() == port
        })
}

/// What one proxy says about the request it passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The address from which the proxy got the request.
    pub(crate) from: Option<IpAddr>,
    /// The scheme of the request that the proxy got, in lower case.
    scheme: Option<String>,
    /// The host that the request to the proxy named. It is not parsed yet.
    host: Option<String>,
}

/// Finds scheme and host in what the trusted proxies wrote. For each of the two, the outermost proxy that names it (the one nearest
/// to the client) decides. If no proxy names a scheme, it is `http`; if none names a host, it is `sent_host`. Returns `None` if the
/// headers contradict each other, if one cannot be read, or if no host is known.
fn forwarded(
    public: &PublicUrl,
    headers: &HeaderMap,
    sent_host: Option<String>,
) -> Option<(&'static str, String)> {
    let from_forwarded = combine_trusted_hops(public, parse_forwarded(headers))?;
    let from_x_forwarded = combine_trusted_hops(public, parse_x_forwarded(headers))?;
    // A proxy that sets only one kind of header passes the other kind on as the client wrote it. So if the two kinds contradict
    // each other, neither is believed.
    let agreed = |one: Option<String>, other: Option<String>| match (one, other) {
        (Some(one), Some(other)) if one != other => None,
        (one, other) => Some(one.or(other)),
    };
    let scheme = match agreed(from_forwarded.scheme, from_x_forwarded.scheme)?.as_deref() {
        Some("https") => "https",
        Some("http") | None => "http",
        Some(_) => return None,
    };
    let host = agreed(from_forwarded.host, from_x_forwarded.host)?;
    Some((scheme, host.or(sent_host)?))
}

/// Combines the hops that trusted proxies wrote. The values of the outermost proxy have priority. Returns `None` if a host cannot
/// be parsed.
///
/// The last hop was written by our peer. Each earlier hop was written by the proxy whose address the next hop names.
fn combine_trusted_hops(public: &PublicUrl, hops: Vec<Hop>) -> Option<Hop> {
    let mut combined = Hop::default();
    // From the nearest proxy to the outermost one, so that a later value replaces an earlier one.
    for hop in hops.into_iter().rev() {
        if let Some(text) = hop.host {
            combined.host = Some(host(&text)?);
        }
        combined.scheme = hop.scheme.or(combined.scheme);
        if !hop.from.is_some_and(|address| public.trusts(address)) {
            break;
        }
    }
    Some(combined)
}

/// The hops of `Forwarded` (RFC 7239), the outermost first.
pub(crate) fn parse_forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let hops = elements(headers, &header::FORWARDED).into_iter();
    hops.map(|pairs| {
        let mut hop = Hop::default();
        for (name, value) in pairs {
            match name.as_str() {
                "for" => hop.from = value.as_deref().and_then(address),
                "proto" => hop.scheme = value.map(|scheme| scheme.to_ascii_lowercase()),
                "host" => hop.host = value,
                _ => {}
            }
        }
        hop
    })
    .collect()
}

/// The hops of `X-Forwarded-For`, `-Proto` and `-Host`, the outermost first. The three lists are matched from their ends, where our
/// peer has written. A shorter list says nothing about the earlier hops.
pub(crate) fn parse_x_forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let list = |name: &HeaderName| -> Vec<String> {
        let lines = headers.get_all(name).iter();
        lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .map(|item| item.trim().to_owned())
            .collect()
    };
    let (froms, schemes, hosts) = (
        list(&X_FORWARDED_FOR),
        list(&X_FORWARDED_PROTO),
        list(&X_FORWARDED_HOST),
    );
    let hop_count = froms.len().max(schemes.len()).max(hosts.len());
    let nth = |list: &[String], from_end: usize| {
        let index = list.len().checked_sub(from_end)?;
        list.get(index).filter(|item| !item.is_empty()).cloned()
    };
    (1..=hop_count)
        .rev()
        .map(|from_end| Hop {
            from: nth(&froms, from_end).as_deref().and_then(address),
            scheme: nth(&schemes, from_end).map(|scheme| scheme.to_ascii_lowercase()),
            host: nth(&hosts, from_end),
        })
        .collect()
}

/// Parses an address with or without a port. Returns `None` for a name such as `unknown` or `_hidden` (RFC 7239, 6).
fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => text,
    };
    let address = bare
        .parse()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.7";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    /// The link to `/files/a` that a peer's request gets, on 192.168.1.5:8080.
    fn link(public: &PublicUrl, peer: &str, pairs: &[(&'static str, &str)]) -> String {
        let connection = Connection {
            peer: peer.parse().unwrap(),
            local: Some("192.168.1.5:8080".parse().unwrap()),
        };
        BaseUrl::from_request(public, Some(connection), &headers(pairs)).link("/files/a")
    }

    fn behind_proxies() -> PublicUrl {
        let proxies = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().unwrap());
        PublicUrl::new(None, proxies.into()).unwrap()
    }

    #[test]
    fn a_host_header_counts_only_if_it_names_this_machine() {
        let nobody = PublicUrl::default();
        let link = |host: &str| link(&nobody, "203.0.113.9", &[("host", host)]);
        for own in [
            "localhost:8080",
            "127.0.0.1:9000",
            "[::1]",
            "studio.localhost",
            "192.168.1.5:8080",
        ] {
            assert_eq!(link(own), format!("http://{own}/files/a"));
        }
        for other in [
            "evil.example",
            "192.168.1.5:81",
            "192.168.1.6:8080",
            "localhost.evil.example",
            "127.0.0.1@evil.example",
            "a b",
            "",
        ] {
            assert_eq!(link(other), "/files/a", "{other}");
        }
        assert_eq!(
            BaseUrl::from_request(&nobody, None, &headers(&[])).link("/files/a"),
            "/files/a"
        );
    }

    #[test]
    fn only_a_trusted_proxy_may_name_the_host() {
        for pairs in [
            &[
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "studio.example"),
                ("host", "inner"),
            ][..],
            &[
                (
                    "forwarded",
                    "for=203.0.113.9;proto=https;host=studio.example",
                ),
                ("host", "inner"),
            ],
            &[("x-forwarded-proto", "HTTPS"), ("host", "studio.example")],
        ] {
            assert_eq!(
                link(&behind_proxies(), PROXY, pairs),
                "https://studio.example/files/a"
            );
            assert_eq!(link(&behind_proxies(), "203.0.113.9", pairs), "/files/a");
            assert_eq!(link(&PublicUrl::default(), PROXY, pairs), "/files/a");
        }
    }

    #[test]
    fn the_outermost_trusted_proxy_wins() {
        let https = "https://studio.example/files/a";
        for pairs in [
            &[(
                "forwarded",
                r#"for=203.0.113.9;host=evil.example, for=203.0.113.10;Proto=HTTPS;Host="studio.example", FOR="[2001:db8::1]:4711";by=_inner"#,
            )][..],
            &[
                ("forwarded", "for=1.2.3.4;host=evil.example"),
                (
                    "forwarded",
                    "for=203.0.113.9;proto=https;host=studio.example",
                ),
            ],
            &[
                ("x-forwarded-for", "203.0.113.9, 10.1.1.1"),
                ("x-forwarded-host", "studio.example, inner"),
                ("x-forwarded-proto", "https, http"),
            ],
            &[
                ("x-forwarded-for", "10.9.9.9, 203.0.113.9"),
                ("x-forwarded-host", "evil.example, studio.example"),
                ("x-forwarded-proto", "https"),
            ],
            &[
                ("x-forwarded-for", "203.0.113.9:1234"),
                ("x-forwarded-host", "studio.example"),
                ("x-forwarded-proto", "https"),
                ("forwarded", "for=203.0.113.9;proto=https"),
            ],
        ] {
            assert_eq!(link(&behind_proxies(), PROXY, pairs), https, "{pairs:?}");
        }
    }

    #[test]
    fn contradictions_and_invalid_hosts_are_ignored() {
        for pairs in [
            &[
                ("x-forwarded-host", "studio.example"),
                ("forwarded", "host=evil.example"),
            ][..],
            &[("x-forwarded-host", "studio.example/evil")],
            &[("x-forwarded-host", "user@evil.example")],
            &[
                ("x-forwarded-proto", "javascript"),
                ("host", "studio.example"),
            ],
            &[("forwarded", "host=\"a b\"")],
        ] {
            assert_eq!(
                link(&behind_proxies(), PROXY, pairs),
                "/files/a",
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn a_public_url_overrides_all_headers() {
        let public = |url| PublicUrl::new(Some(url), vec!["10.0.0.0/8".parse().unwrap()]);
        for (url, begin) in [
            ("https://studio.example", "https://studio.example"),
            ("https://studio.example/", "https://studio.example"),
            (
                "HTTP://Studio.example:8443/platen/",
                "http://studio.example:8443/platen",
            ),
        ] {
            let pairs = [("host", "localhost"), ("x-forwarded-host", "evil.example")];
            assert_eq!(
                link(&public(url).unwrap(), PROXY, &pairs),
                format!("{begin}/files/a")
            );
        }
        for bad in [
            "studio.example",
            "ftp://studio.example",
            "https://",
            "https://a@b.example",
            "https://a.example/?x=1",
            "/files",
        ] {
            assert!(public(bad).is_err(), "{bad}");
        }
    }
}
