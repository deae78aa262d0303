//! What fails and when. The plan is made from a seed, so that the same arguments make the same plan again.
//!
//! Most faults are spread evenly. Faults that cut all connections to Postgres for longer come only in a few *outages*:
//! after an outage, reapers wait for the time of a lease before they take jobs from anyone. So only between outages can
//! be measured how soon the jobs of killed workers are claimed again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::stage::{APIS, Link, WORKERS};
use crate::fleet::Role;
use crate::proxy::Weather;

/// There is one outage of Postgres for this many faults.
const FAULTS_PER_OUTAGE: u32 = 500;
/// The length of an outage in leases, and its minimum.
const OUTAGE_LEASES: u32 = 2;
const MIN_OUTAGE: Duration = Duration::from_secs(25);
/// The share of faults in an outage that concern Postgres as a whole.
const POSTGRES_SHARE: f64 = 0.4;
/// Postgres may be unreachable for this long at any time: reapers ignore such a short loss.
const SHORT_LOSS: Duration = Duration::from_millis(1_500);

/// One thing that fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A process gets SIGKILL and is started again at once.
    Kill(Role, usize),
    /// A worker gets SIGSTOP for longer than a lease, and then SIGCONT.
    Freeze(usize, Duration),
    /// A process gets SIGTERM, must end with exit code 0, and is started again.
    Restart(Role, usize),
    /// The same for every process, one after the other.
    Roll,
    /// Redis executes FLUSHALL.
    EmptyRedis,
    /// Redis gets SIGKILL and is started empty after this time.
    KillRedis(Duration),
    /// Postgres terminates this many connections.
    Terminate(u8),
    /// The main process of Postgres gets SIGKILL and is started after this time.
    KillPostgres(Duration),
    /// This many statements of a kind are executed, but their replies are lost.
    Swallow(&'static str, u8),
    /// Every connection is reset.
    Cut(Link),
    /// Every connection is half open, for ever.
    Forget(Link),
    /// The network behaves like this for all connections and this long.
    Weather(Link, Weather, Duration),
}

/// All faults, in their order.
pub struct Plan {
    /// The faults, and when each begins.
    pub faults: Vec<(Duration, Fault)>,
    /// The beginning and end of each outage of Postgres.
    pub outages: Vec<(Duration, Duration)>,
    /// The time in which faults begin.
    pub length: Duration,
}

impl Plan {
    /// Makes a plan of `count` faults, one in each `interval`.
    pub fn new(seed: u64, count: u32, interval: Duration, lease: Duration) -> Self {
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let length = interval * count;
        let outages = outages(length, count, lease);
        let faults = (0..count).map(|number| {
            // At a random time within its own interval, so that faults are neither regular nor far apart.
            let at = interval * number + interval.mul_f64(dice.share());
            let is_outage = outages.iter().any(|(from, to)| (*from..*to).contains(&at));
            let fault = if is_outage && dice.share() < POSTGRES_SHARE {
                dice.outage()
            } else {
                dice.fault(lease)
            };
            (at, fault)
        });
        Self {
            faults: faults.collect(),
            outages,
            length,
        }
    }

    /// How often each kind of fault is planned.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for (_, fault) in &self.faults {
            *kinds.entry(fault.kind()).or_default() += 1;
        }
        kinds
    }
}

fn outages(length: Duration, count: u32, lease: Duration) -> Vec<(Duration, Duration)> {
    let number = count.div_ceil(FAULTS_PER_OUTAGE);
    let each = (lease * OUTAGE_LEASES).max(MIN_OUTAGE);
    (0..number)
        .map(|outage| {
            let middle = length.mul_f64((f64::from(outage) + 0.5) / f64::from(number));
            let from = middle.saturating_sub(each / 2);
            (from, from + each)
        })
        .collect()
}

impl Fault {
    /// A short name, for the summary.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Kill(Role::Api, _) => "kill -9 of an api",
            Self::Kill(Role::Worker, _) => "kill -9 of a worker",
            Self::Freeze(..) => "worker frozen longer than its lease",
            Self::Restart(Role::Api, _) => "api stopped and started",
            Self::Restart(Role::Worker, _) => "worker stopped and started",
            Self::Roll => "all restarted in turn",
            Self::EmptyRedis => "Redis emptied",
            Self::KillRedis(_) => "kill -9 of Redis",
            Self::Terminate(_) => "Postgres backends terminated",
            Self::KillPostgres(_) => "kill -9 of the postmaster",
            Self::Swallow("COMMIT", _) => "replies to COMMIT swallowed",
            Self::Swallow(..) => "replies to UPDATE swallowed",
            Self::Cut(_) => "connections cut",
            Self::Forget(_) => "connections half open",
            Self::Weather(_, Weather::Refuse, _) => "connections refused",
            Self::Weather(_, Weather::Delay(_), _) => "connections delayed",
            Self::Weather(_, Weather::Silence, _) => "connections silent",
            Self::Weather(_, Weather::Drip | Weather::Fair, _) => "connections byte by byte",
        }
    }

    /// Whether Postgres may be unreachable for longer than reapers ignore.
    pub fn is_outage(self) -> bool {
        match self {
            Self::KillPostgres(_) | Self::Forget(Link::Postgres) => true,
            Self::Weather(Link::Postgres, Weather::Silence | Weather::Refuse, time) => {
                time > SHORT_LOSS
            }
            _ => false,
        }
    }
}

/// Random choices.
struct Dice(StdRng);

impl Dice {
    fn share(&mut self) -> f64 {
        self.0.random_range(0.0..1.0)
    }

    fn seconds(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(self.0.random_range(least..most))
    }

    fn api(&mut self) -> usize {
        self.0.random_range(0..APIS)
    }

    fn worker(&mut self) -> usize {
        self.0.random_range(0..WORKERS)
    }

    /// A fault that may happen at any time. The numbers are shares in a thousand.
    fn fault(&mut self, lease: Duration) -> Fault {
        let lease = lease.as_secs_f64();
        match self.0.random_range(0..1_000) {
            0..200 => Fault::Kill(Role::Worker, self.worker()),
            200..320 => Fault::Kill(Role::Api, self.api()),
            320..340 => Fault::Freeze(self.worker(), self.seconds(lease * 1.1, lease * 1.6)),
            340..365 => Fault::Restart(Role::Worker, self.worker()),
            365..390 => Fault::Restart(Role::Api, self.api()),
            390..393 => Fault::Roll,
            393..480 => Fault::EmptyRedis,
            480..530 => Fault::KillRedis(self.seconds(0.0, 3.0)),
            // Long enough that workers start to claim jobs directly from Postgres.
            530..540 => Fault::KillRedis(self.seconds(4.0, 7.0)),
            540..670 => Fault::Terminate(self.0.random_range(1..=6)),
            670..770 => Fault::Swallow("COMMIT", self.0.random_range(1..=3)),
            770..810 => Fault::Swallow("UPDATE", 1),
            810..850 => Fault::Cut(Link::Postgres),
            850..880 => Fault::Cut(Link::Redis),
            880..890 => Fault::Cut(Link::Provider),
            890..900 => Fault::Cut(Link::Bucket),
            900..920 => Fault::Cut(Link::Clients),
            920..926 => Fault::Forget(Link::Redis),
            926..930 => Fault::Forget(Link::Bucket),
            930..935 => Fault::Forget(Link::Provider),
            935..940 => Fault::Forget(Link::Clients),
            other => self.weather(other),
        }
    }

    fn weather(&mut self, which: u32) -> Fault {
        let link = match which % 5 {
            0 => Link::Postgres,
            1 => Link::Redis,
            2 => Link::Provider,
            3 => Link::Bucket,
            _ => Link::Clients,
        };
        let millis = self.0.random_range(5..150);
        let weather = match which {
            ..970 => Weather::Delay(Duration::from_millis(millis)),
            970..980 => Weather::Drip,
            980..990 => Weather::Silence,
            _ => Weather::Refuse,
        };
        let longest = if link == Link::Postgres {
            SHORT_LOSS.as_secs_f64()
        } else {
            4.0
        };
        Fault::Weather(link, weather, self.seconds(0.5, longest))
    }

    fn outage(&mut self) -> Fault {
        match self.0.random_range(0..10) {
            0..6 => Fault::KillPostgres(self.seconds(0.0, 3.0)),
            6..8 => Fault::Forget(Link::Postgres),
            8 => Fault::Weather(Link::Postgres, Weather::Silence, self.seconds(2.0, 6.0)),
            _ => Fault::Weather(Link::Postgres, Weather::Refuse, self.seconds(2.0, 6.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan::new(
            seed,
            2_000,
            Duration::from_millis(1_300),
            Duration::from_secs(30),
        )
    }

    #[test]
    fn the_same_seed_makes_the_same_plan() {
        assert_eq!(plan(7).faults, plan(7).faults);
        assert_ne!(plan(7).faults, plan(8).faults);
    }

    #[test]
    fn every_kind_is_planned_and_postgres_is_killed_only_in_outages() {
        let plan = plan(1);
        assert_eq!(plan.kinds().len(), 18, "{:?}", plan.kinds());
        assert_eq!(plan.outages.len(), 4);
        for (at, fault) in &plan.faults {
            let out = plan
                .outages
                .iter()
                .any(|(from, to)| (from..to).contains(&at));
            assert!(out || !matches!(fault, Fault::KillPostgres(_)));
        }
    }
}
