//! The fake Vertex AI, where no Google project is configured. A build without the feature `fakes` has none.

use common::config::Config;

/// A running fake; dropping it stops it.
pub(super) struct Fake {
    pub(super) url: String,
    #[cfg(feature = "fakes")]
    _server: fakes::vertex::Vertex,
}

/// Starts one unless the real Vertex AI is configured, and lets the configuration name it.
#[cfg(feature = "fakes")]
pub(super) async fn start(config: &mut Config) -> anyhow::Result<Option<Fake>> {
    use common::config::Vertex;
    use fakes::vertex::{self, Options};

    if config.vertex.is_some() {
        return Ok(None);
    }
    let server = vertex::Vertex::start(Options::default()).await?;
    // A model takes its time; a demo should show the states a job passes through.
    server.faults().latency(300..=700);
    let url = server.base_url();
    config.vertex = Some(Vertex {
        project: "synthetic".to_owned(),
        base_url: Some(url.clone()),
        synthetic: true,
    });
    Ok(Some(Fake {
        url,
        _server: server,
    }))
}

/// Refuses to go on without the real Vertex AI.
#[cfg(not(feature = "fakes"))]
#[expect(clippy::unused_async, reason = "the build with fakes waits for one")]
pub(super) async fn start(config: &mut Config) -> anyhow::Result<Option<Fake>> {
    anyhow::ensure!(
        config.vertex.is_some(),
        "GOOGLE_CLOUD_PROJECT is missing, and this build has no fake to start in its place"
    );
    Ok(None)
}
