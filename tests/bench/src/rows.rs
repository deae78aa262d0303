//! The rows of the table, and the goal of each.

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    CpuPng,
    CpuJpeg,
    RatePng,
    RateJpeg,
    Submits64,
    Submits1,
    P99Submit1,
    PostgresSubmit,
    PostgresJob,
    InFlight,
    RateDraining,
    MemoryInFlight,
    RateFlat,
    MemoryIdle,
    KernelShare,
}

/// What a figure must be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Ours divided by theirs: at most.
    RatioAtMost(f64),
    /// Ours divided by theirs: at least.
    RatioAtLeast(f64),
    /// Ours: at most.
    AtMost(f64),
    /// Ours: at least.
    AtLeast(f64),
}

impl Row {
    /// What is measured, with its unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::CpuPng => "CPU per job, 2048² to 1K PNG, api + worker (ms)",
            Self::CpuJpeg => "CPU per job, 2048² to 1K JPEG, api + worker (ms)",
            Self::RatePng => "jobs a second, PNG",
            Self::RateJpeg => "jobs a second, JPEG",
            Self::Submits64 => "submits a second, 32 connections, 64 tenants",
            Self::Submits1 => "submits a second, 32 connections, one tenant",
            Self::P99Submit1 => "submit, one tenant, 99th percentile (ms)",
            Self::PostgresSubmit => "CPU of Postgres per submit, 64 tenants (ms)",
            Self::PostgresJob => "CPU of Postgres per job, flat images (ms)",
            Self::InFlight => "calls at the same time, of 1,000 that take 20 s",
            Self::RateDraining => {
                "jobs a second from the first of 1,000 answers to the last end, of those of JPEG"
            }
            Self::MemoryInFlight => "memory of the worker with 1,000 calls, at most (MB)",
            Self::RateFlat => "jobs a second, flat images: the pipeline alone",
            Self::MemoryIdle => "idle memory, api + worker (MB)",
            Self::KernelShare => "share of the kernel in the worker's CPU, PNG",
        }
    }

    pub(crate) fn goal(self) -> Goal {
        match self {
            Self::CpuPng => Goal::RatioAtMost(0.65),
            Self::CpuJpeg => Goal::RatioAtMost(0.85),
            Self::RatePng => Goal::RatioAtLeast(1.4),
            Self::RateJpeg => Goal::RatioAtLeast(1.1),
            Self::Submits64 | Self::RateFlat => Goal::RatioAtLeast(1.2),
            Self::Submits1 => Goal::RatioAtLeast(1.5),
            Self::P99Submit1 => Goal::RatioAtMost(1.0),
            Self::PostgresSubmit => Goal::AtMost(0.9),
            Self::PostgresJob => Goal::AtMost(4.0),
            Self::InFlight => Goal::AtLeast(1_000.0),
            Self::RateDraining => Goal::AtLeast(0.9),
            Self::MemoryInFlight => Goal::AtMost(190.0),
            Self::MemoryIdle => Goal::RatioAtMost(0.2),
            Self::KernelShare => Goal::AtMost(0.2),
        }
    }
}

impl Goal {
    pub(crate) fn is_met(self, ours: f64, ratio: f64) -> bool {
        match self {
            Self::RatioAtMost(goal) => ratio <= goal,
            Self::RatioAtLeast(goal) => ratio >= goal,
            Self::AtMost(goal) => ours <= goal,
            Self::AtLeast(goal) => ours >= goal,
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::RatioAtMost(goal) => format!("≤ {goal} ×"),
            Self::RatioAtLeast(goal) => format!("≥ {goal} ×"),
            Self::AtMost(goal) => format!("≤ {goal}"),
            Self::AtLeast(goal) => format!("≥ {goal}"),
        }
    }
}
