//! Requests to addresses that others give us: the endpoints of webhooks, and files named by a link.
//!
//! Whoever names an address may name one of our own network, or a name that leads there only at the
//! second look-up. So the addresses of a host are vetted in the moment of connecting: [`resolver`]
//! stands between the look-up and the connection, and the connection uses exactly the addresses
//! that were vetted. An address that the URL itself contains is vetted before. Every request
//! connects anew, each redirect is vetted like a first URL, and no proxy is used.
//!
//! On the internet only https on port 443 or 8443 is allowed. In the networks that
//! `PLATEN_PRIVATE_NETWORKS` names, plain http and any port are allowed as well.

mod addresses;
mod resolver;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use reqwest::dns::Resolve;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Client, Response, StatusCode};
use url::{Host, Url};

use addresses::{Reach, Rules};
pub use addresses::{Refusal, may_be_allowed};
use resolver::{SystemResolver, VettingResolver};

/// Ports that may be used on the internet.
const PORTS: &[u16] = &[443, 8443];
/// The longest URL, in bytes.
const MAX_URL: usize = 2_048;
/// How many redirects a GET follows.
const MAX_REDIRECTS: usize = 3;
/// How long one connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most headers of an answer.
const MAX_HEADERS: usize = 64;

/// Makes requests to addresses that others give us. A clone shares the rules.
#[derive(Clone, Debug)]
pub struct Connector {
    rules: Arc<Rules>,
    /// Connects to public addresses, and to those in allowed networks.
    public: Client,
    /// Connects to addresses in allowed networks only.
    private: Client,
}

/// The limits of one request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The longest body of the answer, in bytes.
    pub max_bytes: usize,
    /// The time for everything: look-ups, connections, redirects and the body.
    pub timeout: Duration,
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status; not only a success.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer. The texts may be shown to whoever gave the address: they name none of
/// our networks.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The address may not be connected to.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The host has no address, or accepts no connection, or TLS fails, or the answer breaks off.
    #[error("the server could not be reached")]
    Unreachable(#[source] reqwest::Error),
    /// The answer took too long.
    #[error("the server did not answer within {} seconds", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The body is too long.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// A redirect leads to another one, too often.
    #[error("there are more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// A redirect without a usable `Location`.
    #[error("a redirect says no URL to go to")]
    InvalidRedirect,
}

/// What happens to the part of a body that is longer than allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Excess {
    IsAnError,
    IsDropped,
}

impl Connector {
    /// Allows public addresses, and those in `private_networks`.
    ///
    /// # Errors
    /// Returns an error if TLS cannot be set up.
    pub fn new(private_networks: &[IpNet]) -> Result<Self, reqwest::Error> {
        let networks = private_networks.to_vec();
        Self::build(networks, PORTS, Arc::new(SystemResolver))
    }

    fn build(
        networks: Vec<IpNet>,
        ports: &'static [u16],
        names: Arc<dyn Resolve>,
    ) -> Result<Self, reqwest::Error> {
        let rules = Arc::new(Rules { networks, ports });
        let client = |reach, names| {
            Client::builder()
                .dns_resolver(VettingResolver {
                    names,
                    rules: Arc::clone(&rules),
                    reach,
                })
                .https_only(reach == Reach::Public)
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                // A connection that is used again was vetted too long ago.
                .pool_max_idle_per_host(0)
                .connect_timeout(CONNECT_TIMEOUT)
                .http1_only()
                .http1_max_headers(MAX_HEADERS)
                .user_agent(concat!("platen/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        Ok(Self {
            public: client(Reach::Public, Arc::clone(&names))?,
            private: client(Reach::Private, names)?,
            rules,
        })
    }

    /// Checks a URL without a look-up, when somebody enters it, and returns its normal form. That
    /// it passes does not mean that its host may be connected to.
    ///
    /// # Errors
    /// Returns an error if the URL is not valid, or is one that is never connected to.
    pub fn check(&self, url: &str) -> Result<Url, Refusal> {
        Ok(self.target(url)?.0)
    }

    /// Gets a file. Follows up to three redirects. A body longer than allowed is an error.
    ///
    /// # Errors
    /// Returns an error if an address is refused, or if there is no whole answer within the bounds.
    pub async fn get(&self, url: &str, bounds: Bounds) -> Result<Answer, ConnectorError> {
        let exchange = async {
            let mut url = url.to_owned();
            for _ in 0..=MAX_REDIRECTS {
                let (target, reach) = self.target(&url)?;
                let request = self.client(reach).get(target.clone());
                let response = request.send().await.map_err(failure)?;
                if !is_redirect(response.status()) {
                    return read(response, bounds.max_bytes, Excess::IsAnError).await;
                }
                url = next(&target, &response).ok_or(ConnectorError::InvalidRedirect)?;
            }
            Err(ConnectorError::TooManyRedirects)
        };
        within(bounds.timeout, exchange).await
    }

    /// Posts a body. Follows no redirect. A body of the answer that is longer than allowed is cut.
    ///
    /// # Errors
    /// Returns an error if the address is refused, or if there is no answer within the bounds.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Answer, ConnectorError> {
        let exchange = async {
            let (target, reach) = self.target(url)?;
            let request = self.client(reach).post(target).headers(headers).body(body);
            let response = request.send().await.map_err(failure)?;
            read(response, bounds.max_bytes, Excess::IsDropped).await
        };
        within(bounds.timeout, exchange).await
    }

    fn client(&self, reach: Reach) -> &Client {
        match reach {
            Reach::Public => &self.public,
            Reach::Private => &self.private,
        }
    }

    /// Checks everything about a URL that can be checked without a look-up.
    fn target(&self, text: &str) -> Result<(Url, Reach), Refusal> {
        if text.len() > MAX_URL {
            return Err(Refusal::TooLong);
        }
        // The parser would drop ends of lines and tabs without a word.
        if text
            .chars()
            .any(|char| char.is_control() || char.is_whitespace())
        {
            return Err(Refusal::Invalid);
        }
        let mut url = Url::parse(text).map_err(|_| Refusal::Invalid)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        let port = url.port_or_known_default();
        let reach = match url.scheme() {
            "https" if port.is_some_and(|port| self.rules.ports.contains(&port)) => Reach::Public,
            "https" if self.rules.networks.is_empty() => return Err(Refusal::Port),
            "http" if self.rules.networks.is_empty() => return Err(Refusal::Scheme),
            "https" | "http" => Reach::Private,
            _ => return Err(Refusal::Scheme),
        };
        match url.host() {
            Some(Host::Ipv4(address)) => self.rules.vet(IpAddr::V4(address), reach)?,
            Some(Host::Ipv6(address)) => self.rules.vet(IpAddr::V6(address), reach)?,
            Some(Host::Domain(name)) if has_empty_label(name) => return Err(Refusal::Invalid),
            Some(Host::Domain(_)) => {}
            None => return Err(Refusal::Invalid),
        }
        url.set_fragment(None);
        Ok((url, reach))
    }
}

/// Whether a name has an empty label, such as `a..b`. There is no such name (RFC 1035, 2.3.1), but what looks it up may
/// read it in another way than this program does: `127.1..` as an address, for example. One dot at the end is allowed.
fn has_empty_label(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.split('.').any(str::is_empty)
}

/// Whether a status is a redirect with a `Location`.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The URL that a redirect leads to.
fn next(from: &Url, response: &Response) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    Some(from.join(location).ok()?.into())
}

/// Limits the time of an exchange.
async fn within(
    limit: Duration,
    exchange: impl Future<Output = Result<Answer, ConnectorError>>,
) -> Result<Answer, ConnectorError> {
    let exchange = tokio::time::timeout(limit, exchange);
    exchange
        .await
        .unwrap_or(Err(ConnectorError::TimedOut(limit)))
}

/// Reads an answer. The length that its header claims is not believed.
async fn read(
    mut response: Response,
    max_bytes: usize,
    excess: Excess,
) -> Result<Answer, ConnectorError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        let room = max_bytes - body.len();
        if chunk.len() <= room {
            body.extend_from_slice(&chunk);
        } else if excess == Excess::IsDropped {
            body.extend_from_slice(&chunk[..room]);
            break;
        } else {
            return Err(ConnectorError::TooLarge(max_bytes));
        }
    }
    Ok(Answer {
        status,
        headers,
        body: body.freeze(),
    })
}

/// Finds out whether a request failed because [`VettingResolver`] refused the addresses. Removes the
/// URL, because links may contain secrets.
fn failure(error: reqwest::Error) -> ConnectorError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return ConnectorError::Refused(*refusal);
        }
        source = cause.source();
    }
    ConnectorError::Unreachable(error.without_url())
}
