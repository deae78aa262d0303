//! Ways to make the fake fail: switches in the process and over HTTP, and markers inside a prompt.

use super::{
    admission::{Admit, Bucket},
    fault::{Fault, UnknownFault},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A prompt with these words is refused. They stand for what the vendors' filters look for, so that a demonstration can
/// show a refusal without writing anything unpleasant.
pub const REFUSED_WORDS: &[(&str, Refusal)] = &[
    ("forbidden", Refusal::Prompt),
    ("unsafe picture", Refusal::Picture),
];

/// What a vendor's filters refuse; each vendor has its own way to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The prompt, before anything is made.
    Prompt,
    /// The picture, when it is made.
    Picture,
}

/// What calls meet from now on. The JSON of `PUT /__fake/faults`, which replaces all of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    /// How many calls are let in. The rest are answered 429 before anything else can happen to them.
    pub admit: Option<Admit>,
    /// How long every call takes at least.
    pub latency_ms: Latency,
    /// The share of the calls, 0 to 1, that takes `slow_ms` instead.
    pub slow_share: f64,
    /// How many milliseconds a slow call takes.
    pub slow_ms: u64,
    /// Faults for the next calls, one each; comes before `rate`.
    pub next: VecDeque<Fault>,
    /// The share of the calls, 0 to 1, that meet one of `among`.
    pub rate: f64,
    /// What the unlucky calls meet, in equal parts.
    pub among: Vec<Fault>,
    /// Pictures are flat and drawn once for each size and type: for measuring others, not for looking at.
    pub plain: bool,
    /// Flat ones have the grain of a photograph, and weigh as much: a PNG of 2K some six megabytes.
    pub grain: bool,
}

/// Milliseconds, spread evenly between both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// The shortest.
    pub min: u64,
    /// The longest.
    pub max: u64,
}

/// The handle on a running fake's switches. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    switches: Switches,
    /// How often chance was asked: the same run of calls meets the same faults.
    throws: u64,
    /// How many calls each marked prompt has made.
    marked: HashMap<[u8; 32], u32>,
    /// What is left of the admission limit; full whenever the switches are set.
    bucket: Option<Bucket>,
}

/// What befalls a call.
pub(super) struct Fate {
    pub(super) fault: Option<Fault>,
    /// What the polls of its work meet, each so many times or always.
    pub(super) polls: Vec<Marker>,
    /// How long it takes.
    pub(super) delay: Duration,
    /// What its picture looks like.
    pub(super) look: Look,
}

/// What pictures look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Look {
    /// A still life.
    Drawn,
    /// One colour.
    Flat,
    /// The same, as a camera would see it.
    Grainy,
}

/// A fault, and how many times it is met if not always.
#[derive(Clone, Debug)]
pub(super) struct Marker {
    pub(super) fault: Fault,
    pub(super) times: Option<u32>,
}

impl Faults {
    /// Replaces every switch.
    pub fn set(&self, switches: Switches) {
        let mut shared = self.shared();
        shared.switches = switches;
        shared.bucket = None;
    }

    /// The switches as they stand; `next` holds what has not been met yet.
    pub fn get(&self) -> Switches {
        self.shared().switches.clone()
    }

    /// Back to a healthy service.
    pub fn clear(&self) {
        self.set(Switches::default());
    }

    /// Puts one more fault at the end of the queue.
    pub fn push(&self, fault: Fault) {
        self.shared().switches.next.push_back(fault);
    }

    /// Lets this share of the calls meet one of `among`.
    pub fn rate(&self, rate: f64, among: impl IntoIterator<Item = Fault>) {
        let switches = &mut self.shared().switches;
        switches.rate = rate;
        switches.among = among.into_iter().collect();
    }

    /// Makes every call take so many milliseconds.
    pub fn latency(&self, milliseconds: RangeInclusive<u64>) {
        let (min, max) = milliseconds.into_inner();
        self.shared().switches.latency_ms = Latency { min, max };
    }

    /// Lets in so many calls each second, and so many at once after a rest.
    pub fn admit(&self, per_second: f64, burst: f64) {
        let mut shared = self.shared();
        shared.switches.admit = Some(Admit { per_second, burst });
        shared.bucket = None;
    }

    /// Makes pictures flat and nearly free, or beautiful again.
    pub fn plain(&self, plain: bool) {
        self.shared().switches.plain = plain;
    }

    /// Lets a call in, or says when the next might be.
    pub(super) fn enter(&self) -> Result<(), Duration> {
        let mut shared = self.shared();
        let Some(admit) = shared.switches.admit else {
            return Ok(());
        };
        let now = Instant::now();
        (shared.bucket)
            .get_or_insert_with(|| Bucket::full(admit, now))
            .take(admit, now)
    }

    /// What befalls a call: by its markers, else by the queue, else by chance, else by its words, for which the vendor
    /// has a fault of its own.
    pub(super) fn fate(
        &self,
        prompt: &str,
        markers: Vec<Marker>,
        refusal: impl Fn(Refusal) -> Fault,
    ) -> Fate {
        let mut shared = self.shared();
        let (mut polls, calls) = markers.into_iter().partition(Marker::of_polls);
        let mut fault = (shared.marked(prompt, calls))
            .or_else(|| shared.switches.next.pop_front())
            .or_else(|| shared.by_chance())
            .or_else(|| refused(prompt).map(refusal));
        if let Some(met) = fault.take_if(|met| matches!(met, Fault::Poll(_) | Fault::Gone)) {
            polls.push(Marker {
                fault: met,
                times: None,
            });
        }
        Fate {
            delay: shared.delay(fault.as_ref()),
            fault,
            polls,
            look: match (shared.switches.plain, shared.switches.grain) {
                (false, _) => Look::Drawn,
                (true, false) => Look::Flat,
                (true, true) => Look::Grainy,
            },
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn marked(&mut self, prompt: &str, markers: Vec<Marker>) -> Option<Fault> {
        if markers.is_empty() {
            return None;
        }
        let made = self
            .marked
            .entry(Sha256::digest(prompt).into())
            .or_default();
        let mut left = *made;
        *made = made.saturating_add(1);
        for Marker { fault, times } in markers {
            match times {
                Some(times) if left >= times => left -= times,
                _ => return Some(fault),
            }
        }
        None
    }

    fn by_chance(&mut self) -> Option<Fault> {
        if self.switches.among.is_empty() || !self.chance(self.switches.rate) {
            return None;
        }
        let count = self.switches.among.len();
        let index = usize::try_from(self.throw()).unwrap_or_default() % count;
        self.switches.among.get(index).cloned()
    }

    fn delay(&mut self, fault: Option<&Fault>) -> Duration {
        let Latency { min, max } = self.switches.latency_ms;
        let milliseconds = if self.chance(self.switches.slow_share) {
            self.switches.slow_ms
        } else if max > min {
            min + self.throw() % (max - min).saturating_add(1)
        } else {
            min
        };
        Duration::from_millis(match fault {
            Some(Fault::Late(late)) => milliseconds.max(*late),
            _ => milliseconds,
        })
    }

    /// Throws for a share; not when it is nothing, so that a run without shares stays as it was.
    fn chance(&mut self, share: f64) -> bool {
        if share <= 0.0 {
            return false;
        }
        // Ten thousand faces are fine enough for a rate and exact in every float.
        let face = u32::try_from(self.throw() % 10_000).unwrap_or_default();
        f64::from(face) < share * 10_000.0
    }

    /// `SplitMix64`: even, and the same in every run.
    fn throw(&mut self) -> u64 {
        self.throws += 1;
        let mut mixed = self.throws.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Marker {
    fn of_polls(&self) -> bool {
        matches!(self.fault, Fault::Poll(_) | Fault::Gone)
    }
}

/// The markers of a prompt in order: `[[fault:throttle*2]]` is met by the first two calls that carry the prompt,
/// `[[fault:throttle]]` by all that are left. Those of polls count the polls of each call's own work.
pub(super) fn markers(prompt: &str) -> Result<Vec<Marker>, UnknownFault> {
    prompt
        .split("[[fault:")
        .skip(1)
        .map(|rest| {
            let marker = rest.split("]]").next().unwrap_or(rest).trim();
            let (word, times) = match marker.rsplit_once('*') {
                Some((word, times)) => {
                    let times = times.parse().map_err(|_| UnknownFault(marker.to_owned()))?;
                    (word, Some(times))
                }
                None => (marker, None),
            };
            let fault = word.parse()?;
            Ok(Marker { fault, times })
        })
        .collect()
}

/// What is refused for a prompt's own words.
fn refused(prompt: &str) -> Option<Refusal> {
    let mut plain = String::from(" ");
    for letter in prompt.chars() {
        plain.push(if letter.is_alphanumeric() {
            letter.to_ascii_lowercase()
        } else {
            ' '
        });
    }
    plain.push(' ');
    let (_, refusal) = REFUSED_WORDS
        .iter()
        .find(|(words, _)| plain.contains(&format!(" {words} ")))?;
    Some(*refusal)
}
