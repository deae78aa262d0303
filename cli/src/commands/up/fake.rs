//! The fake vendors, which are used if no real vendor is configured. A build without the feature `fakes` has none.

use common::config::Config;

/// A running server that fakes every vendor. Dropping it stops it.
pub(super) struct Fake {
    /// The base URL of the server.
    pub(super) url: String,
    #[cfg(feature = "fakes")]
    _server: fakes::Fake,
}

/// Starts the fake vendors and adds them to the configuration. Returns `None` if a real vendor is configured.
#[cfg(feature = "fakes")]
pub(super) async fn start(config: &mut Config) -> anyhow::Result<Option<Fake>> {
    if has_real_vendor(config) {
        return Ok(None);
    }
    let server = fakes::Fake::start(fakes::Options::default()).await?;
    // The latency is in milliseconds. It makes every state of a job visible in a demo, as with a real model.
    server.faults().latency(300..=700);
    let url = server.base_url();
    config.providers.fake = Some(url.clone());
    Ok(Some(Fake {
        url,
        _server: server,
    }))
}

/// Requires a real vendor, because this build has no fakes.
#[cfg(not(feature = "fakes"))]
#[expect(
    clippy::unused_async,
    reason = "the build with fakes awaits its server"
)]
pub(super) async fn start(config: &mut Config) -> anyhow::Result<Option<Fake>> {
    anyhow::ensure!(
        has_real_vendor(config),
        "GOOGLE_CLOUD_PROJECT is missing, and this build has no fake to start in its place"
    );
    Ok(None)
}

/// Whether a real vendor is configured.
fn has_real_vendor(config: &Config) -> bool {
    let providers = &config.providers;
    providers.google_project.is_some() || providers.wanted.is_some()
}
