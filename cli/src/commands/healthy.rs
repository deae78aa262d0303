//! `platen healthy`: the health check of a container. The container's image has no shell and no other program that could do it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::config::Config;

/// How long the process may take to answer. This is shorter than the time that a container runtime waits for a health check.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks the api or the worker on this machine whether it is ready.
///
/// # Errors
///
/// Returns an error if the process does not answer, or if it answers that it is not ready. The error then quotes the answer.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let mut address: SocketAddr = config.metrics_listen;
    // `0.0.0.0` stands for all addresses of this machine. It is not an address to connect to.
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let response = client
        .get(format!("http://{address}/readyz"))
        .send()
        .await?;
    anyhow::ensure!(
        response.status().is_success(),
        "{address} is not ready: {}",
        response.text().await?
    );
    Ok(())
}
