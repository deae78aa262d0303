//! Decides about new jobs of one tenant, one after the other, from what was read under the wallet's
//! lock.
//!
//! The result is the same as if each request had a transaction of its own, in this order: each sees
//! what those before it leave of the credits, the lots and the storage, and a repeated key finds
//! the answer to the first request. A request that is refused leaves everything as it was.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use std::collections::HashMap;

use time::OffsetDateTime;

use super::{Admission, AdmissionError, AdmissionRequest};
use domain::credits::Credits;
use domain::id::{JobId, UploadId};
use domain::idempotency::{self, Answer};
use domain::job::{Cost, Job, State};
use domain::ledger::{self, Lot};
use storage::admissions::{Basis, NewJob, StoredAnswer, Wanted};
use storage::database::row::RowId;

/// Paid calls per requested output. A job may make this many calls times its number of outputs. All
/// its outputs share these calls.
const CALLS_PER_OUTPUT: u64 = 3;
/// Microseconds by which one output advances its tenant's virtual clock. A tenant that submits more
/// than one output in this time runs after the tenants that do not.
const MICROS_PER_OUTPUT: i64 = 100_000;
/// Microseconds by which one step of priority moves a job within its tenant's own queue.
const MICROS_PER_PRIORITY_STEP: i64 = 10_000_000;

/// What must be read to decide about these requests.
pub(super) fn wanted<'a>(requests: &'a [AdmissionRequest<'_>]) -> Wanted<'a> {
    let admissions = || requests.iter().map(|request| request.admission);
    let mut uploads: Vec<UploadId> = admissions()
        .flat_map(|admission| admission.generation.uploads())
        .collect();
    uploads.sort_unstable_by_key(|upload| upload.0);
    uploads.dedup();
    Wanted {
        lots: admissions()
            .any(|admission| admission.quote.hold().is_ok_and(|hold| !hold.is_zero())),
        uploads,
        keys: admissions()
            .map(|admission| admission.idempotency.key.as_str())
            .collect(),
        allowance: admissions().any(needs_allowance),
        storage: admissions().any(|admission| {
            admission.unbilled_limits.storage.is_some() && admission.generation.inline_bytes() > 0
        }),
    }
}

/// Whether the job is admitted only if the tenant's cancel allowance is not used up: its deadline
/// may pass while its first call is open, so it is as good as canceled in advance.
fn needs_allowance(admission: &Admission<'_>) -> bool {
    admission.cancel_after < admission.model_timeout
}

/// What is decided about a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// It gets a new job: the one at this index of [`Plan::new`].
    New(usize),
    /// Its key was used before, for the same request. This is the answer that request got.
    Repeated(Answer),
}

/// The jobs to write, and what they leave of credits, lots and storage.
pub(super) struct Plan<'a> {
    /// The new jobs.
    pub new: Vec<NewJob<'a>>,
    /// The tenant's virtual clock after them, in microseconds.
    pub virtual_clock: i64,
    /// What was read under the wallet's lock. Each new job lowers `available` and `lots`.
    basis: Basis,
    /// The answers that are stored under keys of the requests, by key.
    stored: HashMap<String, StoredAnswer>,
    /// For the key of each new job's request, the job's index in `new`.
    by_key: HashMap<&'a str, usize>,
    /// Bytes of inputs that the new jobs add.
    bytes: i64,
}

impl<'a> Plan<'a> {
    /// A plan without jobs, from what was read.
    pub(super) fn new(mut basis: Basis) -> Self {
        let stored = std::mem::take(&mut basis.answers);
        Self {
            new: Vec::new(),
            virtual_clock: basis.virtual_clock,
            stored: stored
                .into_iter()
                .map(|stored| (stored.key.clone(), stored))
                .collect(),
            by_key: HashMap::new(),
            bytes: 0,
            basis,
        }
    }

    /// Decides about the next request. `redriven` is for a redrive: the job that an earlier redrive
    /// of the same failed job has made, if there is one.
    ///
    /// # Errors
    /// Returns why the request is refused.
    pub(super) fn decide(
        &mut self,
        request: &AdmissionRequest<'a>,
        redriven: Option<JobId>,
    ) -> Result<Decision, AdmissionError> {
        let admission = request.admission;
        let hold = admission.quote.hold()?;
        // The idempotency key is looked up before every other check: a repeated request gets its
        // first answer, even if the tenant's wallet has been restricted or emptied since.
        if let Some(answer) = self.answered(&admission.idempotency)? {
            return Ok(Decision::Repeated(answer));
        }
        if !self.basis.may_submit {
            return Err(AdmissionError::Inactive);
        }
        if let Some(new) = redriven {
            return Err(AdmissionError::Redriven(new));
        }
        self.check_limits(admission)?;
        let insufficient = || AdmissionError::InsufficientCredits {
            needed: hold,
            available: self.basis.available,
        };
        // Checked here for the exact error. The rule `never_overdrawn` in the database is the
        // second guard.
        let available = self.basis.available.minus(hold);
        let available = available.map_err(|_| insufficient())?;
        // The lots can give less than the wallet shows: credits of an expired lot may not be held,
        // but they are still part of the balance.
        let shares = ledger::split_over_lots(&self.basis.lots, hold).ok_or_else(insufficient)?;
        let (job, virtual_clock) = self.job(admission, hold)?;

        // Nothing fails from here on, so the request takes what it needs.
        take(&mut self.basis.lots, &shares);
        self.basis.available = available;
        self.virtual_clock = virtual_clock;
        self.bytes = self
            .bytes
            .saturating_add(admission.generation.inline_bytes());
        let index = self.new.len();
        self.by_key.insert(&admission.idempotency.key, index);
        let answer = (request.answer)(&job);
        self.new.push(NewJob {
            job,
            traceparent: admission.traceparent.as_ref(),
            generation: serde_json::to_value(&admission.generation).expect("a generation is JSON"),
            shares,
            request: &admission.idempotency,
            answer,
        });
        Ok(Decision::New(index))
    }

    /// The answer to an earlier request with the same key: one that is stored, or one of this plan.
    fn answered(&self, request: &idempotency::Request) -> Result<Option<Answer>, AdmissionError> {
        let (hash, answer) = if let Some(stored) = self.stored.get(&request.key) {
            (&stored.hash[..], &stored.answer)
        } else if let Some(index) = self.by_key.get(request.key.as_str())
            && let Some(new) = self.new.get(*index)
        {
            (&new.request.hash[..], &new.answer)
        } else {
            return Ok(None);
        };
        if hash == request.hash {
            Ok(Some(answer.clone()))
        } else {
            Err(AdmissionError::KeyReused)
        }
    }

    /// Checks the uploads, the cancel allowance and the storage limit.
    fn check_limits(&self, admission: &Admission<'_>) -> Result<(), AdmissionError> {
        let uploads = admission.generation.uploads();
        if !uploads.iter().all(|id| self.basis.uploads.contains(id)) {
            return Err(AdmissionError::UploadGone);
        }
        // Without this check a tenant could submit a thousand jobs that are as good as canceled,
        // and we would pay for calls that nobody waits for.
        let used = self.basis.allowance;
        if needs_allowance(admission) && !used.allows(1, admission.unbilled_limits.cancel_allowance)
        {
            let shortest_deadline = admission.model_timeout;
            return Err(AdmissionError::AllowanceUsed {
                used,
                shortest_deadline,
            });
        }
        let more = admission.generation.inline_bytes();
        let mut stored = self.basis.stored;
        stored.bytes = stored.bytes.map(|bytes| bytes.saturating_add(self.bytes));
        super::check_room(stored, more, &admission.unbilled_limits)
    }

    /// The job of a request, and the tenant's virtual clock after it.
    ///
    /// The job's virtual time comes from the tenant's virtual clock, which is never earlier than
    /// the real clock. So a job of a tenant with few jobs runs before the backlog of a busy tenant.
    /// A high priority moves the job forward, but at most to the real time. So the job never
    /// overtakes a job whose virtual time has passed. The real clock is the database's, so a wrong
    /// clock of an api does not change the order of jobs.
    fn job(&self, admission: &Admission<'_>, hold: Credits) -> Result<(Job, i64), AdmissionError> {
        let row_id = RowId::new("jobs", admission.job);
        let quote = &admission.quote;
        let (now, clock) = (self.basis.now, self.basis.clock);
        let clock_micros: i64 = row_id.convert("turn", clock.unix_timestamp_nanos() / 1_000)?;
        let advance = i64::from(quote.outputs).saturating_mul(MICROS_PER_OUTPUT);
        let virtual_clock = self.virtual_clock.max(clock_micros).saturating_add(advance);
        let forward =
            i64::from(admission.attributes.priority).saturating_mul(MICROS_PER_PRIORITY_STEP);
        let run_at = admission.run_at.map(whole_micros);
        let begins = run_at.map_or(clock, |run_at| run_at.max(clock));
        let cancel_after = time::Duration::try_from(admission.cancel_after);
        let deadline = begins.saturating_add(cancel_after.unwrap_or(time::Duration::MAX));
        let max_calls = u64::from(quote.outputs).saturating_mul(CALLS_PER_OUTPUT);
        let job = Job {
            id: admission.job,
            tenant: admission.tenant,
            kind: admission.generation.kind(),
            attributes: admission.attributes.clone(),
            request_id: admission.request_id.clone(),
            state: State::Queued,
            outcome: None,
            reason: None,
            fence: 0,
            crash_count: 0,
            calls_started: 0,
            max_calls: row_id.convert("max_calls", max_calls)?,
            virtual_time: virtual_clock.saturating_sub(forward).max(clock_micros),
            run_after: run_at.map_or(now, |run_at| run_at.max(now)),
            deadline: whole_micros(deadline),
            cost: Cost {
                unit_price: quote.unit_price,
                price_version: quote.price_version.clone(),
                held: hold,
                captured: Credits::ZERO,
                released: Credits::ZERO,
                refunded: Credits::ZERO,
            },
            n_requested: row_id.convert("n_requested", quote.outputs)?,
            n_delivered: 0,
            redrive_of: admission.redrive.map(|redrive| redrive.of),
            created_at: now,
            started_at: None,
            finished_at: None,
        };
        Ok((job, virtual_clock))
    }
}

/// Takes shares from lots, and removes the lots that are empty then.
fn take(lots: &mut Vec<Lot>, shares: &[ledger::Share]) {
    for share in shares {
        let lot = lots.iter_mut().find(|lot| lot.grant == share.grant);
        if let Some(lot) = lot {
            // A share is never more than its lot has.
            lot.remaining = lot.remaining.minus(share.amount).unwrap_or(Credits::ZERO);
        }
    }
    lots.retain(|lot| !lot.remaining.is_zero());
}

/// A time as Postgres stores it, in whole microseconds, so that an answer shows what the row says.
fn whole_micros(time: OffsetDateTime) -> OffsetDateTime {
    let nanos = time.nanosecond();
    time.replace_nanosecond(nanos.saturating_sub(nanos % 1_000))
        .unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::UnbilledLimits;
    use domain::allowance::AllowanceUsage;
    use domain::credits::Quote;
    use domain::generation::Generation;
    use domain::generation::image::{AspectRatio, Format, ImageRequest, Rendering, Size};
    use domain::id::TenantId;
    use domain::job::JobAttributes;
    use domain::storage_limit::StorageUsage;
    use uuid::Uuid;

    fn credits(amount: i64) -> Credits {
        Credits::new(amount).unwrap()
    }

    /// A wallet with 100 credits in two lots, at the second 1,000.
    fn basis() -> Basis {
        let clock = OffsetDateTime::from_unix_timestamp(1_000).unwrap();
        Basis {
            now: clock,
            clock,
            available: credits(100),
            may_submit: true,
            virtual_clock: 0,
            lots: vec![
                Lot {
                    grant: Uuid::from_u128(1),
                    remaining: credits(10),
                },
                Lot {
                    grant: Uuid::from_u128(2),
                    remaining: credits(90),
                },
            ],
            uploads: Vec::new(),
            answers: Vec::new(),
            allowance: AllowanceUsage {
                calls: 0,
                retry_after: Duration::ZERO,
            },
            stored: StorageUsage { bytes: None },
        }
    }

    fn admission(key: &str, price: i64, priority: i16) -> Admission<'static> {
        Admission {
            tenant: TenantId::new(),
            idempotency: idempotency::Request {
                key: key.to_owned(),
                hash: [0; 32],
            },
            job: JobId::new(),
            attributes: JobAttributes {
                priority,
                ..JobAttributes::default()
            },
            request_id: String::new(),
            traceparent: None,
            generation: Generation::Image(ImageRequest {
                prompt: String::new(),
                art_direction: None,
                inputs: Vec::new(),
                aspect_ratio: AspectRatio::Square,
                size: Size::OneK,
                outputs: 2,
                format: Format::Png,
                rendering: Rendering::default(),
                seed: None,
            }),
            quote: Quote {
                unit_price: credits(price),
                price_version: String::new(),
                outputs: 2,
            },
            run_at: None,
            cancel_after: Duration::from_mins(1),
            model_timeout: Duration::ZERO,
            redrive: None,
            unbilled_limits: UnbilledLimits::default(),
        }
    }

    fn decide_all<'a>(admissions: &'a [Admission<'a>]) -> (Plan<'a>, Vec<bool>) {
        let mut plan = Plan::new(basis());
        let answer = &|_: &Job| Answer::empty(202);
        let decided = admissions.iter().map(|admission| {
            let request = AdmissionRequest { admission, answer };
            matches!(plan.decide(&request, None), Ok(Decision::New(_)))
        });
        let decided = decided.collect();
        (plan, decided)
    }

    #[test]
    fn each_job_sees_what_those_before_it_leave() {
        let admissions = [
            admission("a", 3, 0),
            admission("b", 5, 0),
            admission("too expensive", 50, 0),
            admission("c", 42, 0),
            admission("too late", 1, 0),
        ];
        let (plan, new) = decide_all(&admissions);
        assert_eq!(new, [true, true, false, true, false]);
        let shares: Vec<Vec<(u128, i64)>> = plan
            .new
            .iter()
            .map(|new| {
                let shares = new.shares.iter();
                let shares = shares.map(|share| (share.grant.as_u128(), share.amount.get()));
                shares.collect()
            })
            .collect();
        let expected = [vec![(1, 6)], vec![(1, 4), (2, 6)], vec![(2, 84)]];
        assert_eq!(shares, expected);
    }

    #[test]
    fn a_job_waits_behind_those_of_its_tenant() {
        let admissions = [
            admission("a", 0, 0),
            admission("b", 0, 0),
            admission("first", 0, 10),
        ];
        let (plan, _) = decide_all(&admissions);
        let times: Vec<i64> = plan.new.iter().map(|new| new.job.virtual_time).collect();
        // Two outputs take 0.2 s. A high priority never goes before the present.
        assert_eq!(times, [1_000_200_000, 1_000_400_000, 1_000_000_000]);
        assert_eq!(plan.virtual_clock, 1_000_600_000);
    }

    #[test]
    fn times_are_whole_microseconds() {
        let mut late = admission("a", 0, 0);
        let at = OffsetDateTime::from_unix_timestamp_nanos(2_000_000_000_123).unwrap();
        late.run_at = Some(at);
        let admissions = [late];
        let (plan, _) = decide_all(&admissions);
        let [new] = &plan.new[..] else { panic!() };
        assert_eq!(new.job.run_after.nanosecond(), 0);
        assert_eq!(new.job.run_after.unix_timestamp(), 2_000);
        assert_eq!(new.job.deadline.unix_timestamp(), 2_060);
    }
}
