//! Ways to make the fake fail: switches in the process and over HTTP, and markers inside a prompt.

use super::fault::{Fault, UnknownFault};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A prompt with these words is refused the way the fault says. They stand for what Google's filters look for, so that a
/// demonstration can show a refusal without writing anything unpleasant.
pub const REFUSED_WORDS: &[(&str, &str)] = &[
    ("forbidden", "block:PROHIBITED_CONTENT"),
    ("unsafe picture", "finish:IMAGE_SAFETY"),
];

/// What calls meet from now on. The JSON of `PUT /__fake/faults`, which replaces all of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    /// How long every call takes at least.
    pub latency_ms: Latency,
    /// Faults for the next calls, one each; comes before `rate`.
    pub next: VecDeque<Fault>,
    /// The share of the calls, 0 to 1, that meet one of `among`.
    pub rate: f64,
    /// What the unlucky calls meet, in equal parts.
    pub among: Vec<Fault>,
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
}

impl Faults {
    /// Replaces every switch.
    pub fn set(&self, switches: Switches) {
        self.shared().switches = switches;
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

    /// How long the call that is about to be answered takes.
    pub(super) fn delay(&self) -> Duration {
        let mut shared = self.shared();
        let Latency { min, max } = shared.switches.latency_ms;
        let spread = max.saturating_sub(min).saturating_add(1);
        if spread == 1 {
            return Duration::from_millis(min);
        }
        Duration::from_millis(min + shared.throw() % spread)
    }

    /// The fault this call meets: by its marker, else by the queue, else by chance, else by its words.
    pub(super) fn meet(&self, prompt: &str) -> Option<Fault> {
        let mut shared = self.shared();
        (shared.marked(prompt))
            .or_else(|| shared.switches.next.pop_front())
            .or_else(|| shared.by_chance())
            .or_else(|| refused(prompt))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn marked(&mut self, prompt: &str) -> Option<Fault> {
        // A marker that cannot be read was refused with the request.
        let markers = markers(prompt).ok().filter(|all| !all.is_empty())?;
        let made = self
            .marked
            .entry(Sha256::digest(prompt).into())
            .or_default();
        let mut left = *made;
        *made = made.saturating_add(1);
        for (fault, times) in markers {
            match times {
                Some(times) if left >= times => left -= times,
                _ => return Some(fault),
            }
        }
        None
    }

    fn by_chance(&mut self) -> Option<Fault> {
        if self.switches.rate <= 0.0 || self.switches.among.is_empty() {
            return None;
        }
        // Ten thousand faces are fine enough for a rate and exact in every float.
        let face = u32::try_from(self.throw() % 10_000).unwrap_or_default();
        if f64::from(face) >= self.switches.rate * 10_000.0 {
            return None;
        }
        let count = self.switches.among.len();
        let index = usize::try_from(self.throw()).unwrap_or_default() % count;
        self.switches.among.get(index).cloned()
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

/// Says what is wrong with the markers of a prompt, if anything is.
pub(super) fn check_marker(prompt: &str) -> Result<(), String> {
    markers(prompt)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// The markers of a prompt in order: `[[fault:throttle*2]]` is met by the first two calls that carry the prompt,
/// `[[fault:throttle]]` by all that are left.
fn markers(prompt: &str) -> Result<Vec<(Fault, Option<u32>)>, UnknownFault> {
    prompt
        .split("[[fault:")
        .skip(1)
        .map(|rest| {
            let marker = rest.split("]]").next().unwrap_or(rest).trim();
            match marker.rsplit_once('*') {
                Some((word, times)) => {
                    let times = times.parse().map_err(|_| UnknownFault(marker.to_owned()))?;
                    Ok((word.parse()?, Some(times)))
                }
                None => Ok((marker.parse()?, None)),
            }
        })
        .collect()
}

/// The refusal a prompt's own words earn it.
fn refused(prompt: &str) -> Option<Fault> {
    let mut plain = String::from(" ");
    for letter in prompt.chars() {
        plain.push(if letter.is_alphanumeric() {
            letter.to_ascii_lowercase()
        } else {
            ' '
        });
    }
    plain.push(' ');
    let (_, fault) = REFUSED_WORDS
        .iter()
        .find(|(words, _)| plain.contains(&format!(" {words} ")))?;
    fault.parse().ok()
}
