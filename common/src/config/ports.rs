//! What one client, and all of them together, may take of our ports: connections, time and requests.

use std::time::Duration;

use super::{ConfigError, text, within};

/// The bounds of connections. Those of the metrics port are the same, but for their number.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Connections to the api at once.
    pub connections: usize,
    /// Of these, from one address; trusted proxies are not counted.
    pub per_address: usize,
    /// Connections to the metrics port at once.
    pub metrics: usize,
    /// Connections that wait in the system until we take them.
    pub backlog: u32,
    /// Open files to ask the system for; `None`: as many as it allows.
    pub open_files: Option<u64>,
    /// How long the head of a request may take to come.
    pub head: Duration,
    /// How long a connection may be idle between two requests.
    pub idle: Duration,
    /// How long a body may take to come, beside the time its size needs.
    pub body: Duration,
    /// How long a client may take nothing of its answer.
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
            // Longer than most proxies keep theirs: who closes first must be the proxy, or a request may meet a closed connection.
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            write: Duration::from_secs(30),
        }
    }
}

impl Ports {
    pub(super) fn from_env() -> Result<Self, ConfigError> {
        let by_default = Self::default();
        let count = |name, least, most, otherwise: usize| -> Result<usize, ConfigError> {
            let said = within(name, least, most)?;
            Ok(said.map_or(otherwise, |said| usize::try_from(said).unwrap_or(otherwise)))
        };
        let seconds = |name, most, otherwise| -> Result<Duration, ConfigError> {
            Ok(within(name, 1, most)?.map_or(otherwise, Duration::from_secs))
        };
        let connections = count("PLATEN_CONNECTIONS", 8, 1_000_000, by_default.connections)?;
        let per_address = by_default.per_address;
        Ok(Self {
            connections,
            per_address: count("PLATEN_CONNECTIONS_PER_ADDRESS", 1, 1_000_000, per_address)?,
            metrics: count("PLATEN_METRICS_CONNECTIONS", 4, 10_000, by_default.metrics)?,
            backlog: within("PLATEN_BACKLOG", 1, 65_535)?.map_or(by_default.backlog, |said| {
                u32::try_from(said).unwrap_or(by_default.backlog)
            }),
            open_files: within("PLATEN_OPEN_FILES", 64, 1 << 30)?,
            head: seconds("PLATEN_HEAD_SECONDS", 600, by_default.head)?,
            idle: seconds("PLATEN_IDLE_SECONDS", 3_600, by_default.idle)?,
            body: seconds("PLATEN_BODY_SECONDS", 60, by_default.body)?,
            write: seconds("PLATEN_WRITE_SECONDS", 600, by_default.write)?,
        })
    }
}

/// How many requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests a minute, over a longer time.
    pub per_minute: u32,
    /// Requests at once, after a rest.
    pub burst: u32,
}

impl Rate {
    /// Of `6000,1000`. `None`: it is not well formed.
    fn parse(text: &str) -> Option<Self> {
        let (per_minute, burst) = text.split_once(',')?;
        let rate = Self {
            per_minute: per_minute.trim().parse().ok()?,
            burst: burst.trim().parse().ok()?,
        };
        let within = 1..=10_000_000;
        (within.contains(&rate.per_minute) && within.contains(&rate.burst)).then_some(rate)
    }
}

/// How many requests are answered; `None`: as many as come.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Of one address.
    pub address: Option<Rate>,
    /// With a wrong key, of one address.
    pub failures: Option<Rate>,
    /// Of one tenant.
    pub tenant: Option<Rate>,
    /// With one key.
    pub key: Option<Rate>,
}

impl Rates {
    /// No limits, for tests and long proofs that ask as fast as they can.
    pub const OFF: Self = Self {
        address: None,
        failures: None,
        tenant: None,
        key: None,
    };

    pub(super) fn from_env() -> Result<Self, ConfigError> {
        let by_default = Self::default();
        Ok(Self {
            address: rate("PLATEN_RATE_ADDRESS", by_default.address)?,
            failures: rate("PLATEN_RATE_FAILURES", by_default.failures)?,
            tenant: rate("PLATEN_RATE_TENANT", by_default.tenant)?,
            key: rate("PLATEN_RATE_KEY", by_default.key)?,
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

fn rate(name: &'static str, otherwise: Option<Rate>) -> Result<Option<Rate>, ConfigError> {
    let Some(said) = text(name)? else {
        return Ok(otherwise);
    };
    if said.trim() == "0" {
        return Ok(None);
    }
    Rate::parse(&said).map(Some).ok_or_else(|| ConfigError::Unusable {
        name: name.to_owned(),
        problem: format!(
            "{said:?} is no rate; expected requests a minute and how many of them at once, such as 6000,1000, or 0 for no limit"
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
