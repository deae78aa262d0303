//! Limits on connections, time and requests, for one client and for all together.

use std::time::Duration;

use super::{ConfigError, text, within};

/// Limits on connections to the ports of a process. The metrics port has the same limits as the
/// api, except the number of connections. It has no limit for bodies, because it reads none.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Most connections to the api at once.
    pub connections: usize,
    /// Most connections to the api from one address; trusted proxies have no such limit.
    pub per_address: usize,
    /// Most connections to the metrics port at once.
    pub metrics: usize,
    /// Connections that may wait in the operating system until the process accepts them.
    pub backlog: u32,
    /// The limit of open files that is requested from the operating system; `None` for as many as
    /// the system allows.
    pub open_files: Option<u64>,
    /// How long the head of a request may take to arrive.
    pub head: Duration,
    /// How long a connection may be idle between two requests.
    pub idle: Duration,
    /// How long a body may take to arrive, in addition to one second for each 64 KiB.
    pub body: Duration,
    /// How long a client may go without reading anything of its answer.
    pub write: Duration,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            connections: 4_096,
            per_address: 256,
            metrics: 64,
            backlog: 1_024,
            open_files: None,
            head: Duration::from_secs(10),
            // Longer than most proxies keep idle connections: if we closed first, a proxy could
            // send a request into a closed connection.
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            write: Duration::from_secs(30),
        }
    }
}

impl Ports {
    /// Reads the limits from the environment.
    pub(super) fn from_env() -> Result<Self, ConfigError> {
        let defaults = Self::default();
        let count = |name, min, max, default: usize| -> Result<usize, ConfigError> {
            let value = within(name, min, max)?;
            Ok(value.map_or(default, |value| usize::try_from(value).unwrap_or(default)))
        };
        let seconds = |name, max, default| -> Result<Duration, ConfigError> {
            Ok(within(name, 1, max)?.map_or(default, Duration::from_secs))
        };
        let connections = count("PLATEN_CONNECTIONS", 8, 1_000_000, defaults.connections)?;
        let per_address = defaults.per_address;
        Ok(Self {
            connections,
            per_address: count("PLATEN_CONNECTIONS_PER_ADDRESS", 1, 1_000_000, per_address)?,
            metrics: count("PLATEN_METRICS_CONNECTIONS", 4, 10_000, defaults.metrics)?,
            backlog: within("PLATEN_BACKLOG", 1, 65_535)?.map_or(defaults.backlog, |value| {
                u32::try_from(value).unwrap_or(defaults.backlog)
            }),
            open_files: within("PLATEN_OPEN_FILES", 64, 1 << 30)?,
            head: seconds("PLATEN_HEAD_SECONDS", 600, defaults.head)?,
            idle: seconds("PLATEN_IDLE_SECONDS", 3_600, defaults.idle)?,
            body: seconds("PLATEN_BODY_SECONDS", 60, defaults.body)?,
            write: seconds("PLATEN_WRITE_SECONDS", 600, defaults.write)?,
        })
    }
}

/// A limit on the rate of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per minute on average.
    pub per_minute: u32,
    /// Requests that may arrive at once, after a time without requests.
    pub burst: u32,
}

impl Rate {
    /// Parses a text such as `6000,1000`; `None` if it is not valid.
    fn parse(text: &str) -> Option<Self> {
        let (per_minute, burst) = text.split_once(',')?;
        let rate = Self {
            per_minute: per_minute.trim().parse().ok()?,
            burst: burst.trim().parse().ok()?,
        };
        let allowed = 1..=10_000_000;
        (allowed.contains(&rate.per_minute) && allowed.contains(&rate.burst)).then_some(rate)
    }
}

/// Limits on the rate of requests; `None` for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Requests of one address.
    pub address: Option<Rate>,
    /// Requests of one address with a wrong key.
    pub failures: Option<Rate>,
    /// Requests of one tenant.
    pub tenant: Option<Rate>,
    /// Requests with one key.
    pub key: Option<Rate>,
}

impl Rates {
    /// No limits: for tests and load tests.
    pub const OFF: Self = Self {
        address: None,
        failures: None,
        tenant: None,
        key: None,
    };

    /// Reads the limits from the environment.
    pub(super) fn from_env() -> Result<Self, ConfigError> {
        let defaults = Self::default();
        Ok(Self {
            address: rate("PLATEN_RATE_ADDRESS", defaults.address)?,
            failures: rate("PLATEN_RATE_FAILURES", defaults.failures)?,
            tenant: rate("PLATEN_RATE_TENANT", defaults.tenant)?,
            key: rate("PLATEN_RATE_KEY", defaults.key)?,
        })
    }
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |per_minute, burst| Some(Rate { per_minute, burst });
        Self {
            address: rate(18_000, 3_000),
            failures: rate(30, 30),
            tenant: rate(12_000, 2_000),
            key: rate(12_000, 2_000),
        }
    }
}

/// Reads one rate; `0` means no limit.
fn rate(name: &'static str, default: Option<Rate>) -> Result<Option<Rate>, ConfigError> {
    let Some(value) = text(name)? else {
        return Ok(default);
    };
    if value.trim() == "0" {
        return Ok(None);
    }
    Rate::parse(&value).map(Some).ok_or_else(|| ConfigError::Unusable {
        name: name.to_owned(),
        problem: format!(
            "{value:?} is not a rate; write requests per minute and requests at once, such as 6000,1000, or 0 for no limit"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_two_numbers() {
        let rate = Rate {
            per_minute: 6_000,
            burst: 1_000,
        };
        assert_eq!(Rate::parse("6000,1000"), Some(rate));
        assert_eq!(Rate::parse(" 6000, 1000 "), Some(rate));
        for bad in [
            "",
            "0",
            "6000",
            "6000,0",
            "0,5",
            "-1,5",
            "1.5,5",
            "6000/1000",
        ] {
            assert_eq!(Rate::parse(bad), None, "{bad}");
        }
    }
}
