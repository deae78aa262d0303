//! A TCP proxy that does to connections what networks do: it cuts them, refuses them, holds them up, falls silent.
//!
//! Its address stays for as long as it lives. [`Proxy::set`] says what every connection meets from now on, those that
//! stand included; [`Proxy::cut`], [`Proxy::forget`] and [`Proxy::swallow`] befall connections once. What Postgres says
//! is understood just far enough (`proxy/postgres.rs`) to lose the reply to a statement that was carried out.

mod postgres;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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

/// What connections meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// What comes is passed on.
    #[default]
    Fair,
    /// Nobody listens, and who was connected is cut off.
    Refuse,
    /// Everything that is said arrives so much later.
    Delay(Duration),
    /// Nothing arrives, and nobody is told. What was said meanwhile arrives when the weather turns.
    Silence,
    /// Every byte comes alone.
    Drip,
}

/// A running proxy. Dropping it ends it and cuts its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    connections: Mutex<Vec<Connection>>,
    /// Tags of the replies that are still to be lost, one each.
    swallow: Mutex<Vec<&'static str>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One that stands, as seen from outside.
#[derive(Clone)]
struct Connection {
    cut: CancellationToken,
    /// Nothing is passed on any more, for ever, and nobody is told.
    forgotten: CancellationToken,
}

impl Proxy {
    /// Listens on 127.0.0.1, and connects everyone to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            target,
            weather: watch::Sender::default(),
            connections: Mutex::default(),
            swallow: Mutex::default(),
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

    /// In front of the server a URL names: the proxy, and the URL that leads through it.
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

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for connections old and new.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Resets every connection that stands; returns how many.
    pub fn cut(&self) -> usize {
        let connections = self.shared.take();
        for connection in &connections {
            connection.cut.cancel();
        }
        connections.len()
    }

    /// Leaves every connection that stands half open: both ends take it for good, and nothing arrives at either. When
    /// its client gives it up, its server is told. New ones are fine. Dropping what is returned resets them.
    pub fn forget(&self) -> Forgotten {
        let connections = self.shared.take();
        for connection in &connections {
            connection.forgotten.cancel();
        }
        Forgotten(connections)
    }

    /// The next `CommandComplete` of a Postgres that begins with `tag` ("COMMIT", "UPDATE 1") does not arrive: its
    /// connection is cut instead. What was asked for has been done, and whoever asked cannot know.
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

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        let mut connections = self.shared.connections();
        connections.retain(|connection| !connection.cut.is_cancelled());
        connections.len()
    }
}

/// Connections that are half open. Dropping it resets them.
#[must_use = "dropping it resets the connections"]
pub struct Forgotten(Vec<Connection>);

impl Forgotten {
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
            let asking = Pipe::new(&self, &connection, None);
            let answering = Pipe::new(&self, &connection, Some(Replies::default()));
            // An end of either side is an end of both: no protocol here lives on half a connection.
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

    /// Whether a reply is one that is to be lost; then it is struck off.
    fn swallows(&self, tag: &[u8]) -> bool {
        let mut swallow = self.swallow();
        let wanted = swallow
            .iter()
            .position(|wanted| tag.starts_with(wanted.as_bytes()));
        wanted.map(|at| swallow.remove(at)).is_some()
    }
}

/// One direction of a connection.
struct Pipe<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    weather: watch::Receiver<Weather>,
    /// What the server has said, where it may be Postgres.
    replies: Option<Replies>,
}

impl<'a> Pipe<'a> {
    fn new(shared: &'a Shared, connection: &'a Connection, replies: Option<Replies>) -> Self {
        Self {
            shared,
            connection,
            weather: shared.weather.subscribe(),
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
                // A client that gives up is gone for both; of a server's end its client never hears.
                if self.replies.is_some() {
                    std::future::pending::<()>().await;
                }
            }
            if read == 0 {
                // What was passed on before should arrive: an end by itself is no reset.
                return to.shutdown().await;
            }
            let chunk = &buffer[..read];
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

    /// Returns when the weather lets something pass.
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
