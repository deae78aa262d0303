//! The moves of the game, and how they are drawn.
//!
//! A job, an attempt, a call or a lot is drawn as a number that counts back from the newest, so a sequence stays
//! playable when shrinking takes moves out of it. A move without anything to make it with is passed over.

use domain::outcome::Class;
use proptest::bool::weighted;
use proptest::option;
use proptest::prelude::{Just, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::select;

/// How far back from the newest.
pub(crate) type Back = u8;

/// What may happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    /// Credits are given. The source may have given to the tenant before; the lot may expire, and may burn before others.
    Grant {
        tenant: usize,
        source: u8,
        amount: i64,
        priority: i16,
        expires: Option<i64>,
    },
    /// The wallet is closed for new jobs, or opened.
    Restrict {
        tenant: usize,
        active: bool,
    },
    LotExpires {
        lot: Back,
    },

    /// A request for a job. A low key is likely to be one that was used before.
    Submit {
        tenant: usize,
        key: u8,
        asked: Asked,
    },
    /// A worker takes a job, if its lanes let it.
    Claim {
        job: Back,
        lanes: Lanes,
    },
    /// A worker, that may have lost the job meanwhile, keeps its lease.
    Renew {
        attempt: Back,
        and: Back,
    },
    Begin {
        attempt: Back,
        output: i32,
    },
    /// The provider works on it in the background.
    Operate {
        call: Back,
    },
    End {
        call: Back,
        class: Class,
    },

    /// A worker settles. It may have lost the job meanwhile. It delivers those of these outputs that were bought.
    Deliver {
        attempt: Back,
        outputs: u8,
    },
    GiveUp {
        attempt: Back,
        class: Class,
    },
    Retry {
        attempt: Back,
        later: bool,
    },
    PutBack {
        attempt: Back,
        later: bool,
    },
    /// The tenant, or another one, cancels.
    Cancel {
        tenant: usize,
        job: Back,
        key: u8,
    },
    /// A reaper, or an expirer, takes up one job, or looks for all.
    Reap {
        job: Back,
    },
    ReapAll,
    Expire {
        job: Back,
    },
    ExpireAll,

    LeaseRunsOut {
        job: Back,
    },
    DeadlinePasses {
        job: Back,
    },
    DelayPasses {
        job: Back,
    },
}

/// What is asked for: a request is another one when any of it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub price: i64,
    pub outputs: u32,
    pub later: bool,
}

/// What a worker knows of the lanes of the job's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    Open,
    Full,
    /// It does not know the model.
    Unknown,
}

/// A game: both tenants are given something, and then anything happens.
pub(crate) fn game() -> impl Strategy<Value = Vec<Move>> {
    let given = |tenant, source| Move::Grant {
        tenant,
        source,
        amount: 30,
        priority: 50,
        expires: None,
    };
    let phrase = prop_oneof![
        12 => a_move().prop_map(|a_move| vec![a_move]),
        1 => work(),
        1 => crashes(),
        1 => zombie(),
        1 => twice(),
    ];
    let moves = proptest::collection::vec(phrase, 1..50);
    moves.prop_map(move |phrases| {
        let given = vec![given(0, 100), given(1, 101)];
        [vec![given], phrases].concat().concat()
    })
}

/// What a worker does when nothing goes wrong, as far as it comes.
fn work() -> impl Strategy<Value = Vec<Move>> {
    (back(), 1..9_usize).prop_map(|(job, most)| {
        let claim = Move::Claim {
            job,
            lanes: Lanes::Open,
        };
        let buy = |output| {
            let (attempt, call, class) = (0, 0, Class::Ok);
            [Move::Begin { attempt, output }, Move::End { call, class }]
        };
        let deliver = Move::Deliver {
            attempt: 0,
            outputs: u8::MAX,
        };
        let mut moves = [vec![claim], (0..3).flat_map(buy).collect(), vec![deliver]].concat();
        moves.truncate(most);
        moves
    })
}

/// Workers that die with one and the same job.
fn crashes() -> impl Strategy<Value = Vec<Move>> {
    (back(), 1..4_usize).prop_map(|(job, times)| {
        let lanes = Lanes::Open;
        let crash = [
            Move::Claim { job, lanes },
            Move::LeaseRunsOut { job },
            Move::Reap { job },
        ];
        crash.repeat(times)
    })
}

/// A worker that was thought dead settles, while another one has its job.
fn zombie() -> impl Strategy<Value = Vec<Move>> {
    let attempt = 1;
    let settles = prop_oneof![
        Just(Move::Deliver {
            attempt,
            outputs: u8::MAX
        }),
        Just(Move::GiveUp {
            attempt,
            class: Class::Refused
        }),
        Just(Move::Retry {
            attempt,
            later: false
        }),
        Just(Move::PutBack {
            attempt,
            later: false
        }),
        Just(Move::Renew {
            attempt,
            and: attempt
        }),
        Just(Move::Begin { attempt, output: 0 }),
    ];
    (back(), settles).prop_map(|(job, settles)| {
        let lanes = Lanes::Open;
        vec![
            Move::Claim { job, lanes },
            Move::Begin {
                attempt: 0,
                output: 0,
            },
            Move::End {
                call: 0,
                class: Class::Ok,
            },
            Move::LeaseRunsOut { job },
            Move::Reap { job },
            Move::Claim { job, lanes },
            settles,
        ]
    })
}

/// A client that repeats its request, after something else has happened.
fn twice() -> impl Strategy<Value = Vec<Move>> {
    let request = prop_oneof![2 => submit(), 1 => cancel()];
    (request, a_move()).prop_map(|(request, between)| vec![request, between, request])
}

fn submit() -> impl Strategy<Value = Move> {
    let asked = (0..6_i64, 1..4_u32, weighted(0.1));
    let asked = asked.prop_map(|(price, outputs, later)| Asked {
        price,
        outputs,
        later,
    });
    (tenant(), key(), asked).prop_map(|(tenant, key, asked)| Move::Submit { tenant, key, asked })
}

fn cancel() -> impl Strategy<Value = Move> {
    (tenant(), back(), key()).prop_map(|(tenant, job, key)| Move::Cancel { tenant, job, key })
}

fn grant() -> impl Strategy<Value = Move> {
    let priority = prop_oneof![3 => Just(50), 1 => 40..60_i16];
    let expires = option::of(select(vec![60, 600, 10_000]));
    let grant = (tenant(), 0..12_u8, 1..40_i64, priority, expires);
    grant.prop_map(|(tenant, source, amount, priority, expires)| Move::Grant {
        tenant,
        source,
        amount,
        priority,
        expires,
    })
}

fn a_move() -> impl Strategy<Value = Move> {
    let lanes =
        prop_oneof![8 => Just(Lanes::Open), 1 => Just(Lanes::Full), 1 => Just(Lanes::Unknown)];
    let ended = select(vec![
        Class::Throttled,
        Class::Unreachable,
        Class::ProviderFault,
        Class::Refused,
        Class::Unknown,
    ]);
    let ended = prop_oneof![5 => Just(Class::Ok), 1 => ended];
    let failed = select(vec![Class::Refused, Class::ProviderFault, Class::Internal]);
    let outputs = prop_oneof![3 => Just(u8::MAX), 1 => any::<u8>()];
    prop_oneof![
        3 => grant(),
        1 => (tenant(), weighted(0.7)).prop_map(|(tenant, active)| Move::Restrict { tenant, active }),
        3 => back().prop_map(|lot| Move::LotExpires { lot }),
        10 => submit(),
        14 => (back(), lanes).prop_map(|(job, lanes)| Move::Claim { job, lanes }),
        3 => (back(), back()).prop_map(|(attempt, and)| Move::Renew { attempt, and }),
        16 => (back(), 0..4).prop_map(|(attempt, output)| Move::Begin { attempt, output }),
        2 => back().prop_map(|call| Move::Operate { call }),
        16 => (back(), ended).prop_map(|(call, class)| Move::End { call, class }),
        8 => (back(), outputs).prop_map(|(attempt, outputs)| Move::Deliver { attempt, outputs }),
        2 => (back(), failed).prop_map(|(attempt, class)| Move::GiveUp { attempt, class }),
        3 => (back(), any::<bool>()).prop_map(|(attempt, later)| Move::Retry { attempt, later }),
        3 => (back(), any::<bool>()).prop_map(|(attempt, later)| Move::PutBack { attempt, later }),
        4 => cancel(),
        4 => back().prop_map(|job| Move::Reap { job }),
        4 => Just(Move::ReapAll),
        1 => back().prop_map(|job| Move::Expire { job }),
        2 => Just(Move::ExpireAll),
        9 => back().prop_map(|job| Move::LeaseRunsOut { job }),
        2 => back().prop_map(|job| Move::DeadlinePasses { job }),
        2 => back().prop_map(|job| Move::DelayPasses { job }),
    ]
}

fn tenant() -> impl Strategy<Value = usize> {
    0..2_usize
}

/// Mostly the newest: moves that follow each other then mean the same job.
fn back() -> impl Strategy<Value = Back> {
    prop_oneof![4 => 0..2_u8, 1 => any::<u8>()]
}

/// Mostly one of a client that makes a new one each time.
fn key() -> impl Strategy<Value = u8> {
    prop_oneof![1 => 0..3_u8, 3 => any::<u8>()]
}
