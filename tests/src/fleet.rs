//! Several `platen api` and `platen worker`, as real processes that are killed, stopped, frozen and started again.
//!
//! Each keeps its ports for ever, so that whoever knew it finds it again, and writes its log to a file of its own. What
//! they work on is the caller's: [`Config`] names servers, bucket and catalogue, and the catalogue names the providers.

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

/// How long a start may take until it is answered.
const READY: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// What all of them are started with.
#[derive(Clone)]
pub struct Orders {
    /// The program: this version's, or another's.
    pub program: PathBuf,
    pub config: Config,
    /// Further variables, such as keys of providers.
    pub environment: Vec<(String, String)>,
    /// Where the logs go.
    pub folder: PathBuf,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Api,
    Worker,
}

/// One process, or the place where it will be again.
pub struct Process {
    pub role: Role,
    /// `api-1`, `worker-3`: also the name of its log.
    pub name: String,
    orders: Orders,
    child: Option<Child>,
}

impl Orders {
    /// Starts so many of a role, and waits until each is ready.
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

    /// The same of one.
    pub async fn start_one(&self, role: Role) -> anyhow::Result<Process> {
        let mut started = self.start(role, 1).await?;
        started.pop().context("one was started")
    }
}

impl Process {
    /// One that does not run yet.
    pub fn new(role: Role, number: usize, orders: &Orders) -> anyhow::Result<Self> {
        let mut orders = orders.clone();
        let free = || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        orders.config.listen = free()?;
        orders.config.metrics_listen = free()?;
        Ok(Self {
            role,
            name: format!("{}-{number}", role.word()),
            orders,
            child: None,
        })
    }

    /// Where an api answers.
    pub fn address(&self) -> SocketAddr {
        self.orders.config.listen
    }

    /// Where it tells its metrics.
    pub fn metrics_address(&self) -> SocketAddr {
        self.orders.config.metrics_listen
    }

    pub fn log(&self) -> PathBuf {
        self.orders.folder.join(format!("{}.log", self.name))
    }

    /// Starts it, be it again. It must not run.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let platen = Command::new(&self.orders.program);
        let mut command = processes::told(platen, self.role.word(), &self.orders.config);
        command
            .envs(self.orders.environment.iter().cloned())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().context("platen does not start")?);
        Ok(())
    }

    /// Starts without this variable from now on.
    pub fn forget(&mut self, variable: &str) {
        self.orders.environment.retain(|(name, _)| name != variable);
    }

    /// Waits until an api says that it is ready, and a worker that it lives.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let url = match self.role {
            Role::Api => format!("http://{}/readyz", self.address()),
            Role::Worker => format!("http://{}/livez", self.metrics_address()),
        };
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(3))
            .build()?;
        let asked = Instant::now();
        while asked.elapsed() < READY {
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
            tokio::time::sleep(LOOK).await;
        }
        bail!(
            "{} was not ready after {READY:?}; {}",
            self.name,
            self.last_words()
        )
    }

    /// How it ended, where it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    pub fn id(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// `kill -9`; returns when it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// `SIGTERM`, and how it ended.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait().await
    }

    /// How it ended, once it has.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        Ok(child.wait().await?)
    }

    /// `SIGSTOP` freezes it, `SIGCONT` lets it go on as if nothing had been.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.id().context("it does not run")?;
        Ok(signal::kill(Pid::from_raw(id.try_into()?), signal)?)
    }

    /// The last lines of its log, for an error that a person will read.
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
    pub fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

/// The end of what somebody wrote, for an error that a person will read.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n  ")
}
