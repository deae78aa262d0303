//! What a process has used: CPU time and memory, from `/proc`.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// `/proc/…/stat` counts in this unit on every Linux that Rust runs on: 100 a second.
const TICK: Duration = Duration::from_millis(10);

/// A process of a contestant. Dropping it kills it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// User and kernel time of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) kernel: Duration,
}

impl Process {
    /// Starts a program. Its output goes to a file in `logs`.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        logs: &std::path::Path,
    ) -> Result<Self> {
        let path = logs.join(format!("{name}.log"));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self {
            name,
            child,
            log: path,
        })
    }

    /// Waits until `url` answers.
    ///
    /// # Errors
    ///
    /// The process has ended, or does not answer within 30 seconds.
    pub(crate) async fn ready(&mut self, client: &reqwest::Client, url: &str) -> Result<()> {
        for _ in 0..600 {
            self.must_run()?;
            let answer = client.get(url).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{} did not answer at {url}", self.name)
    }

    /// Checks that it has not ended.
    ///
    /// # Errors
    ///
    /// It has ended. The error quotes its log.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{} ended: {status}\n{log}", self.name);
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> Result<u32> {
        self.child
            .id()
            .with_context(|| format!("{} has ended", self.name))
    }

    /// The CPU time that it has used so far.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        cpu_of(self.id()?)
    }

    /// Its share of the memory, in KiB: shared pages count in part (`Pss`).
    pub(crate) fn memory_kib(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id()?))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .context("no Pss")?;
        Ok(kib.trim().parse()?)
    }

    /// Kills it, and returns when it has ended.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

impl Cpu {
    pub(crate) fn total(self) -> Duration {
        self.user + self.kernel
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            kernel: self.kernel.saturating_sub(before.kernel),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            kernel: self.kernel + other.kernel,
        }
    }
}

/// The CPU time of a process with that of its children that have ended, and of those that run if they are its own. Used for
/// Postgres, whose sessions are processes.
pub(crate) fn cpu_of_tree(id: u32) -> Result<Cpu> {
    let mut sum = stat(id)?;
    for entry in fs::read_dir("/proc")? {
        let Ok(child) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // A process may end between the list and the read.
        let Ok(fields) = fields(child) else { continue };
        if fields.parent == id {
            sum.own = sum.own.plus(fields.own);
        }
    }
    Ok(sum.own.plus(sum.ended_children))
}

fn cpu_of(id: u32) -> Result<Cpu> {
    Ok(stat(id)?.own)
}

struct Stat {
    parent: u32,
    own: Cpu,
    ended_children: Cpu,
}

fn stat(id: u32) -> Result<Stat> {
    fields(id).with_context(|| format!("process {id} cannot be measured"))
}

/// Reads `/proc/…/stat`; proc(5) numbers the fields.
fn fields(id: u32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The second field is the name in parentheses, and may contain spaces.
    let (_, rest) = text.rsplit_once(") ").context("no name")?;
    let rest: Vec<&str> = rest.split(' ').collect();
    let number =
        |field: usize| -> Result<u32> { Ok(rest.get(field - 3).context("too short")?.parse()?) };
    let ticks = |field| Ok::<_, anyhow::Error>(TICK * number(field)?);
    Ok(Stat {
        parent: number(4)?,
        own: Cpu {
            user: ticks(14)?,
            kernel: ticks(15)?,
        },
        ended_children: Cpu {
            user: ticks(16)?,
            kernel: ticks(17)?,
        },
    })
}
