//! Decides which calls fail, and how: by switches (in the process or over HTTP) and by markers in a prompt.

use super::{
    admission::{AdmissionLimit, TokenBucket},
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

/// A prompt with one of these texts is refused. The texts stand for what the vendors' filters look for, so that a
/// demonstration can show a refusal with a harmless prompt.
pub const REFUSED_WORDS: &[(&str, Refusal)] = &[
    ("forbidden", Refusal::Prompt),
    ("unsafe picture", Refusal::Image),
];

/// What a vendor's filter refuses. Each vendor reports it in its own format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The prompt, before anything is made.
    Prompt,
    /// The image, after it was made.
    Image,
}

/// All switches of a fake. `PUT /__fake/faults` takes them as JSON and replaces all of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    /// The admission limit. A call beyond it gets 429, before any fault. Default: no limit.
    pub admit: Option<AdmissionLimit>,
    /// How long a call takes at least. Default: no delay.
    pub latency_ms: Latency,
    /// The share of calls, 0 to 1, that take `slow_ms` instead.
    pub slow_share: f64,
    /// How many milliseconds a slow call takes.
    pub slow_ms: u64,
    /// Faults for the next calls, one for each call. They are played before `rate` applies.
    pub next: VecDeque<Fault>,
    /// The share of calls, 0 to 1, that get one of `among`.
    pub rate: f64,
    /// The faults for that share, each equally likely.
    pub among: Vec<Fault>,
    /// Whether images have one color and are drawn once for each size and format. For measurements.
    pub plain: bool,
    /// Whether `plain` images have noise, so that their files are as large as those of photographs. A PNG of 2K has
    /// about 6 MB.
    pub grain: bool,
}

/// A range of milliseconds. Each call takes a time from it, evenly distributed, or `min` if `max` is not greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// The shortest time.
    pub min: u64,
    /// The longest time.
    pub max: u64,
}

/// The switches of a running fake. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    switches: Switches,
    /// How many random numbers were drawn. The sequence begins anew with each fake, so the same run of calls gets the
    /// same faults.
    draws: u64,
    /// How many calls came with each marked prompt, by the SHA-256 of the prompt.
    marked: HashMap<[u8; 32], u32>,
    /// The tokens of the admission limit. The bucket is full again when the switches are set.
    bucket: Option<TokenBucket>,
}

/// The plan for a call: its fault, its duration and the style of its image.
pub(super) struct CallPlan {
    pub(super) fault: Option<Fault>,
    /// The faults of the polls for the call's work.
    pub(super) polls: Vec<Marker>,
    /// How long the call takes.
    pub(super) delay: Duration,
    /// What the call's image looks like.
    pub(super) style: Style,
}

/// What images look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Style {
    /// A still life with the prompt and the input images in it.
    StillLife,
    /// One color.
    Flat,
    /// One color with noise.
    FlatWithGrain,
}

/// A fault from a prompt, and how many times it is played. `None` means always.
#[derive(Clone, Debug)]
pub(super) struct Marker {
    pub(super) fault: Fault,
    pub(super) times: Option<u32>,
}

impl Faults {
    /// Replaces all switches.
    pub fn set(&self, switches: Switches) {
        let mut shared = self.shared();
        shared.switches = switches;
        shared.bucket = None;
    }

    /// The current switches. `next` holds the faults that were not played yet.
    pub fn get(&self) -> Switches {
        self.shared().switches.clone()
    }

    /// Resets all switches, so that the fake works without faults.
    pub fn clear(&self) {
        self.set(Switches::default());
    }

    /// Puts one more fault at the end of the queue.
    pub fn push(&self, fault: Fault) {
        self.shared().switches.next.push_back(fault);
    }

    /// Sets the share of calls, 0 to 1, that get one of `among`.
    pub fn rate(&self, rate: f64, among: impl IntoIterator<Item = Fault>) {
        let switches = &mut self.shared().switches;
        switches.rate = rate;
        switches.among = among.into_iter().collect();
    }

    /// Sets how many milliseconds every call takes.
    pub fn latency(&self, milliseconds: RangeInclusive<u64>) {
        let (min, max) = milliseconds.into_inner();
        self.shared().switches.latency_ms = Latency { min, max };
    }

    /// Sets the admission limit: calls per second, and calls at once after a pause.
    pub fn admit(&self, per_second: f64, burst: f64) {
        let mut shared = self.shared();
        shared.switches.admit = Some(AdmissionLimit { per_second, burst });
        shared.bucket = None;
    }

    /// Switches between images of one color, which cost almost nothing, and drawn ones.
    pub fn plain(&self, plain: bool) {
        self.shared().switches.plain = plain;
    }

    /// Admits a call, or returns the time until the next call is admitted.
    pub(super) fn acquire_admission(&self) -> Result<(), Duration> {
        let mut shared = self.shared();
        let Some(admit) = shared.switches.admit else {
            return Ok(());
        };
        let now = Instant::now();
        (shared.bucket)
            .get_or_insert_with(|| TokenBucket::new_full(admit, now))
            .take(admit, now)
    }

    /// Plans a call. The fault comes from the first of these that has one: the markers of the prompt, the queue `next`,
    /// chance, the words of the prompt. `refusal` is the vendor's fault for a refused prompt.
    pub(super) fn plan(
        &self,
        prompt: &str,
        markers: Vec<Marker>,
        refusal: impl Fn(Refusal) -> Fault,
    ) -> CallPlan {
        let mut shared = self.shared();
        let (mut polls, calls) = markers.into_iter().partition(Marker::is_for_polls);
        let mut fault = (shared.fault_by_markers(prompt, calls))
            .or_else(|| shared.switches.next.pop_front())
            .or_else(|| shared.fault_by_chance())
            .or_else(|| find_refusal(prompt).map(refusal));
        // A fault for polls does not concern the call itself.
        if let Some(fault) = fault.take_if(|fault| matches!(fault, Fault::Poll(_) | Fault::Gone)) {
            polls.push(Marker { fault, times: None });
        }
        CallPlan {
            delay: shared.delay(fault.as_ref()),
            fault,
            polls,
            style: match (shared.switches.plain, shared.switches.grain) {
                (false, _) => Style::StillLife,
                (true, false) => Style::Flat,
                (true, true) => Style::FlatWithGrain,
            },
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The fault of this call by the markers of its prompt. Counts the calls with this prompt.
    fn fault_by_markers(&mut self, prompt: &str, markers: Vec<Marker>) -> Option<Fault> {
        if markers.is_empty() {
            return None;
        }
        let calls = self
            .marked
            .entry(Sha256::digest(prompt).into())
            .or_default();
        // How many earlier calls with this prompt are left for the current marker.
        let mut earlier = *calls;
        *calls = calls.saturating_add(1);
        for Marker { fault, times } in markers {
            match times {
                Some(times) if earlier >= times => earlier -= times,
                _ => return Some(fault),
            }
        }
        None
    }

    /// One of the faults in `among`, for the share `rate` of the calls.
    fn fault_by_chance(&mut self) -> Option<Fault> {
        if self.switches.among.is_empty() || !self.random_bool(self.switches.rate) {
            return None;
        }
        let count = self.switches.among.len();
        let index = usize::try_from(self.next_random()).unwrap_or_default() % count;
        self.switches.among.get(index).cloned()
    }

    /// How long a call with this fault takes.
    fn delay(&mut self, fault: Option<&Fault>) -> Duration {
        let Latency { min, max } = self.switches.latency_ms;
        let milliseconds = if self.random_bool(self.switches.slow_share) {
            self.switches.slow_ms
        } else if max > min {
            min + self.next_random() % (max - min).saturating_add(1)
        } else {
            min
        };
        Duration::from_millis(match fault {
            Some(Fault::Late(late)) => milliseconds.max(*late),
            _ => milliseconds,
        })
    }

    /// Draws whether a call belongs to a share, from 0 to 1. Nothing is drawn for 0, so that a switch that is off does
    /// not change the results of the other switches.
    fn random_bool(&mut self, share: f64) -> bool {
        if share <= 0.0 {
            return false;
        }
        // 10,000 steps are enough for a rate, and a float represents them exactly.
        let step = u32::try_from(self.next_random() % 10_000).unwrap_or_default();
        f64::from(step) < share * 10_000.0
    }

    /// The next number of the generator `SplitMix64`. The numbers are evenly distributed and the same in each run.
    fn next_random(&mut self) -> u64 {
        self.draws += 1;
        let mut mixed = self.draws.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Marker {
    fn is_for_polls(&self) -> bool {
        matches!(self.fault, Fault::Poll(_) | Fault::Gone)
    }
}

const MARKER_START: &str = "[[fault:";
const MARKER_END: &str = "]]";

/// The fault markers of a prompt, in order. They apply one after the other: `[[fault:throttle*2]]` applies to two calls
/// with this prompt, then the next marker applies. A marker without a count applies to all remaining calls. Markers for
/// polls count the polls of each interaction, not the calls.
pub(super) fn markers(prompt: &str) -> Result<Vec<Marker>, UnknownFault> {
    prompt
        .split(MARKER_START)
        .skip(1)
        .map(|rest| {
            let marker = rest.split(MARKER_END).next().unwrap_or(rest).trim();
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

/// The prompt without its fault markers, which are for the fake and not for the image. A marker without an end reaches
/// to the end of the prompt.
pub(super) fn without_markers(prompt: &str) -> String {
    let mut plain = String::new();
    for (index, piece) in prompt.split(MARKER_START).enumerate() {
        let rest = if index == 0 {
            piece
        } else {
            piece.split_once(MARKER_END).map_or("", |(_, rest)| rest)
        };
        plain.push_str(rest);
    }
    plain
}

/// The refusal for a prompt with one of [`REFUSED_WORDS`], as whole words in any case.
fn find_refusal(prompt: &str) -> Option<Refusal> {
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
