//! Several `platen api` and `platen worker` as real processes, which are killed, stopped, frozen and started again.
//!
//! Each process keeps its ports when it is started again, and writes its log to a file of its own. The caller chooses what
//! they work on: [`Config`] names servers, bucket and catalogue, and the catalogue names the providers.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use common::config::Config;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use servers::free_port;
use tokio::process::{Child, Command};

use crate::processes;

/// How long a start may take until the process is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How many lines of a log are quoted in an error.
const LOG_TAIL_LINES: usize = 12;

/// What processes are started with.
#[derive(Clone)]
pub struct Orders {
    /// The program, of this version or of another.
    pub program: PathBuf,
    /// What the variables of the environment say.
    pub config: Config,
    /// Further variables, such as keys of providers.
    pub environment: Vec<(String, String)>,
    /// The folder of the logs.
    pub folder: PathBuf,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves the API.
    Api,
    /// It works on jobs.
    Worker,
}

/// A process that runs, or one that has ended and can be started again.
pub struct Process {
    /// What it does.
    pub role: Role,
    /// Such as `api-1` or `worker-3`; also the name of its log.
    pub name: String,
    orders: Orders,
    child: Option<Child>,
}

impl Orders {
    /// Starts `count` processes of a role, and waits until each is ready.
    pub async fn start(&self, role: Role, count: usize) -> anyhow::Result<Vec<Process>> {
        let mut processes = Vec::new();
        for number in 1..=count {
            let mut process = Process::new(role, number, self)?;
            process.start()?;
            processes.push(process);
        }
        for process in &mut processes {
            process.ready().await?;
        }
        Ok(processes)
    }

    /// Starts one process, and waits until it is ready.
    pub async fn start_one(&self, role: Role) -> anyhow::Result<Process> {
        let mut started = self.start(role, 1).await?;
        started.pop().context("one was started")
    }
}

impl Process {
    /// A process that does not run yet.
    pub fn new(role: Role, number: usize, orders: &Orders) -> anyhow::Result<Self> {
        let mut orders = orders.clone();
        let free = || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        orders.config.listen = free()?;
        orders.config.metrics_listen = free()?;
        Ok(Self {
            role,
            name: format!("{}-{number}", role.command()),
            orders,
            child: None,
        })
    }

    /// The address of the API.
    pub fn address(&self) -> SocketAddr {
        self.orders.config.listen
    }

    /// The address of its metrics.
    pub fn metrics_address(&self) -> SocketAddr {
        self.orders.config.metrics_listen
    }

    /// The file of its log.
    pub fn log(&self) -> PathBuf {
        self.orders.folder.join(format!("{}.log", self.name))
    }

    /// Starts it, for the first time or again. It must not run.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let platen = Command::new(&self.orders.program);
        let mut command = processes::configured(platen, self.role.command(), &self.orders.config);
        command
            .envs(self.orders.environment.iter().cloned())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().context("platen does not start")?);
        Ok(())
    }

    /// Removes a variable from the environment of later starts.
    pub fn forget(&mut self, variable: &str) {
        self.orders.environment.retain(|(name, _)| name != variable);
    }

    /// Waits until an api says that it is ready, or a worker that it lives.
    ///
    /// # Errors
    ///
    /// It has ended, or is not ready after 30 seconds. The error quotes its log.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let url = match self.role {
            Role::Api => format!("http://{}/readyz", self.address()),
            Role::Worker => format!("http://{}/livez", self.metrics_address()),
        };
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(3))
            .build()?;
        let began = Instant::now();
        while began.elapsed() < READY_TIMEOUT {
            if let Some(status) = self.ended() {
                bail!(
                    "{} ended before it was ready ({status}); {}",
                    self.name,
                    self.last_words()
                );
            }
            let answer = client.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        bail!(
            "{} was not ready after {READY_TIMEOUT:?}; {}",
            self.name,
            self.last_words()
        )
    }

    /// Its exit status, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// Its process id, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// Kills it with SIGKILL, and returns when it has ended.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Stops it with SIGTERM, and returns its exit status.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait().await
    }

    /// Stops it with SIGTERM, as an operator would, and returns how long that took.
    ///
    /// # Errors
    ///
    /// It ended with another exit code than 0, or had not ended after `within`; then it is killed. The error quotes its log.
    pub async fn stop_cleanly(&mut self, within: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let ended = tokio::time::timeout(within, self.stop()).await;
        let problem = match ended {
            Ok(Ok(status)) if status.success() => return Ok(began.elapsed()),
            Ok(Ok(status)) => format!("was told to stop and ended with {status}"),
            Ok(Err(error)) => format!("could not be stopped: {error:#}"),
            Err(_) => format!("did not stop within {within:?}"),
        };
        self.kill().await?;
        bail!("{} {problem}; {}", self.name, self.last_words())
    }

    /// Waits until it has ended, and returns its exit status.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        Ok(child.wait().await?)
    }

    /// Sends it a signal. SIGSTOP freezes it, SIGCONT continues it.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.id().context("it does not run")?;
        Ok(signal::kill(Pid::from_raw(id.try_into()?), signal)?)
    }

    /// The last lines of its log, for an error message.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        format!(
            "the last lines of {}:\n  {}",
            log.display(),
            last_lines(&text)
        )
    }
}

impl Role {
    /// The command of `platen` that starts it.
    pub fn command(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

/// The last lines of a text, for an error message.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n  ")
}
