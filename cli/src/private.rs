//! The Postgres and Redis that `platen up` and the tests start for themselves.
//!
//! They are the real servers, as child processes: on 127.0.0.1 only, on free ports, behind random passwords, with
//! their data in the folder they are given. They live no longer than Platen does, whatever ends it (`child.rs`), and
//! never share a folder with another Platen (`home.rs`). Where each is started: `postgres.rs`, `redis.rs`.

mod child;
mod home;
mod port;
mod postgres;
mod program;
mod redis;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use self::{
    port::free_port,
    postgres::{Postgres, Tuning},
    redis::Redis,
};

/// A private Postgres and a private Redis, both ready.
///
/// Dropping it ends both at once, which loses nothing but the time of a recovery; [`Servers::stop`] is the polite way.
pub struct Servers {
    postgres: Postgres,
    redis: Redis,
    urls: Urls,
    /// Held for as long as the servers run, and released last. See [`notice`].
    _notice: File,
}

/// Where the servers of a data folder answer. The passwords are in here, so it has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Urls {
    /// The process that started the servers.
    pub pid: u32,
    /// The login of the program's words, `platen`: it may act as every runtime role, and has no rights of its own.
    pub database_url: String,
    /// Logins that act as one role each; a Platen of before there were any told none.
    #[serde(default)]
    pub logins: Option<LoginUrls>,
    /// The login that owns and migrates the database, `platen_admin`.
    pub owner_url: String,
    /// The doorbell.
    pub redis_url: String,
}

/// Logins that act as one role each.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginUrls {
    pub api: String,
    pub worker: String,
    pub reader: String,
}

impl Servers {
    /// Starts both servers with their data under `data`, which is made if need be.
    pub async fn start(data: &Path) -> Result<Self> {
        Self::start_with(data, Tuning::Durable).await
    }

    /// As [`Servers::start`], for tests that would rather be quick than survive a power cut.
    pub async fn start_with(data: &Path, tuning: Tuning) -> Result<Self> {
        home::create(data)?;
        let mut notice = home::lock(&notice(data), data).await?;
        home::let_servers_through(data)?;

        let (postgres, redis) = (postgres_of(data), data.join("redis"));
        let (postgres, redis) = tokio::try_join!(
            Postgres::start_with(&postgres, tuning),
            Redis::start(&redis)
        )?;

        let urls = Urls {
            pid: process::id(),
            database_url: postgres.database_url(),
            logins: Some(postgres.logins()),
            owner_url: postgres.owner_url(),
            redis_url: redis.url(),
        };
        notice.write_all(&serde_json::to_vec_pretty(&urls)?)?;

        Ok(Self {
            postgres,
            redis,
            urls,
            _notice: notice,
        })
    }

    /// The runtime login: `postgres://platen:…@127.0.0.1:…/platen`.
    pub fn database_url(&self) -> &str {
        &self.urls.database_url
    }

    /// Logins that act as one role each, once the database is migrated with them.
    pub fn logins(&self) -> LoginUrls {
        self.postgres.logins()
    }

    /// The login that owns and migrates the database: `postgres://platen_admin:…@127.0.0.1:…/platen`.
    pub fn owner_url(&self) -> &str {
        &self.urls.owner_url
    }

    /// The doorbell: `redis://default:…@127.0.0.1:…/0`.
    pub fn redis_url(&self) -> &str {
        &self.urls.redis_url
    }

    /// Postgres by itself, for those who want it to end and to start again.
    pub fn postgres(&mut self) -> &mut Postgres {
        &mut self.postgres
    }

    /// Redis by itself.
    pub fn redis(&mut self) -> &mut Redis {
        &mut self.redis
    }

    /// Waits until Postgres has ended by itself, which should never be, and says why. A Redis that ended is started
    /// again, empty: it holds nothing that cannot be lost.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            if let Some(why) = self.postgres.failed() {
                return why;
            }
            if let Some(why) = self.redis.failed() {
                tracing::warn!("{why:#}; starting it again");
                if let Err(why) = self.redis.start_again().await {
                    return why;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops both servers, and returns when they are gone.
    pub async fn stop(self) {
        tokio::join!(self.postgres.stop(), self.redis.stop());
    }
}

/// The servers a running Platen keeps in this data folder, or nothing when none runs there.
///
/// Fails where one is in the middle of starting.
pub fn connection_of_running(data: &Path) -> Result<Option<Urls>> {
    let Ok(mut notice) = File::open(notice(data)) else {
        return Ok(None);
    };
    // A shared lock, so that two who only ask are not in each other's way.
    if notice.try_lock_shared().is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    notice.rewind()?;
    notice.read_to_string(&mut text)?;
    let urls = serde_json::from_str(&text).with_context(|| {
        format!(
            "the Platen in {} is just starting: try again",
            data.display()
        )
    })?;
    Ok(Some(urls))
}

/// The database of a data folder, whether a Platen runs there or not: what `platen verify --data` looks into.
pub struct Database {
    runtime: String,
    owner: String,
    started: Option<Postgres>,
}

impl Database {
    /// Connects to the Platen that runs on `data`, or else starts its Postgres. Makes nothing where there is nothing.
    pub async fn open(data: &Path) -> Result<Self> {
        if let Some(urls) = connection_of_running(data)? {
            return Ok(Self {
                runtime: urls.database_url,
                owner: urls.owner_url,
                started: None,
            });
        }
        if !postgres_of(data).is_dir() {
            bail!("there is no Platen data in {}", data.display());
        }
        let postgres = Postgres::start(&postgres_of(data)).await?;
        Ok(Self {
            runtime: postgres.database_url(),
            owner: postgres.owner_url(),
            started: Some(postgres),
        })
    }

    /// The runtime login.
    pub fn database_url(&self) -> &str {
        &self.runtime
    }

    /// The login that owns the database.
    pub fn owner_url(&self) -> &str {
        &self.owner
    }

    /// Stops what [`Database::open`] started, and nothing else.
    pub async fn close(self) {
        if let Some(postgres) = self.started {
            postgres.stop().await;
        }
    }
}

/// What to install before Platen can start a Postgres of its own, in words; nothing when all is there.
pub fn missing_postgres() -> Option<&'static str> {
    postgres::missing()
}

/// What to install before Platen can start a Redis of its own, in words; nothing when all is there.
pub fn missing_redis() -> Option<&'static str> {
    redis::missing()
}

fn postgres_of(data: &Path) -> PathBuf {
    data.join("postgres")
}

/// Starts this program anew, in the same process, where the environment has variables of Postgres's own clients (`PGSSLMODE`,
/// `PGOPTIONS`, …): they are meant for another server than the private one, and would change how it is connected to.
pub fn without_clients_variables() {
    let variables: Vec<OsString> = env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| is_a_clients(name))
        .collect();
    if variables.is_empty() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut again = process::Command::new(program);
    again.args(env::args_os().skip(1));
    for name in variables {
        again.env_remove(name);
    }
    // It returns only where it failed; then things are as they were.
    let _failed = again.exec();
}

/// Such as `PGSSLMODE`; not `PG_…`, which is nobody's in particular.
fn is_a_clients(name: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(b"PG");
    rest.is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_uppercase))
}

/// One file that is both the lock on the data folder and the note of where its servers answer, so that the two cannot
/// disagree: locked and written, they run; locked and empty, they are starting; not locked, the text is history.
fn notice(data: &Path) -> PathBuf {
    data.join("servers.json")
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    use sqlx::{AssertSqlSafe, Connection, PgConnection};

    use super::*;

    #[tokio::test]
    async fn a_second_start_finds_the_data_of_the_first() {
        let data = tempfile::tempdir().unwrap();

        let servers = start(data.path()).await;
        run(servers.owner_url(), "CREATE TABLE kept (id int)")
            .await
            .unwrap();
        servers.stop().await;
        assert_eq!(working_in(data.path()), Vec::<i32>::new());

        let servers = start(data.path()).await;
        run(servers.owner_url(), "INSERT INTO kept (id) VALUES (1)")
            .await
            .unwrap();
        servers.stop().await;
    }

    #[tokio::test]
    async fn the_runtime_login_has_no_rights_of_its_own() {
        let data = tempfile::tempdir().unwrap();
        let postgres = Postgres::start_with(data.path(), Tuning::Test)
            .await
            .unwrap();

        run(&postgres.database_url(), "SELECT 1").await.unwrap();
        let refused = run(&postgres.database_url(), "CREATE TABLE mine (id int)").await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("permission denied")
        );
        let stranger = postgres.database_url().replace("platen:", "platen:x");
        assert!(run(&stranger, "SELECT 1").await.is_err());
        postgres.stop().await;
    }

    #[tokio::test]
    async fn a_second_platen_on_the_same_folder_is_refused_in_words() {
        let data = tempfile::tempdir().unwrap();
        let servers = start(data.path()).await;

        let refusal = Servers::start(data.path()).await.err().unwrap().to_string();
        assert!(refusal.contains("in use by another Platen"), "{refusal}");
        assert!(refusal.contains(data.path().to_str().unwrap()), "{refusal}");

        servers.stop().await;
    }

    #[tokio::test]
    async fn the_database_opens_whether_a_platen_runs_or_not() {
        let data = tempfile::tempdir().unwrap();
        assert!(Database::open(data.path()).await.is_err());

        let servers = start(data.path()).await;
        let database = Database::open(data.path()).await.unwrap();
        assert_eq!(database.owner_url(), servers.owner_url());
        database.close().await;
        run(servers.database_url(), "SELECT 1").await.unwrap();
        servers.stop().await;

        assert!(connection_of_running(data.path()).unwrap().is_none());
        let database = Database::open(data.path()).await.unwrap();
        run(database.database_url(), "SELECT 1").await.unwrap();
        database.close().await;
        assert_eq!(working_in(data.path()), Vec::<i32>::new());
    }

    #[tokio::test]
    async fn servers_that_crash_come_back_where_they_were() {
        let data = tempfile::tempdir().unwrap();
        let mut servers = start(data.path()).await;
        let (database, redis) = (
            servers.owner_url().to_owned(),
            servers.redis_url().to_owned(),
        );
        run(&database, "CREATE TABLE kept (id int)").await.unwrap();
        for _ in 0..2 {
            servers.postgres().crash().await;
            servers.redis().crash().await;
            assert!(run(&database, "SELECT 1").await.is_err());
            servers.postgres().start_again().await.unwrap();
            servers.redis().start_again().await.unwrap();
            run(&database, "INSERT INTO kept (id) VALUES (1)")
                .await
                .unwrap();
            assert_eq!(servers.redis().url(), redis);
        }
        servers.stop().await;
    }

    /// Runs this very program again as the parent, kills it in the way nothing can prepare for, and looks who is left.
    #[tokio::test]
    async fn a_killed_parent_leaves_nothing_and_loses_nothing() {
        let data = tempfile::tempdir().unwrap();
        let mut parent = process::Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "--include-ignored",
                "private::tests::parent_to_be_killed",
            ])
            .env(PARENT, data.path())
            .spawn()
            .unwrap();
        eventually(|| connection_of_running(data.path()).is_ok_and(|urls| urls.is_some())).await;
        let urls = connection_of_running(data.path()).unwrap().unwrap();
        run(&urls.owner_url, "CREATE TABLE kept (id int)")
            .await
            .unwrap();
        assert!(working_in(data.path()).len() > 2);

        kill(
            Pid::from_raw(parent.id().try_into().unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
        parent.wait().unwrap();
        let killed = Instant::now();
        eventually(|| working_in(data.path()).is_empty()).await;
        assert!(
            killed.elapsed() < Duration::from_secs(3),
            "{:?}",
            killed.elapsed()
        );

        let servers = start(data.path()).await;
        run(servers.owner_url(), "INSERT INTO kept (id) VALUES (1)")
            .await
            .unwrap();
        servers.stop().await;
    }

    const PARENT: &str = "PLATEN_TEST_PARENT_OF";

    #[tokio::test]
    #[ignore = "the parent in the test above"]
    async fn parent_to_be_killed() {
        let Some(data) = env::var_os(PARENT) else {
            return;
        };
        let _servers = start(data.as_ref()).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
    }

    async fn start(data: &Path) -> Servers {
        Servers::start_with(data, Tuning::Test).await.unwrap()
    }

    async fn run(url: &str, sql: &str) -> sqlx::Result<()> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
        connection.close().await
    }

    async fn eventually(mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_mins(1), "waited a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The processes that work in a folder: both servers stay in their own, so this is all they leave.
    fn working_in(folder: &Path) -> Vec<i32> {
        let folder = folder.canonicalize().unwrap();
        let processes = fs::read_dir("/proc").unwrap();
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
            })
            .collect()
    }
}
