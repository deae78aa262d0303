//! What the api holds open, and how it starts and stops.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::http::HeaderValue;
use common::bucket::Bucket;
use common::catalog::Catalog;
use common::config::{Config, Ports, Unpaid};
use common::database::{self, DatabaseRole};
use common::id::TenantId;
use common::ownership::Owner;
use common::queue::{Lanes, ReadyQueue};
use common::telemetry;
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base_url::PublicUrl;
use crate::budget::Budget;
use crate::client::Pseudonyms;
use crate::connections::{self, Port};
use crate::error::Problem;
use crate::rates::Rates;
use crate::router::{metrics_router, router};
use crate::routes::health::Examined;
use crate::routes::models::list::Page;
use crate::shares::{self, Shares};
use crate::waiters::Waiters;

/// Connections for requests; each request needs one for a moment at a time, also while it waits.
const CONNECTIONS: u32 = 16;
/// Connections for metrics and readiness, and to ask which jobs have ended.
const READER_CONNECTIONS: u32 = 3;
/// What one api takes in all, at most.
pub const MAX_CONNECTIONS: u32 = CONNECTIONS + READER_CONNECTIONS;
/// How long open requests may take to end once the api stops.
const GRACE: Duration = Duration::from_secs(25);

/// The handles of the api. Handlers get it as `State<Arc<App>>`.
#[derive(Clone)]
pub struct App {
    /// Sees the rows of the tenant set in the transaction. What is done for a tenant goes through [`Self::connection`] or
    /// [`Self::wallet`].
    pub pool: PgPool,
    /// Reads everything: for billing metrics and readiness, and for which jobs have ended. Nothing else of it is for a tenant's request.
    pub reader: PgPool,
    pub ready_queue: ReadyQueue,
    pub lanes: Lanes,
    pub bucket: Bucket,
    /// Whether it is this database's.
    pub owner: Owner,
    /// What operators show; `None`: there are none.
    pub operator_key: Option<SecretString>,
    /// How long links to files work.
    pub link_lifetime: Duration,
    /// The memory and the places that bodies, pictures and downloads take.
    pub budget: Budget,
    /// What each tenant may take at once.
    pub shares: Shares,
    /// Requests that wait for jobs.
    pub waiters: Waiters,
    /// How everything stood when readiness was last asked for.
    pub examined: Examined,
    pub catalog: Arc<Catalog>,
    /// What a tenant may use that it does not pay for.
    pub unpaid: Unpaid,
    /// What `GET /v1/models` answers.
    pub models: Page,
    /// Origins of frontends that may call.
    pub cors_origins: Vec<HeaderValue>,
    /// Who may say where clients reach us.
    pub public: PublicUrl,
    /// What clients may take of the two ports.
    pub ports: Ports,
    /// How many requests are answered.
    pub rates: Arc<Rates>,
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
        let ring =
            ReadyQueue::new(config.redis()?, &config.queue).context("REDIS_URL is not usable")?;
        let bucket = Bucket::open(&config.bucket()?, config.signing_keys()?)
            .context("PLATEN_BUCKET is not usable")?;
        let catalog = config.catalog()?;
        telemetry::lifecycle(&catalog);
        let url = config.database_url(DatabaseRole::Api)?.expose_secret();
        let pool = database::connect(url, DatabaseRole::Api, CONNECTIONS).await;
        let pool = pool.context("cannot connect to Postgres as platen_api")?;
        let url = config.database_url(DatabaseRole::Reader)?.expose_secret();
        let reader = database::connect(url, DatabaseRole::Reader, READER_CONNECTIONS).await;
        let reader = reader.context("cannot connect to Postgres as platen_reader")?;
        let owner = Owner::new(pool.clone(), bucket.clone());
        owner.at_start().await.context("the api does not start")?;
        // Requests come first: half of the cores.
        let budget = Budget::within(config.api_memory, imaging::cores() / 2);
        telemetry::process::watch("api", &pool);
        telemetry::process::watch("reader", &reader);
        Ok(Self {
            pool,
            reader,
            lanes: Lanes::new(&ring, config.timing.lanes),
            ready_queue: ring,
            bucket: if config.links.ours {
                bucket.serve_through_api()
            } else {
                bucket
            },
            owner,
            operator_key: config.operator_key.clone(),
            link_lifetime: config.links.lifetime,
            shares: Shares::new(budget.places(), budget.body_bytes()),
            budget,
            waiters: Waiters::default(),
            examined: Examined::default(),
            catalog: Arc::new(catalog),
            unpaid: config.unpaid,
            models: Page::default(),
            cors_origins: config
                .cors_origins
                .iter()
                .map(|text| origin(text))
                .collect::<anyhow::Result<_>>()?,
            ports: config.ports,
            rates: Arc::new(Rates::new(
                config.rates,
                Pseudonyms::new(config.signing_key()?.clone()),
            )),
            public: PublicUrl::new(config.public_url.as_deref(), config.trusted_proxies.clone())?,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            farewell: Duration::from_secs(1),
        })
    }
}

/// How often an api looks whether Redis is there: it rings only when somebody submits.
const WATCH_REDIS_EVERY: Duration = Duration::from_secs(1);

/// Notes without an end whether Redis is there, so that log, metrics and readiness say why it is not.
async fn watch_redis(ring: ReadyQueue) {
    let mut ticks = tokio::time::interval(WATCH_REDIS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        ring.note(ring.check().await.as_ref().err());
    }
}

impl App {
    /// The right to one connection to Postgres, for what is done for a tenant.
    ///
    /// # Errors
    /// `overloaded`
    pub async fn connection(&self, tenant: TenantId) -> Result<shares::Connection, Problem> {
        self.shares.of(tenant).connection(&self.pool).await
    }

    /// The same, for a transaction that locks the tenant's wallet.
    ///
    /// # Errors
    /// `overloaded`
    pub async fn wallet(&self, tenant: TenantId) -> Result<shares::Connection, Problem> {
        self.shares.of(tenant).wallet(&self.pool).await
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

    let closing = CancellationToken::new();
    let farewell_said = async {
        stop.cancelled().await;
        tokio::time::sleep(farewell).await;
        closing.cancel();
        future::pending::<()>().await;
    };
    let watched = watch_redis(app.ready_queue.clone());
    let (ports, proxies) = (app.ports, app.public.proxies().to_vec());
    let port = Port::api(&ports, proxies);
    let routes = router(Arc::clone(&app));
    let api = connections::serve(listener, routes, port, closing.clone());
    // To the end, so that what was counted while stopping is seen, on a port whose connections are its own.
    let metrics = async {
        match metrics_listener {
            Some(listener) => {
                let (port, routes) = (Port::metrics(&ports), metrics_router(app));
                connections::serve(listener, routes, port, CancellationToken::new()).await;
            }
            None => future::pending().await,
        }
    };
    tokio::select! {
        () = api => {}
        () = metrics => {}
        () = watched => {}
        () = farewell_said => {}
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
