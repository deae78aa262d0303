//! `platen healthy`: what a container asks about itself. The image has no shell and no other program.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::config::Config;

/// Less than what a container's runtime waits for the answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks the api or the worker on this machine whether it is ready; an error says what it answered.
pub async fn ask(config: &Config) -> anyhow::Result<()> {
    let mut address: SocketAddr = config.metrics_listen;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let answer = client
        .get(format!("http://{address}/readyz"))
        .send()
        .await?;
    anyhow::ensure!(
        answer.status().is_success(),
        "{address} is not ready: {}",
        answer.text().await?
    );
    Ok(())
}
