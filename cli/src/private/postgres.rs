//! The private Postgres: the truth.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::sys::signal::Signal;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::Instant;

use super::{
    LoginUrls,
    child::{self, Child},
    home::{Home, Log},
    port::free_port,
    program,
};

const OLDEST: u32 = 15;
const INSTALL: &str = "Platen needs PostgreSQL 15 or newer (the programs `initdb` and `postgres`): on Debian and Ubuntu \
    `sudo apt-get install postgresql`, elsewhere the PostgreSQL server of your system; or set DATABASE_URL to a server \
    of your own";

/// The login that owns everything and migrates.
const ADMIN: &str = "platen_admin";
/// Logins that act as one role each.
const API: &str = "platen_login_api";
const WORKER: &str = "platen_login_worker";
const READER: &str = "platen_login_reader";
/// The database, and the login of the program's words, which may act as every runtime role.
const PLATEN: &str = "platen";

/// When our process dies. `SIGQUIT` makes Postgres drop everything and go, and take its own children along, at once;
/// the next start recovers from its journal. `SIGINT` would first write a checkpoint, which takes as long as it takes;
/// after `SIGKILL` its children would be on their own.
const AT_PARENTS_DEATH: Signal = Signal::SIGQUIT;

/// How long a predecessor, whose parent died, may take to be gone.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// How long a start may take. Recovery after an unclean end is part of it.
const START: Duration = Duration::from_mins(2);

/// How much a server's data are worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tuning {
    /// What is committed survives a power cut.
    #[default]
    Durable,
    /// Quick: what is committed survives our own death, but not the machine's.
    Test,
}

/// A private Postgres with a database `platen`, ready.
///
/// Dropping it ends it at once, which loses nothing but the time of a recovery; [`Postgres::stop`] is the polite way.
pub struct Postgres {
    server: Child,
    log: Log,
    programs: Programs,
    tuning: Tuning,
    port: u16,
    admin_password: String,
    password: String,
    /// Those of [`API`], [`WORKER`] and [`READER`].
    passwords: [String; 3],
    /// Last, so that the folder is not free before the server is gone.
    home: Home,
}

impl Postgres {
    /// Starts Postgres in a folder of its own, which is made and set up if need be.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, Tuning::Durable).await
    }

    /// As [`Postgres::start`], with a say in how much the data are worth.
    pub async fn start_with(folder: &Path, tuning: Tuning) -> Result<Self> {
        let home = Home::claim(folder).await?;
        let cluster = home.path().join("cluster");
        let programs = Programs::find(&cluster)?;
        let admin_password = home.password("platen_admin.password")?;
        let password = home.password("platen.password")?;
        let passwords = [
            home.password("platen_login_api.password")?,
            home.password("platen_login_worker.password")?,
            home.password("platen_login_reader.password")?,
        ];

        if !cluster.exists() {
            initdb(&home, &programs, &cluster, tuning).await?;
        }
        let (server, log, port) = launch(&home, &programs, tuning, None).await?;
        let postgres = Self {
            server,
            log,
            programs,
            tuning,
            port,
            admin_password,
            password,
            passwords,
            home,
        };
        postgres
            .prepare()
            .await
            .context("cannot prepare the private Postgres")?;
        Ok(postgres)
    }

    /// Starts it again on its data, where it was: those who know its address need not be told.
    pub async fn start_again(&mut self) -> Result<()> {
        let launched = launch(&self.home, &self.programs, self.tuning, Some(self.port)).await?;
        (self.server, self.log, _) = launched;
        Ok(())
    }

    /// Ends it at once, as a crash of its first process would: the others notice, and go.
    pub async fn crash(&mut self) {
        self.server.kill().await;
    }

    /// The runtime login, which has no rights but those the migrations grant.
    pub fn database_url(&self) -> String {
        self.url(PLATEN, &self.password, PLATEN)
    }

    /// Logins that act as one role each; what each may act as is granted when the database is migrated.
    pub fn logins(&self) -> LoginUrls {
        let [api, worker, reader] = &self.passwords;
        LoginUrls {
            api: self.url(API, api, PLATEN),
            worker: self.url(WORKER, worker, PLATEN),
            reader: self.url(READER, reader, PLATEN),
        }
    }

    /// The login that owns and migrates the database; here it is the server's superuser.
    pub fn owner_url(&self) -> String {
        self.url(ADMIN, &self.admin_password, PLATEN)
    }

    /// Why it has ended by itself, if it has.
    pub(super) fn failed(&mut self) -> Option<Error> {
        let status = self.server.ended()?;
        Some(anyhow!(
            "the private Postgres ended ({status}); {}",
            self.log.tail()
        ))
    }

    /// Ends its connections, writes everything down, and returns when it is gone.
    pub async fn stop(self) {
        const STEPS: &[(Signal, Duration)] = &[
            (Signal::SIGINT, Duration::from_secs(30)),
            (Signal::SIGQUIT, Duration::from_secs(10)),
            (Signal::SIGKILL, Duration::from_secs(5)),
        ];
        self.server.stop(STEPS).await;
    }

    /// It says how to connect, so that `PGSSLMODE` does not.
    fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!(
            "postgres://{user}:{password}@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// Makes the runtime logins and the database where they are missing, be it that the last start got no further.
    async fn prepare(&self) -> Result<()> {
        let mut connection: PgConnection = self
            .url(ADMIN, &self.admin_password, "postgres")
            .parse::<PgConnectOptions>()?
            .ssl_mode(PgSslMode::Disable)
            // One of the statements has a password in it.
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
        let [api, worker, reader] = &self.passwords;
        for (login, password) in [
            (PLATEN, &self.password),
            (API, api),
            (WORKER, worker),
            (READER, reader),
        ] {
            if logins.iter().any(|there| there == login) {
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

/// Makes a new cluster. It gets its name only when it is whole, so half of one is never started.
async fn initdb(home: &Home, programs: &Programs, cluster: &Path, tuning: Tuning) -> Result<()> {
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
        // Knows every letter's case, yet sorts by bytes: an index outlives any change of the system's alphabet.
        .args([
            "--locale",
            "C.UTF-8",
            "--lc-collate",
            "C",
            "--no-instructions",
        ]);
    if tuning == Tuning::Test {
        initdb.arg("--no-sync");
    }
    log.take(&mut initdb)?;
    let ended = Child::spawn(initdb, Signal::SIGKILL)?
        .end_within(START)
        .await;
    if !ended.is_some_and(|status| status.success()) {
        bail!("cannot set up the private Postgres; {}", log.tail());
    }
    fs::rename(unfinished, cluster)?;
    Ok(())
}

/// Starts the server, on a free port where none is given; again if somebody else took that port or a predecessor is not
/// quite gone.
async fn launch(
    home: &Home,
    programs: &Programs,
    tuning: Tuning,
    port: Option<u16>,
) -> Result<(Child, Log, u16)> {
    const PASSING: &[&str] = &[
        "Address already in use",
        "\"postmaster.pid\" already exists",
        "pre-existing shared memory block",
    ];
    let cluster = home.path().join("cluster");
    forget_a_reused_id(&cluster)?;
    let deadline = Instant::now() + PREDECESSOR;
    loop {
        let port = port.map_or_else(free_port, Ok)?;
        let log = home.log("postgres.log")?;
        let mut postgres = child::command(home, &programs.postgres, AT_PARENTS_DEATH);
        postgres.arg("-D").arg(&cluster);
        for setting in settings(tuning) {
            postgres.args(["-c", setting]);
        }
        postgres.args(["-c", &format!("port={port}")]);
        log.take(&mut postgres)?;

        let mut server = Child::spawn(postgres, AT_PARENTS_DEATH)?;
        match ready(&mut server, &cluster).await {
            Ok(()) => return Ok((server, log, port)),
            Err(why) => {
                let text = log.text();
                if !PASSING.iter().any(|passing| text.contains(passing))
                    || Instant::now() > deadline
                {
                    bail!("the private Postgres {why}; {}", log.tail());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn settings(tuning: Tuning) -> impl Iterator<Item = &'static str> {
    const ALWAYS: &[&str] = &[
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=200",
        // For operators, whatever the processes take.
        "superuser_reserved_connections=5",
        "cluster_name=platen",
        // Whatever the configuration says, the log is where the error message will look.
        "logging_collector=off",
        "log_destination=stderr",
    ];
    // Commits stay synchronous: without fsync they cost nothing, and a test that kills us wants to find them again.
    const TEST: &[&str] = &["fsync=off", "full_page_writes=off", "shared_buffers=32MB"];
    let extra: &[&str] = match tuning {
        Tuning::Durable => &[],
        Tuning::Test => TEST,
    };
    ALWAYS.iter().chain(extra).copied()
}

/// Waits until the server itself notes that it takes connections, be it as a replica. Asking the port would not tell whose port it is.
async fn ready(server: &mut Child, cluster: &Path) -> Result<(), String> {
    let deadline = Instant::now() + START;
    while Instant::now() < deadline {
        if let Some(status) = server.end_within(Duration::from_millis(10)).await {
            return Err(format!("did not start ({status})"));
        }
        let note = fs::read_to_string(pid_file(cluster)).unwrap_or_default();
        let mut lines = note.lines();
        let id = lines.next().and_then(|line| line.parse().ok());
        let status = lines.nth(6).unwrap_or_default().trim();
        if id == Some(server.id()) && ["ready", "standby"].contains(&status) {
            return Ok(());
        }
    }
    Err(format!("was not ready after {} seconds", START.as_secs()))
}

/// A note left by an unclean end names a process. Postgres knows a dead one, but would take another server of the same
/// user, which got that number since (common in containers), for its predecessor, and wait for it for ever.
fn forget_a_reused_id(cluster: &Path) -> Result<()> {
    let Ok(note) = fs::read_to_string(pid_file(cluster)) else {
        return Ok(());
    };
    let process = Path::new("/proc").join(note.lines().next().unwrap_or_default());
    let alive = process.exists();
    let ours = fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == cluster);
    if alive && !ours {
        fs::remove_file(pid_file(cluster))?;
    }
    Ok(())
}

/// Where Postgres notes its process, its port and whether it is ready.
fn pid_file(cluster: &Path) -> PathBuf {
    cluster.join("postmaster.pid")
}

/// The programs of one version of Postgres.
struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

impl Programs {
    /// The version that made the cluster, or the newest where there is none yet.
    fn find(cluster: &Path) -> Result<Self> {
        let made_by: Option<u32> = match fs::read_to_string(cluster.join("PG_VERSION")) {
            Ok(version) => version.trim().parse().ok(),
            Err(_) => None,
        };
        let mut installed = installed();
        installed.sort_by_key(|&(version, _)| version);
        let newest = installed.last().map(|&(version, _)| version);
        let (_, bin) = installed
            .into_iter()
            .rfind(|&(version, _)| made_by.is_none_or(|made_by| made_by == version) && version >= OLDEST)
            .with_context(|| match (made_by, newest) {
                (Some(made_by), _) => format!(
                    "{} was made by PostgreSQL {made_by}, which is not installed: on Debian and Ubuntu \
                     `sudo apt-get install postgresql-{made_by}`",
                    cluster.display()
                ),
                (None, Some(newest)) => format!("PostgreSQL {newest} is too old. {INSTALL}"),
                (None, None) => INSTALL.to_owned(),
            })?;
        Ok(Self {
            initdb: bin.join("initdb"),
            postgres: bin.join("postgres"),
        })
    }
}

/// What to install before a private Postgres can start, in words.
pub(super) fn missing() -> Option<&'static str> {
    (!installed().iter().any(|&(version, _)| version >= OLDEST)).then_some(INSTALL)
}

/// The folders with both programs, and their versions: that in `PATH`, and those Debian keeps out of it.
fn installed() -> Vec<(u32, PathBuf)> {
    let in_path =
        program::in_path("postgres").and_then(|program| Some(program.parent()?.to_owned()));
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    debian
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .chain(in_path)
        .filter(|bin| bin.join("initdb").is_file())
        .filter_map(|bin| {
            Some((
                program::major_version(&bin.join("postgres"), "(PostgreSQL) ")?,
                bin,
            ))
        })
        .collect()
}
