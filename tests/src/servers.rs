//! One private Postgres and one private Redis for a whole run of the tests.
//!
//! `make test` starts them once (`src/bin/with-servers.rs`) and passes their URLs in the environment. A test that is run
//! alone starts its own. A long proof starts [`OwnServers`].

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use servers::{Durability, Servers};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use storage::database;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// The migrated database that is copied for every test.
const TEMPLATE: &str = "platen_template";
/// The error code of Postgres for a template that another session is copying.
const OBJECT_IN_USE: &str = "55006";
/// How often a copy is tried, and the time between two tries.
const COPY_TRIES: u32 = 100;
const COPY_INTERVAL: Duration = Duration::from_millis(50);
/// How long a test waits for its own connection to Redis, and for an answer.
const REDIS_TIMEOUT: Duration = Duration::from_secs(20);

/// The URLs of the servers of this run.
#[expect(clippy::struct_field_names, reason = "as the environment names them")]
#[derive(Clone)]
pub struct TestServers {
    /// With the login of the database's owner; the path is `/platen`.
    pub owner_url: String,
    /// With the runtime login; the path is `/platen`.
    pub database_url: String,
    /// The URL of Redis.
    pub redis_url: String,
}

/// A Postgres and a Redis that nobody else uses. Dropping them ends them at once.
pub struct OwnServers {
    /// The servers, to crash and restart them.
    pub servers: Servers,
    folder: TempDir,
}

impl OwnServers {
    /// Starts them, with the template.
    pub async fn start(durability: Durability) -> (Self, TestServers) {
        let (folder, servers, urls) = TestServers::own(durability).await;
        (Self { servers, folder }, urls)
    }

    /// The folder of their data, which is removed with them.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops them cleanly.
    pub async fn stop(self) {
        self.servers.stop().await;
    }
}

impl TestServers {
    /// The servers of this run.
    pub async fn get() -> Self {
        static OWN: OnceCell<(TempDir, Servers, TestServers)> = OnceCell::const_new();
        if let Some(named) = Self::from_env() {
            return named;
        }
        let own = OWN.get_or_init(|| Self::own(Durability::Reduced));
        own.await.2.clone()
    }

    /// Starts servers of the caller's own, with the template. Returns the folder of their data, the servers and their URLs.
    pub async fn own(durability: Durability) -> (TempDir, Servers, Self) {
        let folder = tempfile::tempdir().unwrap();
        let servers = Servers::start_with(folder.path(), durability)
            .await
            .unwrap();
        let named = Self::prepare(&servers).await;
        (folder, servers, named)
    }

    /// Creates the template on servers that were just started.
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

    /// The variables that tell another process the URLs.
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

    /// Creates a migrated database and returns its name.
    pub async fn create_database(&self) -> String {
        let name = format!("test_{}", domain::id::RequestId::new().0.simple());
        self.on_owner(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await;
        name
    }

    /// Drops a database, even if it has connections.
    pub async fn drop_database(&self, name: &str) {
        self.on_owner(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await;
    }

    /// The URL of a database with the runtime login.
    pub fn runtime_url(&self, database: &str) -> String {
        in_database(&self.database_url, database)
    }

    /// The URL of a database with the owner's login.
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
        // Copying the template fails while another test copies it. So try again.
        for _ in 0..COPY_TRIES {
            match connection
                .execute(sqlx::AssertSqlSafe(statement.to_owned()))
                .await
            {
                Ok(_) => break,
                Err(error)
                    if error
                        .as_database_error()
                        .is_some_and(|error| error.code().as_deref() == Some(OBJECT_IN_USE)) =>
                {
                    tokio::time::sleep(COPY_INTERVAL).await;
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

/// A connection to Redis for the test itself. It waits up to 20 seconds for an answer, because a busy machine may need
/// more than the default of half a second.
pub async fn connect_to_redis(url: &str) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(REDIS_TIMEOUT))
        .set_response_timeout(Some(REDIS_TIMEOUT));
    let client = Client::open(url).unwrap();
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap()
}
