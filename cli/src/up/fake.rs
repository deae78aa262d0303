//! The fake vendors, where nobody real is configured. A build without the feature `fakes` has none.

use common::config::Config;

/// Running fakes; dropping them stops them.
pub(super) struct Fake {
    pub(super) url: String,
    #[cfg(feature = "fakes")]
    _server: fakes::Fake,
}

/// Starts them unless someone real is configured, and lets the configuration name them.
#[cfg(feature = "fakes")]
pub(super) async fn start(config: &mut Config) -> anyhow::Result<Option<Fake>> {
    if names_someone(config) {
        return Ok(None);
    }
    let server = fakes::Fake::start(fakes::Options::default()).await?;
    // A model takes its time; a demo should show the states a job passes through.
    server.faults().latency(300..=700);
    let url = server.base_url();
    config.providers.fake = Some(url.clone());
    Ok(Some(Fake {
        url,
        _server: server,
    }))
}

/// Refuses to go on without someone real.
#[cfg(not(feature = "fakes"))]
#[expect(clippy::unused_async, reason = "the build with fakes waits for one")]
pub(super) async fn start(config: &mut Config) -> anyhow::Result<Option<Fake>> {
    anyhow::ensure!(
        names_someone(config),
        "GOOGLE_CLOUD_PROJECT is missing, and this build has no fake to start in its place"
    );
    Ok(None)
}

fn names_someone(config: &Config) -> bool {
    let providers = &config.providers;
    providers.google_project.is_some() || providers.wanted.is_some()
}
