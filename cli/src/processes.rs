//! The two roles as processes of their own, for containers.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::connections::{self, Port};
use common::config::{Config, Ports};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::open_files;

/// Serves the API until the process is told to stop.
pub async fn api(config: &Config) -> anyhow::Result<()> {
    let mut app = api::App::connect(config).await?;
    app.ports = open_files::raise(config.ports)?;
    let listener = listen(config.listen, API, config.ports.backlog)?;
    let metrics = listen(config.metrics_listen, METRICS, config.ports.backlog)?;
    api::serve(app, listener, Some(metrics), stop_signal()?).await
}

/// Works until the process is told to stop. Never starts a fake: without credentials it refuses to start.
pub async fn worker(config: &Config) -> anyhow::Result<()> {
    let app = Arc::new(worker::App::connect(config).await?);
    // Nobody but its metrics port is connected to.
    let ports = open_files::raise(Ports {
        connections: 0,
        ..config.ports
    })?;
    let metrics = listen(config.metrics_listen, METRICS, ports.backlog)?;
    let stop = stop_signal()?;
    let health = api::WorkerHealth {
        stopping: stop.clone(),
        owner: app.owner().clone(),
        ring: app.ready_queue.clone(),
    };
    // To the end, so that what was counted while stopping is seen.
    let routes = api::worker_metrics_router(health);
    let never = CancellationToken::new();
    let serving = connections::serve(metrics, routes, Port::metrics(&ports), never);
    tokio::select! {
        worked = worker::run(app, stop) => worked,
        () = serving => Ok(()),
    }
}

/// What names the address of the API, and that of the metrics.
pub const API: &str = "PLATEN_LISTEN";
pub const METRICS: &str = "PLATEN_METRICS_LISTEN";

/// Binds an address, or says which one it was and what names another. `backlog` connections may wait there to be taken.
pub fn listen(address: SocketAddr, named_by: &str, backlog: u32) -> anyhow::Result<TcpListener> {
    bind(address, backlog).map_err(|error| {
        let problem = match error.kind() {
            ErrorKind::AddrInUse => {
                "another process, perhaps another Platen, listens there".to_owned()
            }
            _ => error.to_string(),
        };
        anyhow::anyhow!("cannot listen on {address}: {problem}. {named_by} names another address")
    })
}

fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait until the connections of the last run are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Both ways to ask for a stop.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Private servers end with their parent.
#[expect(clippy::exit, reason = "asked for twice")]
fn end_now() -> ! {
    std::process::exit(130)
}

/// Cancelled by Ctrl-C and by SIGTERM; the second of them ends the process at once. They are waited for on a thread of their own: the
/// second must be heard even when the rest of the process hangs, or is about to end.
pub fn stop_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        }
    };
    let wait = async move {
        signals.next().await;
        tracing::info!("Stopping: taking nothing new, finishing what runs; again to stop at once");
        stopping.cancel();
        signals.next().await;
        tracing::warn!("Stopping at once; what ran goes to another worker when its lease runs out");
        end_now();
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(wait))?;
    Ok(stop)
}

/// How long what still runs on a thread may take to end, once all else has: a file on a disk that hangs never ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs a program to its end, and not longer: what blocks a thread for ever is left behind.
pub fn run_to_the_end<T>(program: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(program);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_file_that_hangs_on_open_does_not_hold_the_end_up() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let (opened, opens) = std::sync::mpsc::channel();
        let began = Instant::now();
        let opening = pipe.clone();
        let program = async move {
            tokio::task::spawn_blocking(move || {
                opened.send(()).unwrap();
                std::fs::read(opening)
            });
            opens.recv().unwrap();
        };
        run_to_the_end(program).unwrap();
        assert!(
            began.elapsed() < SHUTDOWN_TIMEOUT * 3,
            "{:?}",
            began.elapsed()
        );
        // So that the thread ends with the test.
        drop(
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(pipe),
        );
    }
}
