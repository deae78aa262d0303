//! The private Postgres.

mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::programs::missing;

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::sys::signal::Signal;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::Instant;

use self::programs::Programs;
use crate::{
    child::{self, Child},
    home::{Home, Log},
    port::free_port,
    urls::LoginUrls,
};

/// The login that owns the database and migrates it.
const ADMIN: &str = "platen_admin";
/// Logins that act as one role each.
const API: &str = "platen_login_api";
const WORKER: &str = "platen_login_worker";
const READER: &str = "platen_login_reader";
/// The name of the database, and also of the login for the commands of the program, which may act as every runtime
/// role.
const PLATEN: &str = "platen";

/// The signal that Postgres gets when this process dies. `SIGQUIT` makes Postgres end at once, together with its own
/// children. The next start recovers from the write-ahead log. `SIGINT` would first write a checkpoint, which can take
/// long. `SIGKILL` would leave its children running.
const PARENT_DEATH_SIGNAL: Signal = Signal::SIGQUIT;

/// How long the Postgres of an earlier Platen that died may take to end.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a start may take, including the recovery after an unclean end.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// How often a server that starts is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The time between two tries to start.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What committed data survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Committed data survive a power cut.
    #[default]
    Full,
    /// Committed data survive the death of Postgres, but not a crash of the machine. This is faster, and is meant for
    /// tests.
    Reduced,
}

/// A private Postgres with a database `platen`, which accepts connections.
///
/// Dropping this value ends Postgres at once. That loses no committed data, but the next start has to recover.
/// [`Postgres::stop`] ends Postgres cleanly.
pub struct Postgres {
    server: Child,
    log: Log,
    programs: Programs,
    durability: Durability,
    port: u16,
    /// The password of [`ADMIN`].
    admin_password: String,
    /// The password of the login [`PLATEN`].
    password: String,
    /// The passwords of [`API`], [`WORKER`] and [`READER`], in this order.
    role_passwords: [String; 3],
    /// This field is the last one, so that the folder is released after the server has ended.
    home: Home,
}

impl Postgres {
    /// Starts Postgres in a folder of its own. Creates the folder and the database if they are missing.
    ///
    /// # Errors
    ///
    /// Returns an error if another Platen uses the folder, if Postgres is not installed in the version that created the
    /// data, or if Postgres does not start.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, Durability::Full).await
    }

    /// Like [`Postgres::start`], with a choice between durability and speed.
    ///
    /// # Errors
    ///
    /// Returns an error if another Platen uses the folder, if Postgres is not installed in the version that created the
    /// data, or if Postgres does not start.
    pub async fn start_with(folder: &Path, durability: Durability) -> Result<Self> {
        let home = Home::claim(folder).await?;
        let cluster = home.path().join("cluster");
        let programs = Programs::find(&cluster)?;
        let admin_password = home.password("platen_admin.password")?;
        let password = home.password("platen.password")?;
        let role_passwords = [
            home.password("platen_login_api.password")?,
            home.password("platen_login_worker.password")?,
            home.password("platen_login_reader.password")?,
        ];

        if !cluster.exists() {
            initdb(&home, &programs, &cluster, durability).await?;
        }
        let (server, log, port) = launch(&home, &programs, durability, None).await?;
        let postgres = Self {
            server,
            log,
            programs,
            durability,
            port,
            admin_password,
            password,
            role_passwords,
            home,
        };
        postgres
            .create_logins_and_database()
            .await
            .context("cannot prepare the private Postgres")?;
        Ok(postgres)
    }

    /// Starts Postgres again on its data, at the same address, so that its URLs stay valid.
    ///
    /// # Errors
    ///
    /// Returns an error if Postgres does not start in time, for example because its port is taken.
    pub async fn start_again(&mut self) -> Result<()> {
        let started = launch(&self.home, &self.programs, self.durability, Some(self.port)).await?;
        (self.server, self.log, _) = started;
        Ok(())
    }

    /// Kills the main process of Postgres, as a crash would. The other processes of Postgres notice this and end.
    pub async fn crash(&mut self) {
        self.server.kill().await;
    }

    /// The URL of the login `platen`, which may act as every runtime role and has no rights of its own.
    pub fn database_url(&self) -> String {
        self.url(PLATEN, &self.password, PLATEN)
    }

    /// The URLs of logins that act as one role each. The migration grants them their roles.
    pub fn logins(&self) -> LoginUrls {
        let [api, worker, reader] = &self.role_passwords;
        LoginUrls {
            api: self.url(API, api, PLATEN),
            worker: self.url(WORKER, worker, PLATEN),
            reader: self.url(READER, reader, PLATEN),
        }
    }

    /// The URL of the login that owns and migrates the database. It is the superuser of this server.
    pub fn owner_url(&self) -> String {
        self.url(ADMIN, &self.admin_password, PLATEN)
    }

    /// An error that says why Postgres has ended by itself. Returns `None` while it runs.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        let status = self.server.exit_status()?;
        Some(anyhow!(
            "the private Postgres ended ({status}); {}",
            self.log.tail()
        ))
    }

    /// Lets Postgres close its connections and write a checkpoint, and returns when it has ended.
    pub async fn stop(self) {
        const STEPS: &[(Signal, Duration)] = &[
            (Signal::SIGINT, Duration::from_secs(30)),
            (Signal::SIGQUIT, Duration::from_secs(10)),
            (Signal::SIGKILL, Duration::from_secs(5)),
        ];
        self.server.stop(STEPS).await;
    }

    /// Builds a URL. It names the `sslmode`, so that the variable `PGSSLMODE` has no effect.
    fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!(
            "postgres://{user}:{password}@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// Creates the runtime logins and the database if they are missing: in a new cluster, or after a start that was
    /// interrupted.
    async fn create_logins_and_database(&self) -> Result<()> {
        let mut connection: PgConnection = self
            .url(ADMIN, &self.admin_password, "postgres")
            .parse::<PgConnectOptions>()?
            .ssl_mode(PgSslMode::Disable)
            // The CREATE ROLE statements contain passwords.
            .disable_statement_logging()
            .connect()
            .await?;
        let (logins, has_database): (Vec<String>, bool) = sqlx::query_as(
            "SELECT ARRAY(SELECT rolname::text FROM pg_roles WHERE rolcanlogin), \
                    EXISTS (SELECT FROM pg_database WHERE datname = $1)",
        )
        .bind(PLATEN)
        .fetch_one(&mut connection)
        .await?;
        let [api, worker, reader] = &self.role_passwords;
        for (login, password) in [
            (PLATEN, &self.password),
            (API, api),
            (WORKER, worker),
            (READER, reader),
        ] {
            if logins.iter().any(|existing| existing == login) {
                continue;
            }
            let create = format!(
                "CREATE ROLE {login} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOINHERIT PASSWORD '{password}'"
            );
            sqlx::raw_sql(AssertSqlSafe(create))
                .execute(&mut connection)
                .await?;
        }
        if !has_database {
            let create = format!("CREATE DATABASE {PLATEN}");
            sqlx::raw_sql(AssertSqlSafe(create))
                .execute(&mut connection)
                .await?;
        }
        connection.close().await?;
        Ok(())
    }
}

/// Creates a new cluster (the data of a Postgres server). The cluster gets its final name when it is complete, so an
/// incomplete cluster is never started.
async fn initdb(
    home: &Home,
    programs: &Programs,
    cluster: &Path,
    durability: Durability,
) -> Result<()> {
    let unfinished = home.path().join("cluster.unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let log = home.log("initdb.log")?;
    let mut initdb = child::command(home, &programs.initdb, Signal::SIGKILL);
    initdb
        .arg("--pgdata")
        .arg(&unfinished)
        .args(["--username", ADMIN, "--pwfile", "platen_admin.password"])
        .args([
            "--auth",
            "scram-sha-256",
            "--data-checksums",
            "--encoding",
            "UTF8",
        ])
        // `C.UTF-8` knows upper and lower case of every letter. Sorting is by bytes, so an update of the system's
        // collation rules cannot corrupt an index.
        .args([
            "--locale",
            "C.UTF-8",
            "--lc-collate",
            "C",
            "--no-instructions",
        ]);
    if durability == Durability::Reduced {
        initdb.arg("--no-sync");
    }
    log.capture(&mut initdb)?;
    let status = Child::spawn(initdb, Signal::SIGKILL)?
        .wait_at_most(START_TIMEOUT)
        .await;
    if !status.is_some_and(|status| status.success()) {
        bail!("cannot set up the private Postgres; {}", log.tail());
    }
    fs::rename(unfinished, cluster)?;
    Ok(())
}

/// Starts the server on `port`, or on a free port if `port` is `None`. Tries again for up to
/// [`PREDECESSOR_TIMEOUT`] if another process took the port, or if the Postgres of an earlier Platen has not quite
/// ended. Also returns the log and the port.
async fn launch(
    home: &Home,
    programs: &Programs,
    durability: Durability,
    port: Option<u16>,
) -> Result<(Child, Log, u16)> {
    /// Messages in the log about problems that pass by themselves.
    const TEMPORARY: &[&str] = &[
        "Address already in use",
        "\"postmaster.pid\" already exists",
        "pre-existing shared memory block",
    ];
    let cluster = home.path().join("cluster");
    remove_stale_pid_file(&cluster)?;
    let deadline = Instant::now() + PREDECESSOR_TIMEOUT;
    loop {
        let port = port.map_or_else(free_port, Ok)?;
        let log = home.log("postgres.log")?;
        let mut postgres = child::command(home, &programs.postgres, PARENT_DEATH_SIGNAL);
        postgres.arg("-D").arg(&cluster);
        for setting in settings(durability) {
            postgres.args(["-c", setting]);
        }
        postgres.args(["-c", &format!("port={port}")]);
        log.capture(&mut postgres)?;

        let mut server = Child::spawn(postgres, PARENT_DEATH_SIGNAL)?;
        match wait_until_ready(&mut server, &cluster).await {
            Ok(()) => return Ok((server, log, port)),
            Err(problem) => {
                let text = log.text();
                if !TEMPORARY.iter().any(|error| text.contains(error)) || Instant::now() > deadline
                {
                    bail!("the private Postgres {problem}; {}", log.tail());
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// The settings of the server, except its port.
fn settings(durability: Durability) -> impl Iterator<Item = &'static str> {
    const ALWAYS: &[&str] = &[
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=200",
        // Operators can then connect even when Platen's processes use every other connection.
        "superuser_reserved_connections=5",
        "cluster_name=platen",
        // The log goes to standard error, where our error messages read it, even if a configuration file says
        // otherwise.
        "logging_collector=off",
        "log_destination=stderr",
    ];
    // Commits stay synchronous. They cost nothing without fsync, and tests that kill Postgres must find committed data.
    // Of two values of one setting the last counts. There are more connections than above, because several tests, some
    // with a dozen processes each, share one server.
    const REDUCED: &[&str] = &[
        "fsync=off",
        "full_page_writes=off",
        "shared_buffers=32MB",
        "max_connections=400",
    ];
    let extra: &[&str] = match durability {
        Durability::Full => &[],
        Durability::Reduced => REDUCED,
    };
    ALWAYS.iter().chain(extra).copied()
}

/// Waits until the server has written into its pid file that it accepts connections, as a primary or as a replica. An
/// answer on the port would not prove that this server has answered. The error says what went wrong.
async fn wait_until_ready(server: &mut Child, cluster: &Path) -> Result<(), String> {
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = server.wait_at_most(POLL_INTERVAL).await {
            return Err(format!("did not start ({status})"));
        }
        let pid_file = fs::read_to_string(pid_file(cluster)).unwrap_or_default();
        let mut lines = pid_file.lines();
        let id = lines.next().and_then(|line| line.parse().ok());
        // This reads line 8, because line 1 was read above.
        let status = lines.nth(6).unwrap_or_default().trim();
        if id == Some(server.id()) && ["ready", "standby"].contains(&status) {
            return Ok(());
        }
    }
    Err(format!(
        "was not ready after {} seconds",
        START_TIMEOUT.as_secs()
    ))
}

/// Removes the pid file that an unclean end left behind, if its process id now belongs to another program.
///
/// Postgres itself notices a dead process. But if another process of the same user has got the id since (common in
/// containers), Postgres would take that process for its predecessor and never start.
fn remove_stale_pid_file(cluster: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(pid_file(cluster)) else {
        return Ok(());
    };
    let process = Path::new("/proc").join(text.lines().next().unwrap_or_default());
    let is_alive = process.exists();
    let is_ours = fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == cluster);
    if is_alive && !is_ours {
        fs::remove_file(pid_file(cluster))?;
    }
    Ok(())
}

/// The file in which Postgres notes its process id, its port and whether it is ready.
fn pid_file(cluster: &Path) -> PathBuf {
    cluster.join("postmaster.pid")
}
