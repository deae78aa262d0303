//! `platen api`: the API as a process of its own.

use common::config::Config;

use crate::listen::{API_VARIABLE, METRICS_VARIABLE, listen};
use crate::open_files;
use crate::shutdown::stop_signal;

/// Serves the API until the process is told to stop.
///
/// # Errors
///
/// Returns an error if the configuration is not usable, a server that it needs cannot be reached, or another process listens at an
/// address.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let mut app = api::App::connect(config).await?;
    app.ports = open_files::raise_limit(config.ports)?;
    let listener = listen(config.listen, API_VARIABLE, config.ports.backlog)?;
    let metrics = listen(
        config.metrics_listen,
        METRICS_VARIABLE,
        config.ports.backlog,
    )?;
    api::serve(app, listener, Some(metrics), stop_signal()?).await
}
