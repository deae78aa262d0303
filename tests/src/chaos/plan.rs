//! What fails, and when: made from a seed, so that the same words make the same plan again.
//!
//! Most faults are spread evenly. Those that end all contact with Postgres for a while come in a few *outages*: after
//! one, reapers give everybody a lease of time, so how soon killed workers' jobs are taken up shows only between them.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::stage::{APIS, WORKERS};
use crate::fleet::Role;
use crate::proxy::Weather;

/// Faults for each outage of Postgres, and how long one is.
const FAULTS_FOR_AN_OUTAGE: u32 = 500;
const OUTAGE_LEASES: u32 = 2;
const SHORTEST_OUTAGE: Duration = Duration::from_secs(25);
/// Of the faults within one, those that concern Postgres as a whole.
const POSTGRES: f64 = 0.4;
/// Postgres may be out of reach for so long at any time: reapers think nothing of it.
const BLINK: Duration = Duration::from_millis(1_500);

/// What lies between our processes and what they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Postgres,
    Redis,
    Provider,
    Bucket,
    Clients,
}

/// One thing that fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// `kill -9`; it is started again at once.
    Kill(Role, usize),
    /// `SIGSTOP`, for longer than a lease, then `SIGCONT`.
    Freeze(usize, Duration),
    /// `SIGTERM`; it must end with 0, and is started again.
    Restart(Role, usize),
    /// That with all of them, one after the other.
    Roll,
    /// `FLUSHALL`.
    EmptyRedis,
    /// `kill -9`; it comes back empty.
    KillRedis(Duration),
    /// `pg_terminate_backend` of so many.
    Terminate(u8),
    /// `kill -9` of the postmaster.
    KillPostgres(Duration),
    /// So many statements that are carried out, whose replies do not arrive.
    Swallow(&'static str, u8),
    /// Every connection is reset.
    Cut(Line),
    /// Every connection is half open, for ever.
    Forget(Line),
    /// What all connections meet for so long.
    Weather(Line, Weather, Duration),
}

/// All that fails, in its order.
pub struct Plan {
    pub faults: Vec<(Duration, Fault)>,
    /// When contact with Postgres fails again and again.
    pub outages: Vec<(Duration, Duration)>,
    pub length: Duration,
}

impl Plan {
    pub fn new(seed: u64, count: u32, pace: Duration, lease: Duration) -> Self {
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let length = pace * count;
        let outages = outages(length, count, lease);
        let faults = (0..count).map(|number| {
            // Somewhere within its own step, so that none is far from the next.
            let at = pace * number + pace.mul_f64(dice.share());
            let out = outages.iter().any(|(from, to)| (*from..*to).contains(&at));
            let fault = if out && dice.share() < POSTGRES {
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

    /// How often each kind is planned.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for (_, fault) in &self.faults {
            *kinds.entry(fault.kind()).or_default() += 1;
        }
        kinds
    }
}

fn outages(length: Duration, count: u32, lease: Duration) -> Vec<(Duration, Duration)> {
    let number = count.div_ceil(FAULTS_FOR_AN_OUTAGE);
    let each = (lease * OUTAGE_LEASES).max(SHORTEST_OUTAGE);
    (0..number)
        .map(|outage| {
            let middle = length.mul_f64((f64::from(outage) + 0.5) / f64::from(number));
            let from = middle.saturating_sub(each / 2);
            (from, from + each)
        })
        .collect()
}

impl Fault {
    /// In a word or two, for the summary.
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

    /// Whether contact with Postgres may be lost for longer than reapers take for nothing.
    pub fn is_outage(self) -> bool {
        match self {
            Self::KillPostgres(_) | Self::Forget(Line::Postgres) => true,
            Self::Weather(Line::Postgres, Weather::Silence | Weather::Refuse, time) => time > BLINK,
            _ => false,
        }
    }
}

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

    /// What may befall at any time, by its share in a thousand.
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
            // Long enough for jobs to be started from Postgres.
            530..540 => Fault::KillRedis(self.seconds(4.0, 7.0)),
            540..670 => Fault::Terminate(self.0.random_range(1..=6)),
            670..770 => Fault::Swallow("COMMIT", self.0.random_range(1..=3)),
            770..810 => Fault::Swallow("UPDATE", 1),
            810..850 => Fault::Cut(Line::Postgres),
            850..880 => Fault::Cut(Line::Redis),
            880..890 => Fault::Cut(Line::Provider),
            890..900 => Fault::Cut(Line::Bucket),
            900..920 => Fault::Cut(Line::Clients),
            920..926 => Fault::Forget(Line::Redis),
            926..930 => Fault::Forget(Line::Bucket),
            930..935 => Fault::Forget(Line::Provider),
            935..940 => Fault::Forget(Line::Clients),
            other => self.weather(other),
        }
    }

    fn weather(&mut self, which: u32) -> Fault {
        let line = match which % 5 {
            0 => Line::Postgres,
            1 => Line::Redis,
            2 => Line::Provider,
            3 => Line::Bucket,
            _ => Line::Clients,
        };
        let millis = self.0.random_range(5..150);
        let weather = match which {
            ..970 => Weather::Delay(Duration::from_millis(millis)),
            970..980 => Weather::Drip,
            980..990 => Weather::Silence,
            _ => Weather::Refuse,
        };
        let longest = if line == Line::Postgres {
            BLINK.as_secs_f64()
        } else {
            4.0
        };
        Fault::Weather(line, weather, self.seconds(0.5, longest))
    }

    fn outage(&mut self) -> Fault {
        match self.0.random_range(0..10) {
            0..6 => Fault::KillPostgres(self.seconds(0.0, 3.0)),
            6..8 => Fault::Forget(Line::Postgres),
            8 => Fault::Weather(Line::Postgres, Weather::Silence, self.seconds(2.0, 6.0)),
            _ => Fault::Weather(Line::Postgres, Weather::Refuse, self.seconds(2.0, 6.0)),
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
    fn a_seed_makes_the_same_plan_again_and_another_seed_another() {
        assert_eq!(plan(7).faults, plan(7).faults);
        assert_ne!(plan(7).faults, plan(8).faults);
    }

    #[test]
    fn every_kind_is_planned_and_the_postmaster_dies_in_outages_only() {
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
