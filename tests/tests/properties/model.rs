//! The reference: wallets, lots and jobs as the credit protocol tells them, in plain Rust and without a database.
//!
//! It is written from the protocol, not from `common`: where the two differ, one of them is wrong.

use std::collections::{BTreeMap, BTreeSet};

use domain::job::State;
use domain::outcome::Class;

use crate::books::{Books, Call, Job, Line, Lot, Picture, Wallet};
use crate::moves::{Asked, Back, Lanes, Move};

/// The lease that runs out so many times ends the job.
const MOST_CRASHES: i32 = 3;
const CALLS_PER_OUTPUT: i32 = 3;
/// Minutes that credit which comes back to an expired lot is good for.
pub(crate) const SECOND_LIFE: i64 = 72 * 60;
/// Any time in the past.
pub(crate) const EXPIRED: i64 = -60;

/// What whoever made a move is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// There was nothing to make the move with.
    Passed,
    Done,
    /// Whether it was so.
    Was(bool),
    Admitted,
    /// The answer to that move, word for word.
    Repeated(usize),
    KeyReused,
    Insufficient,
    Inactive,
    Claimed {
        fence: i32,
        calls_made: i32,
        calls_left: i32,
    },
    Canceled,
    Ended(State),
    Requeued,
    Already(State),
    Fenced,
    Nothing,
    /// These jobs.
    Renewed(Vec<usize>),
    /// These jobs were found, and this was said of each.
    Found(Vec<(usize, Self)>),
}

/// A request that may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Submit(Asked),
    Cancel(usize),
}

/// The right to work on a job, which may be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub job: usize,
    pub fence: i32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub books: Books,
    pub attempts: Vec<Attempt>,
    /// Which source has given to which tenant.
    sources: BTreeSet<(usize, u8)>,
    answers: BTreeMap<(usize, u8), (Request, usize)>,
    moves: usize,
    second_lives: i64,
}

impl Model {
    pub(crate) fn new(tenants: usize) -> Self {
        let wallet = Wallet {
            available: 0,
            held: 0,
            active: true,
        };
        Self {
            books: Books {
                wallets: vec![wallet; tenants],
                ledgers: vec![Vec::new(); tenants],
                ..Books::default()
            },
            ..Self::default()
        }
    }

    /// What the protocol says to this move, and what stands in the books after it.
    pub(crate) fn make(&mut self, a_move: Move) -> Said {
        self.moves += 1;
        self.made(a_move).unwrap_or(Said::Passed)
    }

    /// `None`: the move cannot be made.
    fn made(&mut self, a_move: Move) -> Option<Said> {
        Some(match a_move {
            Move::Grant {
                tenant,
                source,
                amount,
                priority,
                expires,
            } => self.grant(tenant, source, amount, priority, expires),
            Move::Restrict { tenant, active } => {
                self.books.wallets[tenant].active = active;
                Said::Done
            }
            Move::LotExpires { lot } => {
                let lot = self.lot(lot)?;
                self.books.lots[lot].expires = Some(EXPIRED);
                Said::Done
            }
            Move::Submit { tenant, key, asked } => self.submit(tenant, key, asked),
            Move::Claim { job, lanes } => self.claim(self.job(job)?, lanes),
            Move::Renew { attempt, and } => {
                let both = [self.attempt(attempt)?, self.attempt(and)?];
                self.renew(&both)
            }
            Move::Begin { attempt, output } => self.begin(self.attempt(attempt)?, output),
            Move::Operate { call } => {
                let call = self.call(call)?;
                let call = &mut self.books.calls[call];
                call.handle |= call.outcome.is_none();
                Said::Was(call.outcome.is_none())
            }
            Move::End { call, class } => self.end_call(self.call(call)?, class),
            Move::Deliver { attempt, outputs } => {
                let attempt = self.attempt(attempt)?;
                let bought = self.bought(attempt.job, outputs);
                self.settle(attempt, |model| model.deliver(attempt, &bought))
            }
            Move::GiveUp { attempt, class } => {
                let attempt = self.attempt(attempt)?;
                self.settle(attempt, |model| {
                    model.end(attempt.job, State::Failed, class, 0)
                })
            }
            Move::Retry { attempt, later } => {
                let attempt = self.attempt(attempt)?;
                self.settle(attempt, |model| {
                    model.books.jobs[attempt.job].outcome = Some(Class::ProviderFault);
                    model.requeue(attempt.job, later)
                })
            }
            Move::PutBack { attempt, later } => {
                let attempt = self.attempt(attempt)?;
                self.settle(attempt, |model| model.requeue(attempt.job, later))
            }
            Move::Cancel { tenant, job, key } => self.cancel(tenant, self.job(job)?, key),
            Move::Reap { job } => self.reap(self.job(job)?),
            Move::ReapAll => self.each(|job| job.leased == Some(false), Self::reap),
            // Nobody expires a job whose deadline has not passed.
            Move::Expire { job } => {
                let job = self.job(job)?;
                let Job { state, late, .. } = self.books.jobs[job];
                (late || state.is_terminal()).then(|| self.expire(job))?
            }
            Move::ExpireAll => self.each(|job| job.late && !job.state.is_terminal(), Self::expire),
            Move::LeaseRunsOut { job } => {
                let job = self.job(job)?;
                let lease = self.books.jobs[job].leased.as_mut()?;
                *lease = false;
                Said::Done
            }
            Move::DeadlinePasses { job } => {
                let job = self.job(job)?;
                self.books.jobs[job].late = true;
                Said::Done
            }
            Move::DelayPasses { job } => {
                let job = self.job(job)?;
                self.books.jobs[job].due = true;
                Said::Done
            }
        })
    }

    fn grant(
        &mut self,
        tenant: usize,
        source: u8,
        amount: i64,
        priority: i16,
        expires: Option<i64>,
    ) -> Said {
        if !self.sources.insert((tenant, source)) {
            return Said::Was(false);
        }
        self.books.lots.push(Lot {
            tenant,
            priority,
            remaining: amount,
            held: 0,
            consumed: 0,
            expires,
        });
        let lot = self.books.lots.len() - 1;
        self.post(
            tenant,
            "promo",
            ("sys:promo", "tenant:available"),
            amount,
            lot,
        );
        Said::Was(true)
    }

    fn submit(&mut self, tenant: usize, key: u8, asked: Asked) -> Said {
        if let Some(said) = self.repeated(tenant, key, Request::Submit(asked)) {
            return said;
        }
        if !self.books.wallets[tenant].active {
            return Said::Inactive;
        }
        let outputs = i32::try_from(asked.outputs).expect("a few");
        let hold = asked.price * i64::from(asked.outputs);
        let Some(shares) = self.split_over_lots(tenant, hold) else {
            return Said::Insufficient;
        };
        for &(lot, amount) in &shares {
            self.books.lots[lot].remaining -= amount;
            self.books.lots[lot].held += amount;
        }
        self.books.jobs.push(Job {
            tenant,
            state: State::Queued,
            outcome: None,
            fence: 0,
            crashes: 0,
            calls: 0,
            max_calls: outputs * CALLS_PER_OUTPUT,
            due: !asked.later,
            late: false,
            leased: None,
            price: asked.price,
            outputs,
            captured: 0,
            released: 0,
            delivered: 0,
            has_operation: false,
            has_original: false,
            shares,
        });
        let job = self.books.jobs.len() - 1;
        self.post(
            tenant,
            "hold",
            ("tenant:available", "tenant:held"),
            hold,
            job,
        );
        self.answers
            .insert((tenant, key), (Request::Submit(asked), self.moves));
        Said::Admitted
    }

    /// Takes from the lots that have not expired: by priority, the soonest to expire first, the oldest first.
    fn split_over_lots(&self, tenant: usize, hold: i64) -> Option<Vec<(usize, i64)>> {
        let lots = self.books.lots.iter().enumerate();
        let mut lots: Vec<(usize, &Lot)> = lots
            .filter(|(_, lot)| lot.tenant == tenant && lot.expires.is_none_or(|at| at > 0))
            .collect();
        lots.sort_by_key(|&(place, lot)| (lot.priority, lot.expires.unwrap_or(i64::MAX), place));
        let mut left = hold;
        let mut shares = Vec::new();
        for (place, lot) in lots {
            let amount = lot.remaining.min(left);
            if amount > 0 {
                shares.push((place, amount));
                left -= amount;
            }
        }
        (left == 0).then_some(shares)
    }

    fn claim(&mut self, job: usize, lanes: Lanes) -> Said {
        let claimed = &mut self.books.jobs[job];
        let is_admitted = match lanes {
            Lanes::Open => true,
            Lanes::Full => claimed.has_operation,
            Lanes::Unknown => false,
        };
        if claimed.state != State::Queued || !claimed.due || claimed.late || !is_admitted {
            return Said::Nothing;
        }
        claimed.state = State::Running;
        claimed.fence += 1;
        claimed.leased = Some(true);
        let said = Said::Claimed {
            fence: claimed.fence,
            calls_made: claimed.calls,
            calls_left: claimed.max_calls - claimed.calls,
        };
        let fence = claimed.fence;
        self.attempts.push(Attempt { job, fence });
        said
    }

    fn renew(&mut self, attempts: &[Attempt]) -> Said {
        let held = attempts.iter().filter(|attempt| self.holds(**attempt));
        let jobs: BTreeSet<usize> = held.map(|attempt| attempt.job).collect();
        for &job in &jobs {
            self.books.jobs[job].leased = Some(true);
        }
        Said::Renewed(jobs.into_iter().collect())
    }

    fn begin(&mut self, attempt: Attempt, output: i32) -> Said {
        let holds = self.holds(attempt);
        let job = &mut self.books.jobs[attempt.job];
        if !holds || job.leased != Some(true) || job.late || job.calls == job.max_calls {
            return Said::Was(false);
        }
        job.calls += 1;
        let output = output % job.outputs;
        self.books.calls.push(Call {
            job: attempt.job,
            fence: attempt.fence,
            output,
            outcome: None,
            counted: true,
            handle: false,
            original: false,
        });
        Said::Was(true)
    }

    /// A call ends once, whoever works on its job by then; one that never reached a model gives its count back. Of one
    /// that was given up for lost the image may yet come, while its job is open.
    fn end_call(&mut self, call: usize, class: Class) -> Said {
        let call = &mut self.books.calls[call];
        let open = !self.books.jobs[call.job].state.is_terminal();
        let lost = matches!(call.outcome, Some(Class::Unknown | Class::Internal));
        let late = lost && class == Class::Ok && open;
        if call.outcome.is_some() && !late {
            return Said::Was(false);
        }
        call.outcome = Some(class);
        call.counted = !matches!(class, Class::Throttled | Class::Unreachable);
        call.original = class == Class::Ok;
        let job = &mut self.books.jobs[call.job];
        job.calls -= i32::from(!call.counted);
        // It is to be taken up before its deadline, for what it has.
        job.has_original |= call.original && job.state == State::Queued;
        Said::Was(true)
    }

    /// A worker's settlement needs the newest fence and a job that runs. A lease that ran out does not matter: nobody
    /// else has the job.
    fn settle(&mut self, attempt: Attempt, settled: impl FnOnce(&mut Self) -> Said) -> Said {
        let state = self.books.jobs[attempt.job].state;
        if self.holds(attempt) {
            settled(self)
        } else if state.is_terminal() {
            Said::Already(state)
        } else {
            Said::Fenced
        }
    }

    fn deliver(&mut self, attempt: Attempt, bought: &[usize]) -> Said {
        for &call in bought {
            self.books.pictures.push(Picture {
                job: attempt.job,
                output: self.books.calls[call].output,
                fence: attempt.fence,
                call,
            });
        }
        self.books.pictures.sort();
        let asked = self.books.jobs[attempt.job].outputs;
        let delivered = i32::try_from(bought.len()).expect("a few");
        let (state, outcome) = match delivered {
            0 => (State::Failed, Class::ProviderFault),
            some if some < asked => (State::Partial, Class::ProviderFault),
            _ => (State::Succeeded, Class::Ok),
        };
        self.end(attempt.job, state, outcome, delivered)
    }

    /// Charges for what was delivered, gives the rest back to the lots it came from, and leaves no call open.
    fn end(&mut self, job: usize, state: State, outcome: Class, delivered: i32) -> Said {
        let ended = &mut self.books.jobs[job];
        let held = ended.price * i64::from(ended.outputs);
        ended.state = state;
        ended.outcome = Some(outcome);
        ended.leased = None;
        ended.delivered = delivered;
        ended.captured = ended.price * i64::from(delivered);
        ended.released = held - ended.captured;
        let (tenant, captured, released) = (ended.tenant, ended.captured, ended.released);
        let mut left = captured;
        for (lot, amount) in ended.shares.clone() {
            let consumed = amount.min(left);
            left -= consumed;
            let lot = &mut self.books.lots[lot];
            lot.held -= amount;
            lot.consumed += consumed;
            lot.remaining += amount - consumed;
            if consumed < amount && lot.expires.is_some_and(|at| at < 0) {
                self.second_lives += 1;
                lot.expires = Some(SECOND_LIFE + self.second_lives);
            }
        }
        self.post(
            tenant,
            "capture",
            ("tenant:held", "sys:revenue"),
            captured,
            job,
        );
        self.post(
            tenant,
            "release",
            ("tenant:held", "tenant:available"),
            released,
            job,
        );
        for call in &mut self.books.calls {
            if call.job == job && call.outcome.is_none() {
                call.outcome = Some(Class::Unknown);
            }
        }
        Said::Ended(state)
    }

    fn requeue(&mut self, job: usize, later: bool) -> Said {
        let of_job = || self.books.calls.iter().filter(|call| call.job == job);
        let has_operation = of_job().any(|call| call.handle && call.outcome.is_none());
        let has_original = of_job().any(|call| call.original);
        let queued = &mut self.books.jobs[job];
        queued.state = State::Queued;
        queued.leased = None;
        queued.due = !later;
        queued.has_operation = has_operation;
        queued.has_original = has_original;
        Said::Requeued
    }

    fn cancel(&mut self, tenant: usize, job: usize, key: u8) -> Said {
        let Job {
            tenant: owner,
            state,
            ..
        } = self.books.jobs[job];
        if owner != tenant {
            return Said::Nothing;
        }
        let request = Request::Cancel(job);
        if let Some(said) = self.repeated(tenant, key, request) {
            return said;
        }
        match state {
            State::Queued | State::Running => {
                self.end(job, State::Canceled, Class::Canceled, 0);
            }
            State::Canceled => {}
            ended => return Said::Already(ended),
        }
        self.answers.insert((tenant, key), (request, self.moves));
        Said::Canceled
    }

    fn reap(&mut self, job: usize) -> Said {
        let reaped = &mut self.books.jobs[job];
        if reaped.leased != Some(false) {
            return Said::Nothing;
        }
        reaped.crashes += 1;
        if reaped.crashes == MOST_CRASHES {
            return self.end(job, State::Failed, Class::Poison, 0);
        }
        self.requeue(job, false)
    }

    fn expire(&mut self, job: usize) -> Said {
        match self.books.jobs[job].state {
            State::Queued | State::Running => self.end(job, State::Expired, Class::Expired, 0),
            ended => Said::Already(ended),
        }
    }

    fn each(&mut self, which: fn(&Job) -> bool, what: fn(&mut Self, usize) -> Said) -> Said {
        let jobs = 0..self.books.jobs.len();
        let found: Vec<usize> = jobs.filter(|&job| which(&self.books.jobs[job])).collect();
        Said::Found(
            found
                .into_iter()
                .map(|job| (job, what(self, job)))
                .collect(),
        )
    }

    fn holds(&self, attempt: Attempt) -> bool {
        let job = &self.books.jobs[attempt.job];
        job.state == State::Running && job.fence == attempt.fence
    }

    /// What a key was answered before.
    fn repeated(&self, tenant: usize, key: u8, request: Request) -> Option<Said> {
        let &(first, answered) = self.answers.get(&(tenant, key))?;
        Some(if first == request {
            Said::Repeated(answered)
        } else {
            Said::KeyReused
        })
    }

    /// One line of the ledger, and what it does to the wallet. Nothing moves where the amount is zero.
    fn post(
        &mut self,
        tenant: usize,
        kind: &str,
        (debit, credit): (&str, &str),
        amount: i64,
        of: usize,
    ) {
        if amount == 0 {
            return;
        }
        let wallet = &mut self.books.wallets[tenant];
        for (account, change) in [(debit, -amount), (credit, amount)] {
            match account {
                "tenant:available" => wallet.available += change,
                "tenant:held" => wallet.held += change,
                _ => {}
            }
        }
        self.books.ledgers[tenant].push(Line {
            kind: kind.to_owned(),
            debit: debit.to_owned(),
            credit: credit.to_owned(),
            amount,
            of,
        });
    }

    /// For each of these outputs that was bought, the first call that did.
    pub(crate) fn bought(&self, job: usize, outputs: u8) -> Vec<usize> {
        let wanted = (0..self.books.jobs[job].outputs).filter(|output| outputs >> output & 1 == 1);
        let call = |output| {
            let mut calls = self.books.calls.iter();
            calls.position(|call| call.job == job && call.output == output && call.original)
        };
        wanted.filter_map(call).collect()
    }

    /// The jobs that may be claimed.
    pub(crate) fn due(&self) -> Vec<usize> {
        let jobs = self.books.jobs.iter().enumerate();
        let due = jobs.filter(|(_, job)| job.state == State::Queued && job.due && !job.late);
        due.map(|(place, _)| place).collect()
    }

    /// How far the wallets are from holding every credit that was given and not charged.
    pub(crate) fn imbalance(&self) -> i64 {
        let lines = self.books.ledgers.iter().flatten();
        let of = |kind: &str| -> i64 {
            let lines = lines.clone().filter(|line| line.kind == kind);
            lines.map(|line| line.amount).sum()
        };
        let wallets = self.books.wallets.iter();
        let there: i64 = wallets.map(|wallet| wallet.available + wallet.held).sum();
        of("promo") - of("capture") - there
    }

    pub(crate) fn job(&self, back: Back) -> Option<usize> {
        place(self.books.jobs.len(), back)
    }

    pub(crate) fn lot(&self, back: Back) -> Option<usize> {
        place(self.books.lots.len(), back)
    }

    pub(crate) fn call(&self, back: Back) -> Option<usize> {
        place(self.books.calls.len(), back)
    }

    pub(crate) fn attempt(&self, back: Back) -> Option<Attempt> {
        place(self.attempts.len(), back).map(|place| self.attempts[place])
    }
}

/// Counted back from the newest, round and round.
fn place(len: usize, back: Back) -> Option<usize> {
    let newest = len.checked_sub(1)?;
    Some(newest - usize::from(back) % len)
}
