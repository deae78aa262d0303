//! The private Redis. It writes no data to disk, so it is empty after each start.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use ::redis::{Client, cmd};
use anyhow::{Context, Error, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::{
    child::{self, Child},
    home::{Home, Log},
    port::free_port,
    program, secrets,
};

const MIN_VERSION: u32 = 7;
const INSTALL: &str = "Platen needs Redis 7 or newer (the program `redis-server`): on Debian and Ubuntu \
    `sudo apt-get install redis-server`, elsewhere the Redis server of your system; or set REDIS_URL to a server of \
    your own";

/// Redis has nothing to save, so it may be killed.
const PARENT_DEATH_SIGNAL: Signal = Signal::SIGKILL;

/// How long one try to start may take. After this time no further try begins.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a server that starts is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The time until a restart tries its port again after another process had it.
const PORT_INTERVAL: Duration = Duration::from_millis(100);

/// A private Redis that accepts connections. Dropping this value ends Redis.
pub struct Redis {
    server: Child,
    log: Log,
    program: PathBuf,
    port: u16,
    password: String,
    /// This field is the last one, so that the folder is released after the server has ended.
    home: Home,
}

impl Redis {
    /// Starts an empty Redis. The folder is created if it is missing, and keeps only the log.
    ///
    /// # Errors
    ///
    /// Returns an error if another Platen uses the folder, if Redis is not installed or too old, or if it does not
    /// start in time.
    pub async fn start(folder: &Path) -> Result<Self> {
        let home = Home::claim(folder).await?;
        let program = program::in_path("redis-server").context(INSTALL)?;
        match program::major_version(&program, " v=") {
            Some(version) if version >= MIN_VERSION => {}
            Some(version) => bail!("Redis {version} is too old. {INSTALL}"),
            None => bail!("{} does not tell its version. {INSTALL}", program.display()),
        }
        let password = secrets::random();
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let port = free_port()?;
            match launch(&home, &program, port, &password).await? {
                StartResult::Ready(server, log) => {
                    return Ok(Self {
                        server,
                        log,
                        program,
                        port,
                        password,
                        home,
                    });
                }
                StartResult::PortTaken(why) if Instant::now() >= deadline => bail!(why),
                // Another process took the port in the meantime. The next try uses another port.
                StartResult::PortTaken(_) => {}
            }
        }
    }

    /// Starts Redis again, empty, at the same address and with the same password, so that [`Redis::url`] stays valid.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis does not start in time, for example because its port is taken.
    pub async fn start_again(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match launch(&self.home, &self.program, self.port, &self.password).await? {
                StartResult::Ready(server, log) => {
                    (self.server, self.log) = (server, log);
                    return Ok(());
                }
                StartResult::PortTaken(why) if Instant::now() >= deadline => bail!(why),
                StartResult::PortTaken(_) => tokio::time::sleep(PORT_INTERVAL).await,
            }
        }
    }

    /// Ends Redis with `SIGKILL`, as a crash would.
    pub async fn crash(&mut self) {
        self.server.kill().await;
    }

    /// The URL: `redis://default:…@127.0.0.1:…/0`.
    pub fn url(&self) -> String {
        url(self.port, &self.password)
    }

    /// An error that says why Redis has ended by itself. Returns `None` while it runs.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        let status = self.server.exit_status()?;
        Some(anyhow!(
            "the private Redis ended ({status}); {}",
            self.log.tail()
        ))
    }

    /// Stops Redis, and returns when it has ended.
    pub async fn stop(self) {
        const STEPS: &[(Signal, Duration)] = &[
            (Signal::SIGTERM, Duration::from_secs(5)),
            (Signal::SIGKILL, Duration::from_secs(5)),
        ];
        self.server.stop(STEPS).await;
    }
}

/// The result of one try to start Redis.
enum StartResult {
    Ready(Child, Log),
    /// Another process has the port. The text is the error message.
    PortTaken(String),
}

/// Tries to start Redis on one port.
async fn launch(home: &Home, program: &Path, port: u16, password: &str) -> Result<StartResult> {
    let log = home.log("redis.log")?;
    // Redis reads its settings from standard input, because every user can read the command line of a process.
    let mut redis = child::command(home, program, PARENT_DEATH_SIGNAL);
    redis.arg("-").stdin(Stdio::piped());
    log.capture(&mut redis)?;

    let mut server = Child::spawn(redis, PARENT_DEATH_SIGNAL)?;
    if let Some(mut stdin) = server.take_stdin() {
        // If Redis has ended already, its log says why.
        let _ = stdin.write_all(settings(port, password).as_bytes());
    }
    match wait_until_ready(&mut server, &url(port, password)).await {
        Ok(()) => Ok(StartResult::Ready(server, log)),
        Err(problem) => {
            let problem = format!("the private Redis {problem}; {}", log.tail());
            if log.text().contains("Address already in use") {
                Ok(StartResult::PortTaken(problem))
            } else {
                bail!(problem)
            }
        }
    }
}

/// Builds the URL. It names the user `default`, whom `requirepass` protects, because `redis-cli` takes the empty name
/// in `redis://:…` for a user called "".
fn url(port: u16, password: &str) -> String {
    format!("redis://default:{password}@127.0.0.1:{port}/0")
}

/// The settings, as lines of a configuration file.
fn settings(port: u16, password: &str) -> String {
    format!(
        "bind 127.0.0.1\n\
         port {port}\n\
         requirepass {password}\n\
         save \"\"\n\
         appendonly no\n\
         daemonize no\n"
    )
}

/// Waits until Redis accepts its own password, which no other server on that port would accept. The error says what
/// went wrong.
async fn wait_until_ready(server: &mut Child, url: &str) -> Result<(), String> {
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = server.wait_at_most(POLL_INTERVAL).await {
            return Err(format!("did not start ({status})"));
        }
        if ping(url).await.is_ok() {
            return Ok(());
        }
    }
    Err(format!(
        "was not ready after {} seconds",
        START_TIMEOUT.as_secs()
    ))
}

async fn ping(url: &str) -> ::redis::RedisResult<()> {
    let mut connection = Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    cmd("PING").query_async(&mut connection).await
}

/// A sentence that says what to install before a private Redis can start. Returns `None` if Redis is installed, in
/// whatever version.
pub fn missing() -> Option<&'static str> {
    program::in_path("redis-server")
        .is_none()
        .then_some(INSTALL)
}
