//! Figures that proofs print and judge.

use std::ops::Sub;
use std::time::Duration;

use anyhow::Context;

/// The value below which `percent` percent of the sorted values lie; the default if there are none.
pub fn percentile<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((sorted.len() * percent / 100).min(last))
        .copied()
        .unwrap_or_default()
}

/// The value in the middle, or between the two in the middle; not a number if there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

/// A duration in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What a process has cost since it started.
#[derive(Clone, Copy, Debug)]
pub struct ProcessCost {
    /// CPU time in the process's own code.
    pub user: Duration,
    /// CPU time in the kernel.
    pub kernel: Duration,
    /// Pages of memory that the kernel had to provide.
    pub page_faults: f64,
}

impl ProcessCost {
    /// Reads `/proc/…/stat` (`man proc_pid_stat`).
    ///
    /// # Errors
    ///
    /// There is no such process, or the file has another form.
    pub fn read(process: u32) -> anyhow::Result<Self> {
        /// The unit of the times: `sysconf(_SC_CLK_TCK)` is 100 on every Linux.
        const TICK: Duration = Duration::from_millis(10);
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name of the program comes before, in parentheses, and may have spaces.
        let (_, fields) = stat.rsplit_once(") ").context("no name")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |number: usize| -> anyhow::Result<u32> {
            Ok(fields.get(number - 3).context("too short")?.parse()?)
        };
        Ok(Self {
            user: TICK * field(14)?,
            kernel: TICK * field(15)?,
            page_faults: f64::from(field(10)?),
        })
    }
}

impl Sub for ProcessCost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            kernel: self.kernel.saturating_sub(earlier.kernel),
            page_faults: self.page_faults - earlier.page_faults,
        }
    }
}

/// The memory of a process in KiB, from the line `name` of its `/proc/…/status`: `VmRSS` is what it uses now, `VmHWM`
/// the most it ever used.
///
/// # Errors
///
/// There is no such process or line.
pub fn memory_kib(process: u32, name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("process {process} has no line {name}"))?;
    let kib = line.trim().strip_suffix(" kB").context("not in kB")?;
    Ok(kib.parse()?)
}
