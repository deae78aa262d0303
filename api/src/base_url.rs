//! Where clients reach this api, to make links to files absolute.
//!
//! `PLATEN_PUBLIC_URL` says it. Without it, a proxy that `PLATEN_TRUSTED_PROXIES` names may say it, by `Forwarded` (RFC 7239) or
//! `X-Forwarded-Proto` and `-Host`. From anybody else `Host` is believed only where it names this machine itself: otherwise whoever
//! sends a request could make us hand out links to a host of theirs. Where nobody who may has said it, links are paths.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use ipnet::IpNet;

use crate::app::App;
use crate::header_list::elements;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who may say where clients reach us.
#[derive(Clone, Debug, Default)]
pub struct PublicUrl {
    /// Scheme, host and perhaps a path, without a slash at the end: then nobody else is asked.
    url: Option<String>,
    proxies: Vec<IpNet>,
}

impl PublicUrl {
    /// Checks what `PLATEN_PUBLIC_URL` says.
    pub fn new(url: Option<&str>, proxies: Vec<IpNet>) -> anyhow::Result<Self> {
        let url = url.map(|text| {
            base_url(text).with_context(|| {
                format!("PLATEN_PUBLIC_URL: {text:?} is no base URL; expected one like https://pictures.example")
            })
        });
        Ok(Self {
            url: url.transpose()?,
            proxies,
        })
    }

    /// Proxies that are believed.
    pub(crate) fn proxies(&self) -> &[IpNet] {
        &self.proxies
    }

    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|net| net.contains(&address))
    }
}

fn base_url(text: &str) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    let plain = uri.query().is_none() && !text.contains('#');
    let known = ["http", "https"].contains(&uri.scheme_str()?);
    let host = host(uri.authority()?.as_str())?;
    (plain && known).then(|| {
        let path = uri.path().trim_end_matches('/');
        format!("{}://{host}{path}", uri.scheme_str().unwrap_or_default())
    })
}

/// The two ends of a connection; every request has it as an extension.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub peer: IpAddr,
    /// `None` where the system does not say.
    pub local: Option<SocketAddr>,
}

/// What links begin with: scheme and host, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

impl BaseUrl {
    fn of(public: &PublicUrl, connection: Option<Connection>, headers: &HeaderMap) -> Self {
        if let Some(url) = &public.url {
            return Self(url.clone());
        }
        let said = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let sent = said.and_then(host);
        let place = match connection {
            Some(Connection { peer, .. }) if public.trusts(peer) => {
                forwarded(public, headers, sent)
            }
            _ => sent
                .filter(|host| is_this_machine(host, connection))
                .map(|host| ("http", host)),
        };
        Self(place.map_or_else(String::new, |(scheme, host)| format!("{scheme}://{host}")))
    }

    /// The whole link for a path of ours.
    pub fn link(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl FromRequestParts<Arc<App>> for BaseUrl {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        let connection = parts.extensions.get::<Connection>().copied();
        Ok(Self::of(&app.public, connection, &parts.headers))
    }
}

/// A host, with its port where it has one, and nothing else.
fn host(text: &str) -> Option<String> {
    let host: Authority = text.parse().ok()?;
    let named = !host.host().is_empty() && !text.contains('@');
    named.then(|| host.to_string().to_ascii_lowercase())
}

/// Whether a host means this machine: by a name or an address that never leaves it, whatever port is published there, or by the
/// address that was called.
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

/// What a proxy says about the request it passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) from: Option<IpAddr>,
    scheme: Option<String>,
    host: Option<String>,
}

/// Scheme and host as the outermost trusted proxy says. `None` where what is said contradicts itself or cannot be read.
fn forwarded(
    public: &PublicUrl,
    headers: &HeaderMap,
    sent: Option<String>,
) -> Option<(&'static str, String)> {
    let standard = outermost(public, parse_forwarded(headers))?;
    let customary = outermost(public, parse_x_forwarded(headers))?;
    // A proxy that knows one of the two passes on whatever the client wrote into the other.
    let agreed = |one: Option<String>, other: Option<String>| match (one, other) {
        (Some(one), Some(other)) if one != other => None,
        (one, other) => Some(one.or(other)),
    };
    let scheme = match agreed(standard.scheme, customary.scheme)?.as_deref() {
        Some("https") => "https",
        Some("http") | None => "http",
        Some(_) => return None,
    };
    let said = agreed(standard.host, customary.host)?;
    Some((scheme, said.or(sent)?))
}

/// What the hops say whose writers are trusted, the outermost first of all. The last hop was written by our peer, each one before
/// by the address that the one after it names. `None`: a host is no host.
fn outermost(public: &PublicUrl, hops: Vec<Hop>) -> Option<Hop> {
    let mut said = Hop::default();
    for hop in hops.into_iter().rev() {
        if let Some(text) = hop.host {
            said.host = Some(host(&text)?);
        }
        said.scheme = hop.scheme.or(said.scheme);
        if !hop.from.is_some_and(|address| public.trusts(address)) {
            break;
        }
    }
    Some(said)
}

/// The hops of `Forwarded`.
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

/// The hops of `X-Forwarded-For`, `-Proto` and `-Host`: lists of the same length, or of one that stands for all.
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
    let hops = froms.len().max(schemes.len()).max(hosts.len());
    // From the end, where our peer wrote.
    let nth = |list: &[String], from_end: usize| {
        let index = list.len().checked_sub(from_end)?;
        list.get(index).filter(|item| !item.is_empty()).cloned()
    };
    (1..=hops)
        .rev()
        .map(|from_end| Hop {
            from: nth(&froms, from_end).as_deref().and_then(address),
            scheme: nth(&schemes, from_end).map(|scheme| scheme.to_ascii_lowercase()),
            host: nth(&hosts, from_end),
        })
        .collect()
}

/// An address, with or without a port. `None` for a name such as `unknown` or `_hidden`.
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
        BaseUrl::of(public, Some(connection), &headers(pairs)).link("/files/a")
    }

    fn behind_proxies() -> PublicUrl {
        let proxies = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().unwrap());
        PublicUrl::new(None, proxies.into()).unwrap()
    }

    #[test]
    fn a_host_that_is_not_this_machine_poisons_no_link() {
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
            BaseUrl::of(&nobody, None, &headers(&[])).link("/files/a"),
            "/files/a"
        );
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
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
    fn of_a_chain_the_outermost_trusted_proxy_is_believed() {
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
    fn what_contradicts_itself_or_is_no_host_is_not_believed() {
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
    fn a_public_url_settles_it() {
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
