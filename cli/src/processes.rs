//! The two roles as processes of their own, for containers.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use common::config::Config;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Serves the API until the process is told to stop.
pub async fn api(config: &Config) -> anyhow::Result<()> {
    let app = api::App::connect(config).await?;
    let listener = listen(config.listen, API).await?;
    let metrics = listen(config.metrics_listen, METRICS).await?;
    api::serve(app, listener, Some(metrics), stop_signal()?).await
}

/// Works until the process is told to stop. Never starts a fake: without credentials it refuses to start.
pub async fn worker(config: &Config) -> anyhow::Result<()> {
    let app = Arc::new(worker::App::connect(config).await?);
    let metrics = listen(config.metrics_listen, METRICS).await?;
    let stop = stop_signal()?;
    // To the end, so that what was counted while stopping is seen.
    let serving = axum::serve(
        metrics,
        api::worker_metrics_router(stop.clone(), app.ring.clone()),
    )
    .into_future();
    tokio::select! {
        worked = worker::run(app, stop) => worked,
        served = serving => Ok(served?),
    }
}

/// What names the address of the API, and that of the metrics.
pub const API: &str = "PLATEN_LISTEN";
pub const METRICS: &str = "PLATEN_METRICS_LISTEN";

/// Binds an address, or says which one it was and what names another.
pub async fn listen(address: SocketAddr, named_by: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let problem = match error.kind() {
            ErrorKind::AddrInUse => {
                "another process, perhaps another Platen, listens there".to_owned()
            }
            _ => error.to_string(),
        };
        anyhow::anyhow!("cannot listen on {address}: {problem}. {named_by} names another address")
    })
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

/// Cancelled by Ctrl-C and by SIGTERM; the second of them ends the process.
pub fn stop_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = StopSignals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    let stopping = stop.clone();
    TaskTracker::new().spawn(async move {
        signals.next().await;
        tracing::info!("Stopping: taking nothing new, finishing what runs; again to stop at once");
        stopping.cancel();
        signals.next().await;
        tracing::warn!("Stopping at once; what ran goes to another worker when its lease runs out");
        end_now();
    });
    Ok(stop)
}
