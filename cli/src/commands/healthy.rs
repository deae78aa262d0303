//! `platen healthy`: the health check of a container. The image has no shell and no other program.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::config::Config;

/// Shorter than the time that a container runtime waits for a health check.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks the api or the worker on this machine whether it is ready.
///
/// # Errors
///
/// It is not ready, and the error quotes its answer; or it does not answer.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let mut address: SocketAddr = config.metrics_listen;
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
