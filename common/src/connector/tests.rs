//! Attacks on the connector: each counts the connections that reach a server which must not be reached.
#![expect(clippy::print_stdout, reason = "prints the counts")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use reqwest::dns::{Addrs, Name, Resolving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const BOUNDS: Bounds = Bounds {
    max_bytes: 1_000,
    timeout: Duration::from_secs(2),
};

/// A server that must not be reached: it counts connections and closes them.
struct Canary {
    port: u16,
    reached: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Canary {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = Arc::new(AtomicUsize::new(0));
        let (counter, mut task) = (Arc::clone(&reached), JoinSet::new());
        task.spawn(async move {
            while let Ok(connection) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                drop(connection);
            }
        });
        Self {
            port,
            reached,
            _task: task,
        }
    }

    /// How many connections there were since the last call.
    async fn take(&self) -> usize {
        // A connection may be made a moment before it is counted.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.reached.swap(0, Ordering::SeqCst)
    }
}

/// Gives the answers of a list, one after the other and then from the start again, for every name.
struct Names {
    answers: Vec<Vec<SocketAddr>>,
    asked: AtomicUsize,
}

impl Names {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let address = |text: &&str| SocketAddr::new(text.parse().unwrap(), 0);
        Arc::new(Self {
            answers: answers
                .iter()
                .map(|answer| answer.iter().map(address).collect())
                .collect(),
            asked: AtomicUsize::new(0),
        })
    }

    fn next(&self) -> Vec<SocketAddr> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        self.answers[asked % self.answers.len()].clone()
    }
}

impl Resolve for Names {
    fn resolve(&self, _: Name) -> Resolving {
        let answer = self.next();
        Box::pin(async move { Ok(Box::new(answer.into_iter()) as Addrs) })
    }
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A connector that may use the port `port` as if it were 443, so that the port protects nothing.
fn connector(allowed: &[&str], port: u16, names: Arc<dyn Resolve>) -> Connector {
    let ports: &'static [u16] = Box::leak(Box::new([port]));
    Connector::build(networks(allowed), ports, names).unwrap()
}

/// A server that answers each request by its path.
async fn server(address: &str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                let answer = if path == "/silent" {
                    return std::future::pending::<()>().await;
                } else if let Some(Ok(location)) = path.strip_prefix("/to/").map(hex::decode) {
                    let location = String::from_utf8(location).unwrap();
                    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
                } else if let Some(count) = path.strip_prefix("/hops/") {
                    let left: u32 = count.parse().unwrap();
                    match left.checked_sub(1) {
                        Some(left) => format!("HTTP/1.1 307 Go\r\nlocation: {left}\r\ncontent-length: 0\r\n\r\n"),
                        None => "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\narrived".to_owned(),
                    }
                } else if let Some(length) = path.strip_prefix("/bytes/") {
                    // Chunked: the header does not say the length.
                    let length: usize = length.parse().unwrap();
                    let body = "x".repeat(length);
                    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n")
                } else {
                    "HTTP/1.1 410 Gone\r\ncontent-length: 4\r\n\r\ngone".to_owned()
                };
                let _closed = stream.write_all(answer.as_bytes()).await;
                let _closed = stream.shutdown().await;
            });
        }
    });
    (address, task)
}

/// Hosts that lead to this machine, or would if a library read them carelessly.
const HOSTS: &[&str] = &[
    // Forms of 127.0.0.1.
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.0.0.01",
    "127.0.0.0x1",
    "127.255.255.254",
    "2130706433",
    "2130706433.",
    "0x7f000001",
    "0X7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "0177.0.0.01",
    "00000177.0.0.1",
    "017700000001",
    "0177.1",
    "127.0x0.01",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "127%2E1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127.0.0.1",
    "127｡0｡0｡1",
    "0x7f。1",
    "127.0.0.1%00",
    "127.0.0.1%20",
    "127.0.0.1%0a",
    "127.0.0.1\u{200b}",
    "127.0.0.1\u{ad}",
    "425.510.425.510",
    "383.0.0.1",
    "127.0.0.256",
    "127.0.0.1.1",
    "4294967295",
    "4294967296",
    "6425673729",
    "0x17f000001",
    // This host, and other local addresses of IPv4.
    "0",
    "0.0.0.0",
    "0x0",
    "00",
    "0.0.0.1",
    "10.0.0.1",
    "012.0.0.1",
    "0xa000001",
    "100.64.0.1",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.1",
    "0300.0250.1",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "192.88.99.1",
    // IPv6.
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::0001]",
    "[::]",
    "[0::0]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::ffff:0:127.0.0.1]",
    "[::ffff:0.0.0.0]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2002:7f00:0001::1]",
    "[2002:a9fe:a9fe::]",
    "[2001:0:7f00:1::]",
    "[2001::f5ff:fffe]",
    "[2001:db8::1]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
    "[fc00::1]",
    "[fd00::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[::1%25lo]",
    "[febf::1]",
    "[fec0::1]",
    "[ff01::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[4000::1]",
    "[::1",
    "::1]",
    "[::1]]",
    "[127.0.0.1]",
    // Names: every name leads to 127.0.0.1 here.
    "localhost",
    "localhost.",
    "LOCALHOST",
    "LocalHost",
    "sub.localhost",
    "localhost.localdomain",
    "ip6-localhost",
    "ｌocalhost",
    "loc\u{ad}alhost",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "127.0.0.1.nip.example",
    "7f000001.rebind.example",
    "metadata.google.internal",
    "metadata",
    "kubernetes.default.svc",
    "host.docker.internal",
    "instance-data",
    "xn--nxasmq6b",
    "bücher.example",
    "a_b.example",
    "-.example",
    "1.1.1.1.rebind.example",
    "*.example",
    "a..example",
    ".example",
    "example.",
    "0x7f.rebind.example",
];

/// Whole URLs, with `PORT` for the port.
const URLS: &[&str] = &[
    "https://good.example@127.0.0.1:PORT/",
    "https://good.example:443@127.0.0.1:PORT/",
    "https://user:pass@127.0.0.1:PORT/",
    "https://@127.0.0.1:PORT/",
    "https://:@127.0.0.1:PORT/",
    "https://good.example%40127.0.0.1:PORT/",
    "https://good.example\\@127.0.0.1:PORT/",
    "https://127.0.0.1:PORT\\@good.example/",
    "https://127.0.0.1:PORT#@good.example/",
    "https://127.0.0.1:PORT?@good.example/",
    "https://127.0.0.1:PORT/@good.example",
    "https://good.example#@127.0.0.1:PORT/",
    "https:127.0.0.1:PORT/",
    "https:/127.0.0.1:PORT/",
    "https:///127.0.0.1:PORT/",
    "https:////127.0.0.1:PORT/",
    "https:\\\\127.0.0.1:PORT/",
    "https:/\\127.0.0.1:PORT/",
    "HTTPS://127.0.0.1:PORT/",
    "hTTps://127.0.0.1:PORT/",
    " https://127.0.0.1:PORT/",
    "https://127.0.0.1:PORT/ ",
    "\thttps://127.0.0.1:PORT/",
    "ht\ntps://127.0.0.1:PORT/",
    "https://127.0.\n0.1:PORT/",
    "https://127.0.0.1:PORT/\r\nHost: good.example",
    "https://127.0.0.1 :PORT/",
    "https://127.0.0.1:PORT\u{0}/",
    "\u{0}https://127.0.0.1:PORT/",
    "\u{feff}https://127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "127.0.0.1:PORT",
    "127.0.0.1:PORT/",
    "/",
    "",
    "https://",
    "https://:PORT/",
    "https://?",
    "https://#",
    "https://127.0.0.1:0PORT/",
    "https://127.0.0.1:+PORT/",
    "https://127.0.0.1:-1/",
    "https://127.0.0.1:65536/",
    "https://127.0.0.1:PORT:PORT/",
    "https://127.0.0.1:PORT,good.example/",
    "https://127.0.0.1:PORT;good.example/",
    "http://127.0.0.1:PORT/",
    "http://localhost:PORT/",
    "http://[::1]:PORT/",
    "HTTP://127.0.0.1:PORT/",
    "http:127.0.0.1:PORT",
    "ws://127.0.0.1:PORT/",
    "wss://127.0.0.1:PORT/",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_GET",
    "dict://127.0.0.1:PORT/",
    "ldap://127.0.0.1:PORT/",
    "tftp://127.0.0.1:PORT/",
    "smb://127.0.0.1:PORT/",
    "file:///etc/passwd",
    "file://127.0.0.1:PORT/",
    "jar:https://127.0.0.1:PORT/!/",
    "view-source:https://127.0.0.1:PORT/",
    "blob:https://127.0.0.1:PORT/",
    "data:text/plain,x",
    "javascript:fetch('https://127.0.0.1:PORT/')",
    "about:blank",
    "unix:/var/run/docker.sock",
    "https+unix://127.0.0.1:PORT/",
    "feed:https://127.0.0.1:PORT/",
    "url:https://127.0.0.1:PORT/",
    "netdoc:///etc/passwd",
    "phar://127.0.0.1:PORT/",
];

/// Every URL of the attack, against the port `port`.
fn urls(port: u16) -> Vec<String> {
    let hosts = HOSTS.iter().map(|host| format!("https://{host}:{port}/"));
    let whole = URLS
        .iter()
        .map(|url| url.replace("PORT", &port.to_string()));
    hosts.chain(whole).collect()
}

/// Whether a URL leads to this machine if nothing refuses it. The others would lead to other machines.
fn leads_here(url: &str) -> bool {
    match Url::parse(url).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(_))) => true,
        Ok(Some(Host::Ipv4(address))) => address.is_loopback() || address.is_unspecified(),
        Ok(Some(Host::Ipv6(address))) => {
            let mapped = address.to_ipv4_mapped();
            address.is_loopback()
                || address.is_unspecified()
                || mapped.is_some_and(|one| one.is_loopback())
        }
        Ok(None) | Err(_) => false,
    }
}

/// Gets every URL, 32 at a time, and returns those that were not refused, with what came instead.
async fn get_all(connector: &Connector, urls: &[String]) -> Vec<(String, String)> {
    let gets = stream::iter(urls)
        .map(|url| async move { (url.clone(), connector.get(url, BOUNDS).await) });
    let results: Vec<_> = gets.buffer_unordered(32).collect().await;
    results
        .into_iter()
        .filter(|(_, result)| !matches!(result, Err(ConnectorError::Refused(_))))
        .map(|(url, result)| (url, format!("{result:?}")))
        .collect()
}

#[tokio::test]
async fn no_url_reaches_the_canary() {
    // All addresses of this machine, of both families.
    let canary = Canary::start("[::]:0").await;
    let urls = urls(canary.port);
    assert!(urls.len() >= 150, "{}", urls.len());
    let names = || Names::new(&[&["127.0.0.1"]]);

    // With every network allowed the attacks work: the canary would count them.
    let unprotected = connector(&["0.0.0.0/0", "::/0"], canary.port, names());
    let here: Vec<String> = urls.iter().filter(|url| leads_here(url)).cloned().collect();
    get_all(&unprotected, &here).await;
    let without_rules = canary.take().await;
    assert!(without_rules > 60, "only {without_rules} reach the canary");

    let protected = connector(&[], canary.port, names());
    let not_refused = get_all(&protected, &urls).await;
    let reached = canary.take().await;

    // An allowed network opens no other one.
    let partly = connector(&["10.255.0.0/16"], canary.port, names());
    let not_refused_partly = get_all(&partly, &urls).await;
    let reached_partly = canary.take().await;

    // A redirect is vetted like the first URL.
    let (redirector, _task) = server("127.0.0.2:0").await;
    let redirecting = connector(&["127.0.0.2/32"], canary.port, names());
    let redirects: Vec<String> = urls
        .iter()
        .filter(|url| !url.contains(|char: char| char.is_control()))
        .map(|url| format!("http://{redirector}/to/{}", hex::encode(url)))
        .collect();
    let refused_redirects = redirects.len() - get_all(&redirecting, &redirects).await.len();
    let reached_by_redirect = canary.take().await;

    println!(
        "{} URLs: {without_rules} reach the canary without rules, {reached} with them ({} refused), \
         {reached_partly} with another network allowed ({} refused)",
        urls.len(),
        urls.len() - not_refused.len(),
        urls.len() - not_refused_partly.len()
    );
    println!(
        "{} redirects: {reached_by_redirect} reach the canary ({refused_redirects} refused)",
        redirects.len()
    );
    assert_eq!((reached, reached_partly, reached_by_redirect), (0, 0, 0));
    // Names that DNS cannot have are not looked up at all.
    for (url, instead) in not_refused.iter().chain(&not_refused_partly) {
        assert!(instead.contains("InvalidDnsName"), "{url}: {instead}");
    }
    assert!(refused_redirects > 150, "{refused_redirects}");
}

/// A name that is public at one look-up and leads to this machine at the next. The public address is
/// one of an allowed network, where nothing listens.
#[tokio::test]
async fn no_rebinding_name_reaches_the_canary() {
    const REQUESTS: usize = 10_000;
    let canary = Canary::start("127.0.0.1:0").await;
    let rebinding: &[&[&str]] = &[&["127.0.0.2"], &["127.0.0.1"], &["127.0.0.2", "127.0.0.1"]];
    let url = format!("https://rebind.example:{}/", canary.port);

    // Who looks up, vets, and then connects by name is reached: the attack works.
    let names = Names::new(rebinding);
    let careless = connector(&["127.0.0.0/8"], canary.port, Arc::clone(&names) as _);
    let rules = Rules {
        networks: networks(&["127.0.0.2/32"]),
        ports: &[],
    };
    for _ in 0..100 {
        let vetted = names.next();
        if vetted
            .iter()
            .all(|address| rules.vet(address.ip(), Reach::Public).is_ok())
        {
            let _failed = careless.get(&url, BOUNDS).await;
        }
    }
    let careless = canary.take().await;
    assert!(careless > 0, "the attack does not work");

    let names = Names::new(rebinding);
    let vetting = connector(&["127.0.0.2/32"], canary.port, Arc::clone(&names) as _);
    let urls = vec![url; REQUESTS];
    let refused = REQUESTS - get_all(&vetting, &urls).await.len();
    let (asked, reached) = (names.asked.load(Ordering::SeqCst), canary.take().await);
    println!(
        "{REQUESTS} requests to a rebinding name: {asked} look-ups, {refused} refused, {reached} reach the canary \
         ({careless} of 100 do if the address is looked up again to connect)"
    );
    assert_eq!(reached, 0);
    assert_eq!(asked, REQUESTS, "one look-up for each connection");
    assert!(refused >= REQUESTS / 2, "{refused}");
}

#[tokio::test]
async fn an_allowed_address_answers() {
    let (server, _task) = server("127.0.0.1:0").await;
    let port = server.port();
    let allowing = connector(&["127.0.0.0/8"], 443, Names::new(&[&["127.0.0.1"]]));
    let by_address = format!("http://127.0.0.1:{port}");
    let by_name = format!("http://inside.example:{port}");
    for base in [&by_address, &by_name] {
        let answer = allowing
            .get(&format!("{base}/bytes/1000"), BOUNDS)
            .await
            .unwrap();
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 1_000));
        let answer = allowing
            .get(&format!("{base}/hops/3"), BOUNDS)
            .await
            .unwrap();
        assert_eq!(answer.body, "arrived");
    }

    // The same addresses are refused where the network is not allowed.
    let refusing = connector(&[], 443, Names::new(&[&["127.0.0.1"]]));
    for base in [&by_address, &by_name] {
        let refused = refusing.get(&format!("{base}/bytes/1"), BOUNDS).await;
        assert!(
            matches!(refused, Err(ConnectorError::Refused(_))),
            "{refused:?}"
        );
    }
    // A public address may not be used with plain http, even where some network is allowed.
    let public = allowing.check("http://1.1.1.1/");
    assert_eq!(public, Err(Refusal::Address));
    for (url, refusal) in [
        ("http://example.com/", Refusal::Scheme),
        ("https://example.com:8080/", Refusal::Port),
        ("https://me@example.com/", Refusal::Credentials),
        ("https://10.0.0.1/", Refusal::Address),
        ("https://exa mple.com/", Refusal::Invalid),
    ] {
        assert_eq!(refusing.check(url), Err(refusal), "{url}");
    }
    let long = format!("https://example.com/{}", "a".repeat(MAX_URL));
    assert_eq!(refusing.check(&long), Err(Refusal::TooLong));
    let normal = refusing.check("https://BÜCHER.example/a#b").unwrap();
    assert_eq!(normal.as_str(), "https://xn--bcher-kva.example/a");
}

#[tokio::test]
async fn an_answer_has_bounds() {
    let (server, _task) = server("127.0.0.1:0").await;
    let connector = connector(&["127.0.0.0/8"], 443, Names::new(&[&["127.0.0.1"]]));
    let url = |path: &str| format!("http://{server}{path}");
    let get = async |path: &str| connector.get(&url(path), BOUNDS).await;
    let post = async |path: &str| {
        let body = Bytes::from_static(b"{}");
        connector
            .post(&url(path), HeaderMap::new(), body, BOUNDS)
            .await
    };

    let long = get("/bytes/1001").await;
    assert!(
        matches!(long, Err(ConnectorError::TooLarge(1_000))),
        "{long:?}"
    );
    let far = get("/hops/4").await;
    assert!(
        matches!(far, Err(ConnectorError::TooManyRedirects)),
        "{far:?}"
    );
    let silent = get("/silent").await;
    assert!(
        matches!(silent, Err(ConnectorError::TimedOut(_))),
        "{silent:?}"
    );
    let refused = connector
        .get("http://127.0.0.1:1/secret", BOUNDS)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ConnectorError::Unreachable(_)),
        "{refused:?}"
    );
    assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");

    // A POST follows no redirect, and cuts what is too long.
    assert_eq!(post("/hops/1").await.unwrap().status.as_u16(), 307);
    assert_eq!(post("/bytes/5000").await.unwrap().body.len(), 1_000);
    let gone = post("/other").await.unwrap();
    assert_eq!((gone.status.as_u16(), &gone.body[..]), (410, &b"gone"[..]));

    // Each request connects anew, so each address is vetted anew.
    let connections = join_all((0..20).map(|_| get("/bytes/1"))).await;
    assert!(connections.iter().all(Result::is_ok));
}
