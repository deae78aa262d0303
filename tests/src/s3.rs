//! An S3 object store over real HTTP: s3s-fs, which checks signatures and checksums and supports `If-None-Match`.
//!
//! Objects are files in a folder. It can be made to fail in several ways. One thing differs from S3: if one key is created
//! twice at the same moment, both may succeed, because it first checks and then renames. Another would differ, and is
//! corrected here: it keeps an object whose checksum it refuses.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bucket::Address;
use futures::TryStreamExt;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The one bucket there is.
pub const BUCKET: &str = "pictures";
/// The one login there is.
const ACCESS_KEY: &str = "AKTESTS";
const SECRET_KEY: &str = "a secret for tests, and for tests only";

/// How the store behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// Answers 503 to everything.
    Refuses,
    /// Answers 503 to every write, as a full store does.
    Full,
    /// Accepts every request and never answers.
    Hangs,
    /// Stores an object, and then closes the connection instead of answering.
    SwallowsReplies,
    /// Stores only half of an object, and answers with success and without a checksum: it verifies none.
    Garbles,
    /// Receives another first byte than was sent.
    ReceivesOtherBytes,
}

/// A running store. Dropping it ends it; its folder is kept.
pub struct S3 {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: DropGuard,
}

struct Shared {
    service: S3Service,
    folder: PathBuf,
    mood: Mutex<Mood>,
    puts: AtomicUsize,
    gets: AtomicUsize,
}

impl S3 {
    /// Starts on a free port.
    pub async fn start(folder: &Path) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), folder).await
    }

    /// Starts with the objects in `folder`, which an earlier store may have left.
    pub async fn start_at(address: SocketAddr, folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared = Arc::new(Shared {
            service: service.build(),
            folder: folder.to_owned(),
            mood: Mutex::default(),
            puts: AtomicUsize::default(),
            gets: AtomicUsize::default(),
        });
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(accept(
            listener,
            Arc::clone(&shared),
            tasks.clone(),
            stop.clone(),
        ));
        Self {
            address,
            shared,
            tasks,
            stop: stop.drop_guard(),
        }
    }

    /// The address it listens on.
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// The address of its bucket.
    pub fn address(&self) -> Address {
        address(&self.endpoint(), "")
    }

    /// The value for `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets how it behaves from now on.
    pub fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// How many writes of tenants' files it has received.
    pub fn puts(&self) -> usize {
        self.shared.puts.load(Ordering::Relaxed)
    }

    /// How many reads of tenants' files it has received.
    pub fn gets(&self) -> usize {
        self.shared.gets.load(Ordering::Relaxed)
    }

    /// Ends it with every connection. Afterwards the port is free.
    pub async fn stop(self) {
        let Self { tasks, stop, .. } = self;
        drop(stop);
        tasks.close();
        tasks.wait().await;
    }
}

/// The address of the bucket behind an endpoint, which may be a proxy. `prefix` may be empty.
pub fn address(endpoint: &str, prefix: &str) -> Address {
    address_within(endpoint, prefix, "2s")
}

/// The same, with a time limit for each request such as `2s`.
pub fn address_within(endpoint: &str, prefix: &str, time: &str) -> Address {
    let variables = variables(endpoint)
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .chain([("AWS_TIMEOUT".to_owned(), time.to_owned())]);
    Address::parse(&format!("s3://{BUCKET}/{prefix}"), variables).unwrap()
}

/// The variables with which another process reaches it.
pub fn variables(endpoint: &str) -> [(&'static str, String); 3] {
    [
        ("AWS_ENDPOINT_URL", endpoint.to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
    ]
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(connection(stream, shared)).await });
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, request).await }
    });
    let _broken_off = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Answers a request. An error closes the connection.
async fn answer(shared: &Shared, request: Request<Incoming>) -> io::Result<Response<s3s::Body>> {
    let writes = request.method() == Method::PUT;
    if request.uri().path().contains("/t/") {
        match *request.method() {
            Method::PUT => shared.puts.fetch_add(1, Ordering::Relaxed),
            Method::GET => shared.gets.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }
    let mood = *shared.mood.lock().unwrap();
    let refuses = mood == Mood::Refuses || mood == Mood::Full && writes;
    if refuses {
        let mut refusal = Response::new(s3s::Body::empty());
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(refusal);
    }
    if mood == Mood::Hangs {
        tokio::time::sleep(Duration::MAX).await;
    }
    let file = shared.folder.join(&request.uri().path()[1..]);
    let was_there = file.exists();
    let (parts, body) = request.into_parts();
    let mut body = s3s::Body::from(body);
    if mood == Mood::ReceivesOtherBytes && writes {
        body = s3s::Body::from(with_another_first_byte(&whole(body).await?));
    }
    let answer = shared.service.call(Request::from_parts(parts, body)).await;
    let mut answer = answer.map_err(|error| io::Error::other(format!("{error:?}")))?;
    if writes && !answer.status().is_success() && !was_there && file.exists() {
        std::fs::remove_file(&file)?;
    }
    if mood == Mood::Garbles && writes {
        let kept = std::fs::read(&file)?;
        std::fs::write(&file, &kept[..kept.len() / 2])?;
        answer.headers_mut().remove("x-amz-checksum-sha256");
    }
    if mood == Mood::SwallowsReplies && writes {
        return Err(io::Error::other("the reply is swallowed"));
    }
    Ok(answer)
}

/// The whole body of a request or an answer.
pub(crate) async fn whole(body: s3s::Body) -> io::Result<Bytes> {
    let chunks: Vec<Bytes> = body.try_collect().await.map_err(io::Error::other)?;
    Ok(chunks.concat().into())
}

/// The same bytes, except the first one.
pub(crate) fn with_another_first_byte(bytes: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first = !*first;
    }
    bytes.into()
}
