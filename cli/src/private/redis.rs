//! The private Redis: the doorbell. It writes nothing down, so each start is an empty one, with a new password.

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

use super::{
    child::{self, Child},
    home::{Home, Log},
    port::free_port,
    program,
};
use crate::secrets;

const OLDEST: u32 = 7;
const INSTALL: &str = "Platen needs Redis 7 or newer (the program `redis-server`): on Debian and Ubuntu \
    `sudo apt-get install redis-server`, elsewhere the Redis server of your system; or set REDIS_URL to a server of \
    your own";

/// There is nothing in it worth a goodbye.
const AT_PARENTS_DEATH: Signal = Signal::SIGKILL;

const START: Duration = Duration::from_secs(20);

/// A private Redis, ready. Dropping it ends it.
pub struct Redis {
    server: Child,
    log: Log,
    program: PathBuf,
    port: u16,
    password: String,
    /// Last, so that the folder is not free before the server is gone.
    home: Home,
}

impl Redis {
    /// Starts an empty Redis; the folder is for its log.
    pub async fn start(folder: &Path) -> Result<Self> {
        let home = Home::claim(folder).await?;
        let program = program::in_path("redis-server").context(INSTALL)?;
        match program::major_version(&program, " v=") {
            Some(version) if version >= OLDEST => {}
            Some(version) => bail!("Redis {version} is too old. {INSTALL}"),
            None => bail!("{} does not tell its version. {INSTALL}", program.display()),
        }
        let password = secrets::random();
        let deadline = Instant::now() + START;
        loop {
            let port = free_port()?;
            match launch(&home, &program, port, &password).await? {
                Launched::Ready(server, log) => {
                    return Ok(Self {
                        server,
                        log,
                        program,
                        port,
                        password,
                        home,
                    });
                }
                // Somebody else took the port in between.
                Launched::PortTaken(why) if Instant::now() >= deadline => bail!(why),
                Launched::PortTaken(_) => {}
            }
        }
    }

    /// Starts it again, empty, where it was: those who know its address need not be told.
    pub async fn start_again(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            match launch(&self.home, &self.program, self.port, &self.password).await? {
                Launched::Ready(server, log) => {
                    (self.server, self.log) = (server, log);
                    return Ok(());
                }
                Launched::PortTaken(why) if Instant::now() >= deadline => bail!(why),
                Launched::PortTaken(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Ends it at once, as a crash would.
    pub async fn crash(&mut self) {
        self.server.kill().await;
    }

    /// `redis://default:…@127.0.0.1:…/0`
    pub fn url(&self) -> String {
        address(self.port, &self.password)
    }

    /// Why it has ended by itself, if it has.
    pub(super) fn failed(&mut self) -> Option<Error> {
        let status = self.server.ended()?;
        Some(anyhow!(
            "the private Redis ended ({status}); {}",
            self.log.tail()
        ))
    }

    /// Stops it, and returns when it is gone.
    pub async fn stop(self) {
        const STEPS: &[(Signal, Duration)] = &[
            (Signal::SIGTERM, Duration::from_secs(5)),
            (Signal::SIGKILL, Duration::from_secs(5)),
        ];
        self.server.stop(STEPS).await;
    }
}

enum Launched {
    Ready(Child, Log),
    PortTaken(String),
}

/// One try at one port.
async fn launch(home: &Home, program: &Path, port: u16, password: &str) -> Result<Launched> {
    let log = home.log("redis.log")?;
    // It reads its settings from here: on its command line anyone could read the password.
    let mut redis = child::command(home, program, AT_PARENTS_DEATH);
    redis.arg("-").stdin(Stdio::piped());
    log.take(&mut redis)?;

    let mut server = Child::spawn(redis, AT_PARENTS_DEATH)?;
    if let Some(mut stdin) = server.take_stdin() {
        // Where it is gone already, the log says why.
        let _ = stdin.write_all(settings(port, password).as_bytes());
    }
    match ready(
        &mut server,
        &address(port, password),
        Instant::now() + START,
    )
    .await
    {
        Ok(()) => Ok(Launched::Ready(server, log)),
        Err(why) => {
            let why = format!("the private Redis {why}; {}", log.tail());
            if log.text().contains("Address already in use") {
                Ok(Launched::PortTaken(why))
            } else {
                bail!(why)
            }
        }
    }
}

/// `redis-cli` takes the empty name in `redis://:…` for a name; that which `requirepass` guards is called `default`.
fn address(port: u16, password: &str) -> String {
    format!("redis://default:{password}@127.0.0.1:{port}/0")
}

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

/// Waits until it answers to its password, which no other server would.
async fn ready(server: &mut Child, url: &str, deadline: Instant) -> Result<(), String> {
    while Instant::now() < deadline {
        if let Some(status) = server.end_within(Duration::from_millis(10)).await {
            return Err(format!("did not start ({status})"));
        }
        if ping(url).await.is_ok() {
            return Ok(());
        }
    }
    Err(format!("was not ready after {} seconds", START.as_secs()))
}

async fn ping(url: &str) -> ::redis::RedisResult<()> {
    let mut connection = Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    cmd("PING").query_async(&mut connection).await
}

/// What to install before a private Redis can start, in words.
pub(super) fn missing() -> Option<&'static str> {
    program::in_path("redis-server")
        .is_none()
        .then_some(INSTALL)
}
