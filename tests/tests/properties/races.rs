//! The same moves, several at once: what they are told and what they leave behind must be as if one had come after the
//! other, in whatever order. So exactly one ends a job, and nobody's credits depend on who was quicker.
//!
//! `make races` has ten thousand of them.

use std::time::Duration;

use common::dispatch::{self, SearchMarks};
use domain::job::{Capacity, ModelCapacity, State};
use domain::outcome::Class;
use futures::future::join_all;
use queue::ReadyQueue;
use rand::RngExt;
use rand::seq::SliceRandom;
use tests::servers::TestServers;
use tokio::task::JoinSet;

use crate::model::{Model, Said};
use crate::moves::{Asked, Lanes, Move};
use crate::real::{Database, Real};

const RACES: usize = 1_000;
const AT_ONCE: usize = 4;
/// Races of one tenant, one after the other.
const A_TENANTS: usize = 25;
/// What each is late by, at most.
const START: Duration = Duration::from_millis(2);
/// The longest races: all orders of them are tried.
const RACERS: usize = 4;
/// Jobs of a round that three of each want at once.
const MIXED_JOBS: u8 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn moves_that_race_come_one_after_the_other() {
    let races = std::env::var("PLATEN_TEST_RACES").map_or(RACES, |races| races.parse().unwrap());
    let servers = TestServers::get().await;
    let name = servers.create_database().await;
    let tenants = races.div_ceil(A_TENANTS);
    let mut lanes = JoinSet::new();
    for lane in 0..AT_ONCE {
        let (servers, name) = (servers.clone(), name.clone());
        lanes.spawn(async move {
            let connections = u32::try_from(RACERS).unwrap();
            let database = Database::connect(&servers, &name, connections).await;
            for _ in (lane..tenants).step_by(AT_ONCE) {
                races_of_one_tenant(&database).await;
            }
            database.close().await;
        });
    }
    lanes.join_all().await;
    closed(&servers, &name).await;
}

async fn races_of_one_tenant(database: &Database) {
    let mut model = Model::new(1);
    let mut real = Real::new(database, 1).await;
    let given = Move::Grant {
        tenant: 0,
        source: 0,
        amount: 10_000,
        priority: 50,
        expires: None,
    };
    both(given, &mut model, &mut real).await;
    for number in 0..A_TENANTS {
        let number = u8::try_from(number).unwrap();
        for a_move in before_the_race(number) {
            both(a_move, &mut model, &mut real).await;
        }
        let racers = racers(number, &model);
        let told = join_all(racers.iter().map(|&racer| {
            let (real, model) = (&real, &model);
            let late = START.mul_f64(rand::rng().random_range(0.0..1.0));
            async move {
                tokio::time::sleep(late).await;
                real.race(racer, model).await
            }
        }));
        let told = told.await;
        let books = real.books().await;
        let serial = orders(racers.len()).into_iter().find_map(|order| {
            let mut model = model.clone();
            let as_told = order.iter().all(|&at| model.make(racers[at]) == told[at]);
            (as_told && model.books == books).then_some(model)
        });
        let race: Vec<_> = racers.iter().zip(&told).collect();
        model = serial.unwrap_or_else(|| panic!("no order of {race:#?} leads to {books:#?}"));
        let ended = told.iter().filter(|said| matches!(said, Said::Ended(_)));
        // A job that is canceled is answered so, however often.
        let canceled = usize::from(told.contains(&Said::Canceled));
        assert!(ended.count() + canceled <= 1, "{race:#?}");
        both(Move::DeadlinePasses { job: 0 }, &mut model, &mut real).await;
        both(Move::Expire { job: 0 }, &mut model, &mut real).await;
    }
}

/// A job that runs: one image is bought, the other is being made. Its lease or its deadline may be over.
fn before_the_race(number: u8) -> Vec<Move> {
    let mut rng = rand::rng();
    let asked = Asked {
        price: 3,
        outputs: 2,
        later: false,
    };
    let mut moves = vec![
        Move::Submit {
            tenant: 0,
            key: number,
            asked,
        },
        Move::Claim {
            job: 0,
            lanes: Lanes::Open,
        },
        Move::Begin {
            attempt: 0,
            output: 0,
        },
        Move::End {
            call: 0,
            class: Class::Ok,
        },
        Move::Begin {
            attempt: 0,
            output: 1,
        },
    ];
    if rng.random_bool(0.5) {
        moves.push(Move::LeaseRunsOut { job: 0 });
    }
    if rng.random_bool(0.5) {
        moves.push(Move::DeadlinePasses { job: 0 });
    }
    moves
}

/// The tenant cancels while the worker delivers, in half of the races among others.
fn racers(number: u8, model: &Model) -> Vec<Move> {
    let mut rng = rand::rng();
    let (attempt, job, call) = (0, 0, 0);
    let cancel = |key| Move::Cancel {
        tenant: 0,
        job,
        key,
    };
    let deliver = Move::Deliver {
        attempt,
        outputs: u8::MAX,
    };
    let class = Class::Throttled;
    let mut others = vec![
        deliver,
        cancel(200 + number),
        Move::Reap { job },
        Move::Reap { job },
        Move::GiveUp { attempt, class },
        Move::Retry {
            attempt,
            later: true,
        },
        Move::PutBack {
            attempt,
            later: false,
        },
        Move::Renew {
            attempt,
            and: attempt,
        },
        Move::End { call, class },
    ];
    if model.books.jobs.last().is_some_and(|job| job.late) {
        others.extend([Move::Expire { job }, Move::Expire { job }]);
    }
    others.shuffle(&mut rng);
    let mut racers = vec![cancel(100 + number), deliver];
    if rng.random_bool(0.5) {
        racers.extend(others.into_iter().take(rng.random_range(1..=RACERS - 2)));
    }
    racers.shuffle(&mut rng);
    racers
}

/// All orders of so many.
fn orders(of: usize) -> Vec<Vec<usize>> {
    let Some(last) = of.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let insert = |order: Vec<usize>| {
        (0..of).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    orders(last).into_iter().flat_map(insert).collect()
}

/// Some wait, some were left by their workers, of some the deadline has passed, of some both is true.
async fn submit_jobs_of_every_fate(model: &mut Model, real: &mut Real<'_>) {
    let asked = Asked {
        price: 1,
        outputs: 1,
        later: false,
    };
    for key in 0..MIXED_JOBS {
        both(
            Move::Submit {
                tenant: 0,
                key,
                asked,
            },
            model,
            real,
        )
        .await;
        let lanes = Lanes::Open;
        let (job, fate) = (0, key % 4);
        if fate > 0 {
            both(Move::Claim { job, lanes }, model, real).await;
        }
        if fate & 1 == 1 {
            both(Move::LeaseRunsOut { job }, model, real).await;
        }
        if fate & 2 == 2 {
            both(Move::DeadlinePasses { job }, model, real).await;
        }
    }
}

/// Three reapers, three expirers, three dispatchers and three workers who want the same jobs, always: nothing is done
/// more than once.
#[tokio::test(flavor = "multi_thread")]
async fn three_of_each_do_what_one_would_do() {
    let servers = TestServers::get().await;
    let name = servers.create_database().await;
    let database = Database::connect(&servers, &name, 8).await;
    for round in 0..6 {
        let mut model = Model::new(1);
        let mut real = Real::new(&database, 1).await;
        let amount = 1_000;
        let given = Move::Grant {
            tenant: 0,
            source: 0,
            amount,
            priority: 50,
            expires: None,
        };
        both(given, &mut model, &mut real).await;
        submit_jobs_of_every_fate(&mut model, &mut real).await;
        let waiting = model.due();
        let queues: Vec<ReadyQueue> = (0..3)
            .map(|_| {
                ReadyQueue::new(servers.redis_url.as_str(), &format!("{name}-{round}")).unwrap()
            })
            .collect();
        let open = Capacity::new([ModelCapacity {
            model: real.model().to_owned(),
            jobs_on_all_lanes: 100,
            jobs_on_first_lane: 100,
        }]);
        let dispatchers = queues.iter().enumerate().map(|(number, queue)| {
            let (worker, open) = (format!("worker-{number}"), &open);
            let pool = database.worker();
            async move {
                dispatch::fill(pool, queue, &worker, 100, open, &SearchMarks::default())
                    .await
                    .unwrap()
            }
        });
        // Of those that wait, each is wanted by three workers.
        let last = model.books.jobs.len() - 1;
        let claims = waiting.iter().map(|&job| Move::Claim {
            job: u8::try_from(last - job).unwrap(),
            lanes: Lanes::Open,
        });
        let claims: Vec<Move> = claims.collect();
        let thrice = |a_move: Move| [a_move; 3];
        let mut moves: Vec<Move> = claims.iter().copied().flat_map(thrice).collect();
        moves.extend(
            [Move::ReapAll, Move::ExpireAll]
                .into_iter()
                .flat_map(thrice),
        );
        moves.shuffle(&mut rand::rng());
        let racing = join_all(moves.iter().map(|&a_move| real.race(a_move, &model)));
        let (told, rung) = tokio::join!(racing, join_all(dispatchers));
        assert!(
            rung.iter().sum::<usize>() <= usize::from(MIXED_JOBS),
            "{rung:?}"
        );

        let told = moves.iter().zip(&told);
        let claimed = told
            .clone()
            .filter(|(_, said)| matches!(said, Said::Claimed { .. }));
        assert_eq!(
            claimed.count(),
            waiting.len(),
            "each job that waits is claimed once"
        );
        let found = told.filter_map(|(_, said)| match said {
            Said::Found(found) => Some(found),
            _ => None,
        });
        let found: Vec<&(usize, Said)> = found.flatten().collect();
        let times = |job: usize, what: fn(&Said) -> bool| {
            found
                .iter()
                .filter(|(of, said)| *of == job && what(said))
                .count()
        };
        let books = real.books().await;
        for (job, row) in model.books.jobs.iter().enumerate() {
            let ended = times(job, |said| matches!(said, Said::Ended(_)));
            let requeued = times(job, |said| *said == Said::Requeued);
            let after = &books.jobs[job];
            assert_eq!(
                ended,
                usize::from(row.late),
                "job {job} ends once: {after:?}"
            );
            assert!(requeued <= 1, "job {job} is reaped once: {after:?}");
            assert_eq!(
                usize::try_from(after.crashes).unwrap(),
                requeued,
                "{after:?}"
            );
            let state = if row.late {
                State::Expired
            } else if row.leased == Some(false) {
                State::Queued
            } else {
                State::Running
            };
            assert_eq!(after.state, state, "job {job}: {after:?}");
        }
        let over = format!(
            "UPDATE jobs SET deadline = clock_timestamp() - interval '1 second' WHERE model = '{}'",
            real.model()
        );
        real.as_owner(&over).await;
        real.race(Move::ExpireAll, &model).await;
    }
    database.close().await;
    closed(&servers, &name).await;
}

/// Nothing is open, nothing is wrong.
async fn closed(servers: &TestServers, name: &str) {
    let database = Database::connect(servers, name, 1).await;
    let open = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE finished_at IS NULL");
    let open: i64 = open.fetch_one(&database.reader).await.unwrap();
    assert_eq!(open, 0, "jobs are open");
    let findings = common::verify::verify(&database.reader).await.unwrap();
    assert!(findings.is_empty(), "the books do not close: {findings:#?}");
    database.close().await;
    servers.drop_database(name).await;
}

async fn both(a_move: Move, model: &mut Model, real: &mut Real<'_>) {
    let before = model.clone();
    let expected = model.make(a_move);
    let said = real.make(a_move, &before).await;
    assert_eq!(said, expected, "{a_move:?}");
}
