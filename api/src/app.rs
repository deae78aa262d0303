//! The state of the API: its connections, limits and settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::http::HeaderValue;
use bucket::Bucket;
use common::admission::{Admission, Admitted};
use common::config::{Config, Ports, UnbilledLimits};
use common::files::ownership::OwnershipChecker;
use common::people::key_cache::KeyCache;
use domain::catalog::Catalog;
use domain::id::TenantId;
use queue::{Lanes, ReadyQueue};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use storage::database::{self, DatabaseRole};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base_url::PublicUrl;
use crate::budget::Budget;
use crate::client::Pseudonyms;
use crate::error::Problem;
use crate::rates::Rates;
use crate::readiness::ReadinessCache;
use crate::routes::models::cache::ModelsCache;
use crate::shares::{self, Shares};
use crate::submits::{AnswerFn, Context as SubmitContext, SubmitError, Submits};
use crate::waiters::Waiters;

/// Postgres connections for requests. A request holds a connection only while it runs queries, and never while it waits for a job.
const CONNECTIONS: u32 = 16;
/// Postgres connections for metrics and readiness, and to find out which jobs have ended.
const READER_CONNECTIONS: u32 = 3;
/// Postgres connections on which Postgres tells which API keys were revoked.
const LISTENER_CONNECTIONS: u32 = 1;
/// The most Postgres connections one API process opens.
pub const MAX_CONNECTIONS: u32 = CONNECTIONS + READER_CONNECTIONS + LISTENER_CONNECTIONS;

/// The state of the API. Handlers get it as `State<Arc<App>>`.
#[derive(Clone)]
pub struct App {
    /// Connections as `platen_api`. Row-level security shows only the rows of the tenant that the transaction sets. Requests of
    /// tenants take connections through [`Self::connection`] or [`Self::wallet`], which enforce each tenant's share.
    pub pool: PgPool,
    /// Connections that can read the rows of all tenants. They are for billing metrics, readiness, operators, and to find out which
    /// jobs have ended. A tenant's request must use them for nothing else.
    pub reader: PgPool,
    /// The connection on which Postgres tells which API keys were revoked.
    pub listener: PgPool,
    /// Which tenant each API key belongs to, for keys that requests have sent lately.
    pub keys: Arc<KeyCache>,
    /// The submits that wait to be admitted together with other submits of their tenant.
    pub submits: Submits,
    /// Where new jobs are pushed for the workers.
    pub ready_queue: ReadyQueue,
    /// The state of the lanes, to tell clients why a job waits.
    pub lanes: Lanes,
    /// Where files are stored.
    pub bucket: Bucket,
    /// Knows whether the bucket belongs to this database.
    pub owner: OwnershipChecker,
    /// The API key of operators; `None` turns the operators' routes off.
    pub operator_key: Option<SecretString>,
    /// How long links to files work.
    pub link_lifetime: Duration,
    /// Limits of memory and concurrency for bodies, images and downloads.
    pub budget: Budget,
    /// What each tenant may use at once.
    pub shares: Shares,
    /// Requests that wait for jobs to end.
    pub waiters: Waiters,
    /// The newest check of all dependencies, for `/readyz`.
    pub readiness: ReadinessCache,
    /// All models, with their limits, prices and dates.
    pub catalog: Arc<Catalog>,
    /// Limits of what a tenant may use without paying for it: abandoned calls, and files that are stored.
    pub unbilled_limits: UnbilledLimits,
    /// The rendered answer of `GET /v1/models`.
    pub models: ModelsCache,
    /// Origins whose web pages may call the API (CORS).
    pub cors_origins: Vec<HeaderValue>,
    /// The public URL of the API, and the trusted proxies, which may name it.
    pub public: PublicUrl,
    /// Limits of connections and timeouts of the two ports: the port of the API, and the port for metrics and health.
    pub ports: Ports,
    /// Rate limits.
    pub rates: Arc<Rates>,
    /// Background tasks that outlive their request. A stop waits for them.
    pub tasks: TaskTracker,
    /// Canceled when the API begins to stop.
    pub stopping: CancellationToken,
    /// How long connections are still accepted after `/readyz` has turned 503, so that a load balancer notices first.
    pub drain_delay: Duration,
}

impl App {
    /// Connects to Postgres and builds the state. The connection to Redis is opened when it is first needed.
    ///
    /// # Errors
    /// Returns an error if a setting is missing or not usable, if Postgres cannot be reached, or if the bucket belongs to another
    /// database.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let ready_queue =
            ReadyQueue::new(config.redis()?, &config.queue).context("REDIS_URL is not usable")?;
        let bucket = Bucket::open(&config.bucket()?, config.signing_keys()?)
            .context("PLATEN_BUCKET is not usable")?;
        let catalog = config.catalog()?;
        telemetry::set_shutdown_days(&catalog);
        let url = config.database_url(DatabaseRole::Api)?.expose_secret();
        let pool = database::connect(url, DatabaseRole::Api, CONNECTIONS).await;
        let pool = pool.context("cannot connect to Postgres as platen_api")?;
        let listener = database::connect(url, DatabaseRole::Api, LISTENER_CONNECTIONS).await;
        let listener = listener.context("cannot connect to Postgres as platen_api")?;
        let url = config.database_url(DatabaseRole::Reader)?.expose_secret();
        let reader = database::connect(url, DatabaseRole::Reader, READER_CONNECTIONS).await;
        let reader = reader.context("cannot connect to Postgres as platen_reader")?;
        let owner = OwnershipChecker::new(pool.clone(), bucket.clone());
        owner
            .check_at_start()
            .await
            .context("the API does not start")?;
        // Rendering gets half of the cores; the other half stays free for requests.
        let budget = Budget::within(config.api_memory, imaging::cores() / 2);
        database::report_connections("api", &pool);
        database::report_connections("reader", &reader);
        database::report_connections("listener", &listener);
        Ok(Self {
            pool,
            reader,
            listener,
            keys: Arc::default(),
            submits: Submits::default(),
            lanes: Lanes::new(&ready_queue, config.timing.lanes, &catalog),
            ready_queue,
            bucket: if config.links.through_api {
                bucket.serve_through_api()
            } else {
                bucket
            },
            owner,
            operator_key: config.operator_key.clone(),
            link_lifetime: config.links.lifetime,
            shares: Shares::new(budget.slots(), budget.body_bytes()),
            budget,
            waiters: Waiters::default(),
            readiness: ReadinessCache::default(),
            catalog: Arc::new(catalog),
            unbilled_limits: config.unbilled_limits,
            models: ModelsCache::default(),
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
            drain_delay: Duration::from_secs(1),
        })
    }
}

impl App {
    /// Waits for a permit to use one Postgres connection for this tenant. The connection is taken from the pool later, by the
    /// query.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`](crate::error::Code::Overloaded) if the tenant has too many requests under way.
    pub async fn connection(&self, tenant: TenantId) -> Result<shares::Connection, Problem> {
        self.shares.for_tenant(tenant).connection(&self.pool).await
    }

    /// Admits a submit, alone or together with other submits of its tenant. `answer` makes the answer from the new job.
    ///
    /// # Errors
    /// Returns a [`SubmitError`] if the submit was not admitted. After an error of the database the job may exist all the same.
    pub async fn admit(
        &self,
        admission: Admission<'static>,
        answer: AnswerFn,
    ) -> Result<Admitted, SubmitError> {
        let context = SubmitContext {
            pool: &self.pool,
            shares: &self.shares,
            tasks: &self.tasks,
        };
        self.submits.admit(context, admission, answer).await
    }

    /// Does the same as [`Self::connection`], for a transaction that locks the tenant's wallet.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`](crate::error::Code::Overloaded) if the tenant has too many requests under way.
    pub async fn wallet(&self, tenant: TenantId) -> Result<shares::Connection, Problem> {
        self.shares.for_tenant(tenant).wallet(&self.pool).await
    }
}

/// Checks that a text is an origin (scheme and host, perhaps with a port), as browsers send it, and returns it as a header.
/// Wildcards are refused, because answers are meant only for clients that have a key.
fn origin(text: &str) -> anyhow::Result<HeaderValue> {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '*', '?', '#', '@']) => {
            Ok(HeaderValue::from_str(text)?)
        }
        _ => anyhow::bail!(
            "PLATEN_CORS_ORIGINS: {text:?} is not an origin; expected one like https://studio.example, without a path"
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
