//! A TCP proxy that simulates network faults: it resets, refuses, delays or silences connections.
//!
//! Its address never changes. [`Proxy::set`] changes how all connections behave from now on, existing ones included.
//! [`Proxy::cut`], [`Proxy::forget`] and [`Proxy::swallow`] affect connections once. The proxy understands just enough of
//! the Postgres protocol (`proxy/postgres.rs`) to lose the reply to a statement that was executed.

mod postgres;
mod requests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use servers::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use postgres::Replies;
use requests::Requests;

/// How the network behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// Everything is passed on.
    #[default]
    Fair,
    /// New connections are refused, and existing ones are reset.
    Refuse,
    /// Everything arrives this much later.
    Delay(Duration),
    /// Nothing arrives, without an error. What was sent arrives when the network recovers.
    Silence,
    /// Every byte arrives alone.
    Drip,
}

/// One round trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// The statements that were sent: the name in the comment at the head of each, such as `job::claim`, or its text if it
    /// has no comment. `prepare …` if it was only prepared. Empty for a ping.
    pub statements: Vec<String>,
}

impl RoundTrip {
    /// Whether it contains no statement.
    pub fn is_ping(&self) -> bool {
        self.statements.is_empty()
    }
}

/// A running proxy. Dropping it ends it and resets its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    connections: Mutex<Vec<Connection>>,
    /// The tag of each reply that is still to be lost.
    swallow: Mutex<Vec<&'static str>>,
    /// What was recorded; `None` if nothing is to be recorded.
    recorded: Mutex<Option<Vec<RoundTrip>>>,
    /// How many connections were accepted.
    accepted: AtomicUsize,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// An open connection.
#[derive(Clone)]
struct Connection {
    /// Resets it.
    cut: CancellationToken,
    /// Makes it half open: from now on nothing is passed on, without an error.
    forgotten: CancellationToken,
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1 that connects to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            target,
            weather: watch::Sender::default(),
            connections: Mutex::default(),
            swallow: Mutex::default(),
            recorded: Mutex::default(),
            accepted: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let listener = TcpListener::bind(address).await?;
        shared
            .tasks
            .spawn(Arc::clone(&shared).listen(address, listener));
        Ok(Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        })
    }

    /// Starts a proxy before the server of a URL. Returns the proxy and the URL that leads through it.
    pub async fn before(url: &str) -> io::Result<(Self, String)> {
        let (head, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let target = host.parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the URL names no address and port",
            )
        })?;
        let proxy = Self::start(target).await?;
        let at = if login.is_empty() { "" } else { "@" };
        let through = format!("{head}://{login}{at}{}{path}", proxy.address);
        Ok((proxy, through))
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets how the network behaves from now on, for existing and new connections.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Resets every open connection, and returns how many there were.
    pub fn cut(&self) -> usize {
        let connections = self.shared.take();
        for connection in &connections {
            connection.cut.cancel();
        }
        connections.len()
    }

    /// Makes every open connection half open: both ends believe that it works, but nothing arrives. If the client closes it,
    /// the server notices. New connections work. Dropping the returned value resets the half-open ones.
    pub fn forget(&self) -> Forgotten {
        let connections = self.shared.take();
        for connection in &connections {
            connection.forgotten.cancel();
        }
        Forgotten(connections)
    }

    /// Loses the next `CommandComplete` of Postgres that begins with `tag` ("COMMIT", "UPDATE 1"): its connection is reset
    /// instead. The statement was executed, and the client cannot know it.
    pub fn swallow(&self, tag: &'static str) {
        self.shared.swallow().push(tag);
    }

    /// How many replies are still to be lost.
    pub fn still_to_swallow(&self) -> usize {
        self.shared.swallow().len()
    }

    /// Loses no further reply.
    pub fn spare(&self) {
        self.shared.swallow().clear();
    }

    /// Records round trips from now on. Connections that are open already are not recorded.
    pub(crate) fn record(&self) {
        *self.shared.recorded() = Some(Vec::new());
    }

    /// Removes and returns what was recorded.
    pub(crate) fn take_round_trips(&self) -> Vec<RoundTrip> {
        let mut recorded = self.shared.recorded();
        recorded.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        let mut connections = self.shared.connections();
        connections.retain(|connection| !connection.cut.is_cancelled());
        connections.len()
    }
}

/// Half-open connections. Dropping it resets them.
#[must_use = "dropping it resets the connections"]
pub struct Forgotten(Vec<Connection>);

impl Forgotten {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Forgotten {
    fn drop(&mut self) {
        for connection in &self.0 {
            connection.cut.cancel();
        }
    }
}

impl Shared {
    async fn listen(self: Arc<Self>, address: SocketAddr, first: TcpListener) {
        let mut listener = Some(first);
        let mut weather = self.weather.subscribe();
        loop {
            if *weather.borrow_and_update() == Weather::Refuse {
                listener = None;
                for connection in self.take() {
                    connection.cut.cancel();
                }
            } else if listener.is_none() {
                listener = TcpListener::bind(address).await.ok();
            }
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = weather.changed() => {}
                accepted = accepted => if let Ok((stream, _)) = accepted {
                    let connection = Connection { cut: self.stop.child_token(), forgotten: CancellationToken::new() };
                    self.connections().push(connection.clone());
                    self.tasks.spawn(Arc::clone(&self).serve(stream, connection));
                },
            }
        }
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream, connection: Connection) {
        let cut = connection.cut.clone();
        let Some(Ok(mut server)) = cut
            .run_until_cancelled(TcpStream::connect(self.target))
            .await
        else {
            let _reset = client.set_zero_linger();
            return connection.cut.cancel();
        };
        let _quick = (client.set_nodelay(true), server.set_nodelay(true));
        let passed = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let recording = self.recorded().is_some();
            let recorder = recording.then(|| Mutex::new(Recorder::new(&self)));
            let asking = Pipe::new(&self, &connection, recorder.as_ref(), None);
            let answering = Pipe::new(
                &self,
                &connection,
                recorder.as_ref(),
                Some(Replies::default()),
            );
            // If one side closes, both directions end: no protocol here uses half-closed connections.
            let passed = async {
                tokio::select! {
                    ended = asking.pass(from_client, to_server) => ended,
                    ended = answering.pass(from_server, to_client) => ended,
                }
            };
            cut.run_until_cancelled(passed).await
        };
        if !matches!(passed, Some(Ok(()))) {
            let _reset = (client.set_zero_linger(), server.set_zero_linger());
        }
        cut.cancel();
        self.connections().retain(|other| !other.cut.is_cancelled());
    }

    fn take(&self) -> Vec<Connection> {
        std::mem::take(&mut *self.connections())
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn swallow(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.swallow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, Option<Vec<RoundTrip>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a reply is to be lost. If so, its tag is removed from the list.
    fn swallows(&self, tag: &[u8]) -> bool {
        let mut swallow = self.swallow();
        let wanted = swallow
            .iter()
            .position(|wanted| tag.starts_with(wanted.as_bytes()));
        wanted.map(|at| swallow.remove(at)).is_some()
    }
}

/// Records the round trips of one connection.
struct Recorder<'a> {
    shared: &'a Shared,
    connection: usize,
    requests: Requests,
    /// Whether the client has sent something since the server's last answer.
    waits: bool,
}

impl<'a> Recorder<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            connection: shared.accepted.fetch_add(1, Ordering::Relaxed),
            requests: Requests::default(),
            waits: false,
        }
    }

    /// The client has sent a chunk.
    fn asked(&mut self, chunk: &[u8]) {
        let statements = self.requests.statements(chunk);
        let mut recorded = self.shared.recorded();
        let Some(recorded) = recorded.as_mut() else {
            return;
        };
        let begun = recorded
            .iter_mut()
            .rev()
            .find(|trip| trip.connection == self.connection)
            .filter(|_| self.waits);
        match begun {
            Some(trip) => trip.statements.extend(statements),
            None => recorded.push(RoundTrip {
                connection: self.connection,
                statements,
            }),
        }
        self.waits = true;
    }

    /// The server has answered.
    fn answered(&mut self) {
        self.waits = false;
    }
}

/// One direction of a connection.
struct Pipe<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    weather: watch::Receiver<Weather>,
    recorder: Option<&'a Mutex<Recorder<'a>>>,
    /// Reads the replies of a server that may be Postgres.
    replies: Option<Replies>,
}

impl<'a> Pipe<'a> {
    fn new(
        shared: &'a Shared,
        connection: &'a Connection,
        recorder: Option<&'a Mutex<Recorder<'a>>>,
        replies: Option<Replies>,
    ) -> Self {
        Self {
            shared,
            connection,
            weather: shared.weather.subscribe(),
            recorder,
            replies,
        }
    }

    async fn pass(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await?;
            self.weathered().await;
            if self.connection.forgotten.is_cancelled() {
                if read > 0 {
                    continue;
                }
                // If the client closes, both sides end. If the server closes, its client never notices.
                if self.replies.is_some() {
                    std::future::pending::<()>().await;
                }
            }
            if read == 0 {
                // Closed normally, not reset, so that everything that was passed on arrives.
                return to.shutdown().await;
            }
            let chunk = &buffer[..read];
            if let Some(recorder) = self.recorder {
                let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
                match self.replies {
                    None => recorder.asked(chunk),
                    Some(_) => recorder.answered(),
                }
            }
            if let Some(replies) = &mut self.replies {
                let shared = self.shared;
                if let Some(lost) = replies.first(chunk, |tag| shared.swallows(tag)) {
                    to.write_all(&chunk[..lost]).await?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            if *self.weather.borrow() == Weather::Drip {
                for byte in chunk {
                    to.write_all(std::slice::from_ref(byte)).await?;
                    tokio::task::yield_now().await;
                }
            } else {
                to.write_all(chunk).await?;
            }
        }
    }

    /// Waits until the network passes something on.
    async fn weathered(&mut self) {
        let now = *self.weather.borrow_and_update();
        if let Weather::Delay(delay) = now {
            tokio::time::sleep(delay).await;
        }
        while *self.weather.borrow_and_update() == Weather::Silence {
            if self.weather.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
