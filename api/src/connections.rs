//! Who may hold a connection, and for how long.
//!
//! A port takes so many connections in all and so many from one address; a trusted proxy's are counted in all only. A connection that
//! sends no request in time, is idle for too long or takes nothing of its answer is closed. While the port is full, a new connection
//! takes the place of the one that has been without a request the longest: so clients that say nothing shut nobody out, and no
//! request under way is harmed. Where all have a request under way, the new one is closed at once.
//!
//! HTTP/1.1 only: [0026](../../docs/decisions/0026-http-1-1-only.md).

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
use paced::{Answer, Paced};
use table::{Held, Slot, Table};

/// Largest head of a request, and the most that is read or written ahead of it: bytes for each direction of a connection.
const BUFFER: usize = 64 * 1024;
/// How long nothing is taken after the system had no more files for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a port is called in metrics and logs, and what it takes.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: &'static str,
    /// Connections in all.
    pub total: usize,
    /// Connections from one address.
    pub per_address: usize,
    /// Whose connections are counted in all only.
    pub proxies: Vec<IpNet>,
    /// How long the head of a request may take to come.
    pub head: Duration,
    /// How long a connection may be idle between two requests.
    pub idle: Duration,
    /// How long a client may take nothing of its answer.
    pub write: Duration,
}

impl Port {
    /// The api's own.
    pub fn api(ports: &Ports, proxies: Vec<IpNet>) -> Self {
        let &Ports {
            head, idle, write, ..
        } = ports;
        Self {
            name: "api",
            total: ports.connections,
            per_address: ports.per_address,
            proxies,
            head,
            idle,
            write,
        }
    }

    /// That of the metrics and the health of a process. Only its owner's programs ask there, often all from one address.
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

/// Takes connections and answers on them until `closing` is cancelled; then those without a request are closed, the others once
/// they are answered. Dropping the future closes all of them.
pub async fn serve(listener: TcpListener, router: Router, port: Port, closing: CancellationToken) {
    let table = Arc::new(Table::new(port));
    let tasks = TaskTracker::new();
    let end = CancellationToken::new();
    let _ends_with_us = end.clone().drop_guard();
    loop {
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            () = closing.cancelled() => break,
        };
        match taken {
            Ok((stream, peer)) => {
                if let Some(place) = table.admit(peer.ip()) {
                    let (closing, end) = (closing.clone(), end.clone());
                    tasks.spawn(serve_connection(
                        stream,
                        router.clone(),
                        place,
                        closing,
                        end,
                    ));
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            // No more files or memory. The next attempt would fail as well, and at once: what is waited for is that somebody leaves.
            Err(_) => {
                table.no_files();
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

/// Whether only the connection that was to be taken is lost.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Answers the requests of one connection.
async fn serve_connection(
    stream: TcpStream,
    router: Router,
    place: Held,
    closing: CancellationToken,
    end: CancellationToken,
) {
    // Answers are small and whole: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let ends = stream.peer_addr().map(|peer| Connection {
        peer: peer.ip(),
        local: stream.local_addr().ok(),
    });
    let Ok(ends) = ends else { return };
    let place: Arc<Slot> = Arc::clone(&place);
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ends);
        let begun = place.begin();
        let answer = router.clone().call(request);
        let place = Arc::clone(&place);
        async move {
            if !begun {
                // Its place was given away in this moment.
                std::future::pending::<()>().await;
            }
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, place)))
        }
    });
    let stream = TokioIo::new(Paced::new(stream, Arc::clone(&place)));
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(BUFFER)
            // Ours knows whether a connection is idle or sends.
            .header_read_timeout(None)
            .serve_connection(stream, service)
    );
    let mut closing = pin!(closing.cancelled());
    let mut is_closing = false;
    loop {
        tokio::select! {
            // Also where it broke off: there is nobody to tell.
            _ = connection.as_mut() => break,
            () = &mut closing, if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = place.displaced() => break,
            () = end.cancelled() => break,
        }
    }
}
