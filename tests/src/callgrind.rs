//! A process of Platen under Callgrind, which counts its instructions. Such a count hardly differs from run to run, so a
//! small change of the cost shows, on any machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::fleet::{Orders, Process, Role};

/// A process that is counted.
pub struct Counted {
    /// The process.
    pub process: Process,
    /// Where Callgrind writes its counts. It adds a number to the name each time.
    output: PathBuf,
    counts: usize,
}

impl Counted {
    /// Starts a process. `folder` gets the counts, in files named by `name`.
    ///
    /// # Errors
    ///
    /// Valgrind is not installed, or the process does not start.
    pub async fn start(orders: &Orders, role: Role, folder: &Path, name: &str) -> Result<Self> {
        let output = folder.join(format!("callgrind-{name}"));
        let program = folder.join(format!("counted-{name}"));
        let script = format!(
            "#!/bin/sh\nexec valgrind --quiet --trace-children=yes --tool=callgrind --callgrind-out-file='{}' '{}' \"$@\"\n",
            output.display(),
            orders.program.display()
        );
        fs::write(&program, script)?;
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        let mut orders = orders.clone();
        orders.program = program;
        // One thread: the instructions of threads that wait for each other differ each time.
        let one_thread = ("TOKIO_WORKER_THREADS".to_owned(), "1".to_owned());
        orders.environment.push(one_thread);
        Ok(Self {
            process: orders.start_one(role).await?,
            output,
            counts: 0,
        })
    }

    /// The instructions that the process spends on `work`: without those that it spends on its schedule in the same time.
    ///
    /// # Errors
    ///
    /// The work fails, or Callgrind does not count.
    pub async fn during(&mut self, work: impl Future<Output = Result<()>>) -> Result<f64> {
        self.instructions().await?;
        let began = Instant::now();
        work.await?;
        let all = self.instructions().await?;
        let time = began.elapsed();
        let began = Instant::now();
        tokio::time::sleep(time).await;
        let idle = self.instructions().await?;
        Ok(all - idle / began.elapsed().as_secs_f64() * time.as_secs_f64())
    }

    /// How many instructions the process has used since the last call of this.
    async fn instructions(&mut self) -> Result<f64> {
        let id = self.process.id().context("it does not run")?.to_string();
        let mut dump = Command::new("callgrind_control");
        let result = dump.args(["--dump", &id]).output().await?;
        self.counts += 1;
        let file = format!("{}.{}", self.output.display(), self.counts);
        let text = fs::read_to_string(&file).with_context(|| format!("{file}; {result:?}"))?;
        let mut lines = text.lines();
        let total = lines.find_map(|line| {
            line.strip_prefix("totals: ")
                .or_else(|| line.strip_prefix("summary: "))
        });
        let total = total.context("Callgrind writes no total")?;
        Ok(total.trim().parse()?)
    }
}
