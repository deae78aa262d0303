//! One private Postgres and one private Redis for a whole run of the tests.
//!
//! `make test` starts them once (`src/bin/with-servers.rs`) and names them in the environment; a test that is run
//! alone starts its own.

use std::time::Duration;

use common::database;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use servers::{Servers, Tuning};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// The database every test's own is a copy of.
const TEMPLATE: &str = "platen_template";

/// Where the servers of this run answer.
#[expect(clippy::struct_field_names, reason = "as the environment names them")]
#[derive(Clone)]
pub struct TestServers {
    /// Login of the database's owner; ends in `/platen`.
    pub owner_url: String,
    /// Runtime login; ends in `/platen`.
    pub database_url: String,
    pub redis_url: String,
}

impl TestServers {
    /// The servers of this run.
    pub async fn get() -> Self {
        static OWN: OnceCell<(TempDir, Servers, TestServers)> = OnceCell::const_new();
        if let Some(named) = Self::from_env() {
            return named;
        }
        let own = OWN.get_or_init(|| Self::own(Tuning::Test));
        own.await.2.clone()
    }

    /// Servers of the caller's own, with the template: where their data are, the servers, and where they answer.
    pub async fn own(tuning: Tuning) -> (TempDir, Servers, Self) {
        let folder = tempfile::tempdir().unwrap();
        let servers = Servers::start_with(folder.path(), tuning).await.unwrap();
        let named = Self::prepare(&servers).await;
        (folder, servers, named)
    }

    /// Migrates the template on servers that were just started.
    async fn prepare(servers: &Servers) -> Self {
        let named = Self {
            owner_url: servers.owner_url().to_owned(),
            database_url: servers.database_url().to_owned(),
            redis_url: servers.redis_url().to_owned(),
        };
        named.on_owner(&format!("CREATE DATABASE {TEMPLATE}")).await;
        database::migrate(&in_database(&named.owner_url, TEMPLATE), Some("platen"))
            .await
            .unwrap();
        named
    }

    /// The environment in which another process finds them.
    pub fn env(&self) -> [(&'static str, &str); 3] {
        [
            ("PLATEN_TEST_OWNER_URL", &self.owner_url),
            ("PLATEN_TEST_DATABASE_URL", &self.database_url),
            ("PLATEN_TEST_REDIS_URL", &self.redis_url),
        ]
    }

    fn from_env() -> Option<Self> {
        let read = |name| std::env::var(name).ok();
        Some(Self {
            owner_url: read("PLATEN_TEST_OWNER_URL")?,
            database_url: read("PLATEN_TEST_DATABASE_URL")?,
            redis_url: read("PLATEN_TEST_REDIS_URL")?,
        })
    }

    /// A migrated database of its own; returns its name.
    pub async fn create_database(&self) -> String {
        let name = format!("test_{}", common::id::RequestId::new().0.simple());
        self.on_owner(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await;
        name
    }

    pub async fn drop_database(&self, name: &str) {
        self.on_owner(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await;
    }

    /// The runtime login to a database.
    pub fn runtime_url(&self, database: &str) -> String {
        in_database(&self.database_url, database)
    }

    /// The owner's login to a database.
    pub fn owner_url_of(&self, database: &str) -> String {
        in_database(&self.owner_url, database)
    }

    async fn on_owner(&self, statement: &str) {
        let mut connection = self
            .owner_url
            .parse::<PgConnectOptions>()
            .unwrap()
            .connect()
            .await
            .unwrap();
        // Copying the template fails for a moment while another test copies it.
        for _ in 0..100 {
            match connection
                .execute(sqlx::AssertSqlSafe(statement.to_owned()))
                .await
            {
                Ok(_) => break,
                Err(error)
                    if error
                        .as_database_error()
                        .is_some_and(|error| error.code().as_deref() == Some("55006")) =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{statement}: {error}"),
            }
        }
        connection.close().await.unwrap();
    }
}

fn in_database(url: &str, name: &str) -> String {
    let (server, named) = url.rsplit_once('/').unwrap();
    let settings = named.split_once('?').map_or("", |(_, settings)| settings);
    format!("{server}/{name}?{settings}")
}

/// A connection of the test's own to Redis. It waits longer for an answer than a busy machine needs; by default it
/// would wait half a second.
pub async fn connect_to_redis(url: &str) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(20)))
        .set_response_timeout(Some(Duration::from_secs(20)));
    let client = Client::open(url).unwrap();
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap()
}
