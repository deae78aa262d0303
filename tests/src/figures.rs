//! Figures that proofs print and judge.

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

/// A duration in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
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
