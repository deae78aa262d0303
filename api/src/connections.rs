//! Limits of connections: how many there may be, and how long they may stay open.
//!
//! A port has a limit of connections in total and a limit per address. Connections of a trusted proxy count only towards the total.
//! A connection is closed if it sends no request in time, is idle for too long, or reads nothing of its answer. When the port is
//! full, a new connection displaces the one that has been without a request for the longest time. So clients that send nothing
//! cannot lock others out, and no request under way is interrupted. If all connections have a request under way, the new one is
//! closed at once.
//!
//! The ports support only HTTP/1.1, for the reasons in [0026](../../docs/decisions/0026-http-1-1-only.md).

mod paced;
mod table;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use common::config::Ports;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::base_url::Connection;
use paced::{AnswerBody, TimedStream};
use table::{Slot, SlotGuard, Table};

/// Bytes of buffer for each direction of a connection. The head of a request may not be larger.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long no connection is accepted after the system had no free file descriptor or no memory for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port's name and limits.
#[derive(Clone, Debug)]
pub struct Port {
    /// The name in metrics and logs.
    pub name: &'static str,
    /// The most connections in total.
    pub total: usize,
    /// The most connections from one address.
    pub per_address: usize,
    /// Trusted proxies, whose connections count only towards the total.
    pub proxies: Vec<IpNet>,
    /// How long a client may take to send the head of a request.
    pub head_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// How long a client may go without reading anything of its answer.
    pub write_timeout: Duration,
}

impl Port {
    /// The port of the API.
    pub fn api(ports: &Ports, proxies: Vec<IpNet>) -> Self {
        let &Ports {
            head, idle, write, ..
        } = ports;
        Self {
            name: "api",
            total: ports.connections,
            per_address: ports.per_address,
            proxies,
            head_timeout: head,
            idle_timeout: idle,
            write_timeout: write,
        }
    }

    /// The port for metrics and health of a process. The port has no limit per address, because its clients are the operator's own
    /// programs, which often all have one address.
    pub fn metrics(ports: &Ports) -> Self {
        let total = ports.metrics;
        Self {
            name: "metrics",
            total,
            per_address: total,
            ..Self::api(ports, Vec::new())
        }
    }
}

/// Accepts connections and serves them until `closing` is canceled. Then connections without a request are closed at once. The
/// other connections are closed when their request is answered. Dropping the future closes all connections.
pub async fn serve(listener: TcpListener, router: Router, port: Port, closing: CancellationToken) {
    let table = Arc::new(Table::new(port));
    let tasks = TaskTracker::new();
    let abort = CancellationToken::new();
    let _abort_on_drop = abort.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(slot) = table.admit(peer.ip()) {
                    let (closing, abort) = (closing.clone(), abort.clone());
                    tasks.spawn(serve_connection(
                        stream,
                        router.clone(),
                        slot,
                        closing,
                        abort,
                    ));
                }
            }
            Err(error) if may_accept_at_once(&error) => {}
            // The system has no more file descriptors or memory. Another try at once would fail, too, and the loop would use a
            // whole core. So it waits until connections are closed.
            Err(_) => {
                table.free_file_descriptor();
                let _ = closing
                    .run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE))
                    .await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Whether `accept` can be tried again at once after this error: it concerns only the connection that was being accepted, or a
/// signal interrupted the call.
fn may_accept_at_once(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Answers the requests of one connection. After `closing` the connection ends when no request is under way, after
/// `abort` at once. The slot is freed at the end, when `guard` is dropped.
async fn serve_connection(
    stream: TcpStream,
    router: Router,
    guard: SlotGuard,
    closing: CancellationToken,
    abort: CancellationToken,
) {
    // Each write is sent at once. Waiting to fill a packet would delay the end of an answer.
    let _ = stream.set_nodelay(true);
    let addresses = stream.peer_addr().map(|peer| Connection {
        peer: peer.ip(),
        local: stream.local_addr().ok(),
    });
    let Ok(addresses) = addresses else { return };
    let slot: Arc<Slot> = Arc::clone(&guard);
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(addresses);
        let has_slot = slot.begin_request();
        let answer = router.clone().call(request);
        let slot = Arc::clone(&slot);
        async move {
            if !has_slot {
                // Another connection got the slot just before this request came. The loop below is about to close this connection.
                std::future::pending::<()>().await;
            }
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| AnswerBody::new(body, slot)))
        }
    });
    let stream = TokioIo::new(TimedStream::new(stream, Arc::clone(&slot)));
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            // `TimedStream` has the time limits. Unlike hyper, it distinguishes an idle connection from a slow head.
            .header_read_timeout(None)
            .serve_connection(stream, service)
    );
    let mut closing = pin!(closing.cancelled());
    let mut is_closing = false;
    loop {
        tokio::select! {
            // Errors are ignored, because the client is gone.
            _ = connection.as_mut() => break,
            () = &mut closing, if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = slot.displaced() => break,
            () = abort.cancelled() => break,
        }
    }
}
