//! `platen worker`: a worker as a process of its own.

use std::sync::Arc;

use api::connections::{self, Port};
use common::config::{Config, Ports};
use tokio_util::sync::CancellationToken;

use crate::listen::{METRICS_VARIABLE, listen};
use crate::open_files;
use crate::shutdown::stop_signal;

/// Runs a worker until the process is told to stop. It never starts fake vendors. Without credentials for its providers it refuses
/// to start.
///
/// # Errors
///
/// Returns an error if the configuration is not usable, a server that it needs cannot be reached, or another process listens at an
/// address.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let app = Arc::new(worker::App::connect(config).await?);
    // A worker serves only metrics, so it needs no open files for client connections.
    let ports = open_files::raise_limit(Ports {
        connections: 0,
        ..config.ports
    })?;
    let metrics = listen(config.metrics_listen, METRICS_VARIABLE, ports.backlog)?;
    let stop = stop_signal()?;
    let health = api::WorkerHealth {
        stopping: stop.clone(),
        owner: app.owner().clone(),
        ready_queue: app.ready_queue.clone(),
    };
    let routes = api::worker_metrics_router(health);
    // The metrics are served until the worker has ended, so that what is counted while stopping can still be scraped.
    let never = CancellationToken::new();
    let serving = connections::serve(metrics, routes, Port::metrics(&ports), never);
    tokio::select! {
        result = worker::run(app, stop) => result,
        () = serving => Ok(()),
    }
}
