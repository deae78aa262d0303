//! What the api holds open, and how it starts and stops.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::http::HeaderValue;
use common::bucket::Bucket;
use common::catalog::Catalog;
use common::config::Config;
use common::database::{self, Role};
use common::queue::{Lanes, Ring};
use common::telemetry;
use imaging::Darkroom;
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::{Connection, Public};
use crate::router::{metrics_router, router};

/// Connections for requests; each request needs one for a moment at a time, also while it waits.
const CONNECTIONS: u32 = 16;
/// Connections for metrics and readiness.
const READER_CONNECTIONS: u32 = 2;
/// What one api takes in all, at most.
pub const MAX_CONNECTIONS: u32 = CONNECTIONS + READER_CONNECTIONS;
/// How long open requests may take to end once the api stops.
const GRACE: Duration = Duration::from_secs(25);

/// The handles of the api. Handlers get it as `State<Arc<App>>`.
#[derive(Clone)]
pub struct App {
    /// Sees the rows of the tenant set in the transaction.
    pub pool: PgPool,
    /// Reads everything: for billing metrics and readiness, never for a tenant's request.
    pub reader: PgPool,
    pub ring: Ring,
    pub lanes: Lanes,
    pub bucket: Bucket,
    /// What operators show; `None`: there are none.
    pub operator_key: Option<SecretString>,
    /// How long links to files work.
    pub link_lifetime: Duration,
    /// Where uploads are written anew.
    pub darkroom: Darkroom,
    pub catalog: Arc<Catalog>,
    /// Origins of frontends that may call.
    pub cors_origins: Vec<HeaderValue>,
    /// Who may say where clients reach us.
    pub public: Public,
    /// Work that outlives its request; stopping waits for it.
    pub tasks: TaskTracker,
    /// Canceled when the api begins to stop.
    pub stopping: CancellationToken,
    /// How long it still takes connections after `/readyz` has turned 503, so that a load balancer learns it first.
    pub farewell: Duration,
}

impl App {
    /// Connects to Postgres and opens everything else; Redis is dialled when first needed.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let ring = Ring::new(config.redis_url()?.expose_secret(), &config.queue)
            .context("REDIS_URL is not usable")?;
        let bucket = Bucket::open(&config.bucket(), config.signing_key()?.clone())
            .context("PLATEN_BUCKET is not usable")?;
        let catalog = config.catalog()?;
        telemetry::lifecycle(&catalog);
        let url = config.database_url(Role::Api)?.expose_secret();
        let pool = database::connect(url, Role::Api, CONNECTIONS).await;
        let pool = pool.context("cannot connect to Postgres as platen_api")?;
        let url = config.database_url(Role::Reader)?.expose_secret();
        let reader = database::connect(url, Role::Reader, READER_CONNECTIONS).await;
        let reader = reader.context("cannot connect to Postgres as platen_reader")?;
        telemetry::process::watch("api", &pool);
        telemetry::process::watch("reader", &reader);
        Ok(Self {
            pool,
            reader,
            lanes: Lanes::new(&ring, config.timing.lanes),
            ring,
            bucket: if config.links.ours {
                bucket.behind_the_api()
            } else {
                bucket
            },
            operator_key: config.operator_key.clone(),
            link_lifetime: config.links.lifetime,
            // Requests come first.
            darkroom: Darkroom::new(imaging::cores() / 2),
            catalog: Arc::new(catalog),
            cors_origins: config
                .cors_origins
                .iter()
                .map(|text| origin(text))
                .collect::<anyhow::Result<_>>()?,
            public: Public::new(config.public_url.as_deref(), config.trusted_proxies.clone())?,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            farewell: Duration::from_secs(1),
        })
    }
}

/// Serves the api, and the metrics where a listener for them is given, until `stop` is canceled and the open
/// requests are answered.
pub async fn serve(
    mut app: App,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    app.stopping = stop.clone();
    let farewell = app.farewell;
    let tasks = app.tasks.clone();
    let app = Arc::new(app);

    let farewell_said = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            tokio::time::sleep(farewell).await;
        }
    };
    let service = router(Arc::clone(&app)).into_make_service_with_connect_info::<Connection>();
    let api = axum::serve(listener, service).with_graceful_shutdown(farewell_said);
    // To the end, so that what was counted while stopping is seen.
    let metrics = async {
        match metrics_listener {
            Some(listener) => axum::serve(listener, metrics_router(app)).await,
            None => future::pending().await,
        }
    };
    tokio::select! {
        served = api.into_future() => served?,
        served = metrics => served?,
        () = async { stop.cancelled().await; tokio::time::sleep(farewell + GRACE).await } => {
            tracing::warn!("Some requests were not answered in time; their connections are closed");
        }
    }
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(
            "Some rings were not rung in time; a worker's dispatcher rings for those jobs"
        );
    }
    Ok(())
}

/// An origin exactly as browsers send it. A wildcard is none: answers are for those who hold a key.
fn origin(text: &str) -> anyhow::Result<HeaderValue> {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '*', '?', '#', '@']) => {
            Ok(HeaderValue::from_str(text)?)
        }
        _ => anyhow::bail!(
            "PLATEN_CORS_ORIGINS: {text:?} is no origin; expected one like https://studio.example, without a path"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for good in ["https://studio.example", "http://localhost:5173"] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in [
            "*",
            "https://",
            "studio.example",
            "https://studio.example/",
            "https://*.example",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
