//! Games against the books: sequences of moves drawn at random are made on a real Postgres, by the functions that the
//! product uses, and on a model of the credit protocol. After every move both must have said the same and must stand
//! at the same wallets, lots, jobs, calls and ledger lines; at the end every credit has one place.
//!
//! A game that differs is shrunk to a few moves, printed, and kept in `regressions`, where it is played first from
//! then on. `make properties CASES=0` plays until one differs.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]
#![expect(clippy::print_stdout, reason = "prints how far it is")]

mod books;
mod lanes;
mod model;
mod moves;
mod races;
mod real;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use proptest::test_runner::{
    Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner,
};
use tests::servers::TestServers;

use books::Books;
use model::{Model, Said};
use moves::Move;
use real::{Database, Real};

const GAMES: u32 = 2_000;
const AT_ONCE: u32 = 4;
/// Between two looks at the books by `platen verify`, which reads all of them.
const ROUND: u32 = 125;
const TENANTS: usize = 2;
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/properties/regressions");

/// What must have been said in a run, or the games were too tame to prove anything.
const MUST: &[&str] = &[
    "Begin: Was(false)",
    "Begin: Was(true)",
    "Cancel: Already(Failed)",
    "Cancel: Already(Succeeded)",
    "Cancel: Canceled",
    "Cancel: KeyReused",
    "Cancel: Nothing",
    "Cancel: Repeated",
    "Claim: Claimed",
    "Claim: Nothing",
    "Deliver: Already(Canceled)",
    "Deliver: Already(Failed)",
    "Deliver: Already(Succeeded)",
    "Deliver: Ended(Failed)",
    "Deliver: Ended(Partial)",
    "Deliver: Ended(Succeeded)",
    "Deliver: Fenced",
    "End: Was(false)",
    "End: Was(true)",
    "Expire: Already(Succeeded)",
    "Expire: Ended(Expired)",
    "ExpireAll: Found some",
    "GiveUp: Already(Failed)",
    "GiveUp: Ended(Failed)",
    "GiveUp: Fenced",
    "Grant: Was(false)",
    "Grant: Was(true)",
    "Operate: Was(false)",
    "Operate: Was(true)",
    "PutBack: Already(Failed)",
    "PutBack: Fenced",
    "PutBack: Requeued",
    "Reap: Ended(Failed)",
    "Reap: Nothing",
    "Reap: Requeued",
    "ReapAll: Found some",
    "Renew: Renewed 0",
    "Renew: Renewed 1",
    "Retry: Already(Failed)",
    "Retry: Fenced",
    "Retry: Requeued",
    "Submit: Admitted",
    "Submit: Inactive",
    "Submit: Insufficient",
    "Submit: KeyReused",
    "Submit: Repeated",
];

/// How often each thing was said to each move.
type Seen = Mutex<BTreeMap<String, u32>>;

#[test]
fn the_books_follow_the_protocol() {
    let games = std::env::var("PLATEN_TEST_CASES").map_or(GAMES, |games| games.parse().unwrap());
    let games = if games == 0 { u32::MAX } else { games };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = runtime.block_on(TestServers::get());
    let name = runtime.block_on(servers.create_database());

    let (seen, played, over) = (Seen::default(), AtomicU32::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let said: Vec<String> = std::thread::scope(|scope| {
        let player = || {
            let said = play_rounds(&servers, &name, games / AT_ONCE, &seen, &over, |more| {
                let played = played.fetch_add(more, Ordering::Relaxed) + more;
                println!("{played} games in {:.0} s", began.elapsed().as_secs_f64());
            });
            over.fetch_or(said.is_err(), Ordering::Relaxed);
            said.err()
        };
        let players: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(player)).collect();
        let ended = players.into_iter().map(|player| player.join().unwrap());
        ended.flatten().collect()
    });
    assert!(said.is_empty(), "{}", said.join("\n\n"));

    let seen = seen.into_inner().unwrap();
    println!("{seen:#?}");
    let never = MUST.iter().filter(|said| !seen.contains_key(**said));
    let never: Vec<&&str> = never.collect();
    assert!(games < GAMES || never.is_empty(), "never said: {never:?}");
    runtime.block_on(servers.drop_database(&name));
}

/// Plays one game after the other, and has the books verified after each round.
fn play_rounds(
    servers: &TestServers,
    name: &str,
    games: u32,
    seen: &Seen,
    over: &AtomicBool,
    tell: impl Fn(u32),
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let database = runtime.block_on(Database::connect(servers, name, 1));
    let mut left = games;
    while left > 0 && !over.load(Ordering::Relaxed) {
        let round = left.min(ROUND);
        let mut runner = TestRunner::new(Config {
            cases: round,
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
            max_shrink_iters: 2_000,
            rng_seed: RngSeed::Random,
            ..Config::default()
        });
        // Once it has found one that differs, this player goes on, and shrinks it.
        let found = Cell::new(false);
        let differs = runner.run(&moves::game(), |moves| {
            if over.load(Ordering::Relaxed) && !found.get() {
                return Ok(());
            }
            let before = found.replace(true);
            let played = runtime.block_on(play(&database, &moves, seen));
            found.set(before || played.is_err());
            played.map_err(TestCaseError::fail)
        });
        differs.map_err(report)?;
        let findings = runtime
            .block_on(common::verify::verify(&database.reader))
            .unwrap();
        if !findings.is_empty() {
            return Err(format!("the books do not close: {findings:#?}"));
        }
        left -= round;
        tell(round);
    }
    runtime.block_on(database.close());
    Ok(())
}

/// Why a game differs, and its moves, one on each line.
fn report(differs: TestError<Vec<Move>>) -> String {
    match differs {
        TestError::Abort(why) => why.to_string(),
        TestError::Fail(why, moves) => {
            let moves = moves.iter().map(|a_move| format!("  {a_move:?}\n"));
            format!("{why}\n{}", moves.collect::<String>())
        }
    }
}

/// Makes the moves, and at the end lets every deadline pass: then nothing is open, and nothing is held.
async fn play(database: &Database, moves: &[Move], seen: &Seen) -> Result<(), String> {
    let mut model = Model::new(TENANTS);
    let mut real = Real::new(database, TENANTS).await;
    for (number, &a_move) in moves.iter().enumerate() {
        make(a_move, &mut model, &mut real, seen)
            .await
            .map_err(|differs| format!("move {number}, {a_move:?}: {differs}"))?;
    }
    let due = real.due().await;
    if due != model.due() {
        return Err(format!(
            "{due:?} are due, the protocol says {:?}",
            model.due()
        ));
    }
    let jobs = model.books.jobs.iter().rev();
    let open = (0..).zip(jobs).filter(|(_, job)| !job.state.is_terminal());
    let deadlines: Vec<Move> = open.map(|(job, _)| Move::DeadlinePasses { job }).collect();
    for a_move in deadlines.into_iter().chain([Move::ExpireAll]) {
        make(a_move, &mut model, &mut real, seen)
            .await
            .map_err(|differs| format!("at the end, {a_move:?}: {differs}"))?;
    }
    let open = model.books.jobs.iter().any(|job| !job.state.is_terminal());
    let held: i64 = model.books.wallets.iter().map(|wallet| wallet.held).sum();
    if open || held != 0 || model.imbalance() != 0 {
        return Err(format!(
            "the model's own books do not close: {:#?}",
            model.books
        ));
    }
    Ok(())
}

async fn make(
    a_move: Move,
    model: &mut Model,
    real: &mut Real<'_>,
    seen: &Seen,
) -> Result<(), String> {
    let before = model.clone();
    let expected = model.make(a_move);
    let said = real.make(a_move, &before).await;
    if said != expected {
        return Err(format!("was told {said:?}, the protocol says {expected:?}"));
    }
    if said == Said::Passed {
        return Ok(());
    }
    real.set_second_lives(&before.books, &model.books).await;
    let differ = differences(&real.books().await, &model.books);
    if !differ.is_empty() {
        return Err(format!("was told {said:?}, and {}", differ.join("; ")));
    }
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    *seen.entry(heard(a_move, &said)).or_default() += 1;
    Ok(())
}

/// A move and its answer, without what differs from game to game.
fn heard(a_move: Move, said: &Said) -> String {
    let said = match said {
        Said::Claimed { .. } => "Claimed".to_owned(),
        Said::Repeated(_) => "Repeated".to_owned(),
        Said::Renewed(jobs) => format!("Renewed {}", jobs.len()),
        Said::Found(jobs) => format!("Found {}", if jobs.is_empty() { "none" } else { "some" }),
        said => format!("{said:?}"),
    };
    let a_move = format!("{a_move:?}");
    let word = a_move.split([' ', '{']).next().unwrap_or_default();
    format!("{word}: {said}")
}

fn differences(real: &Books, model: &Books) -> Vec<String> {
    let lists = [
        differing("wallet", &real.wallets, &model.wallets),
        differing("lot", &real.lots, &model.lots),
        differing("job", &real.jobs, &model.jobs),
        differing("call", &real.calls, &model.calls),
        differing("picture", &real.pictures, &model.pictures),
        differing("ledger", &real.ledgers, &model.ledgers),
    ];
    lists.into_iter().flatten().collect()
}

fn differing<T: Debug + PartialEq>(what: &str, real: &[T], model: &[T]) -> Vec<String> {
    let places = 0..real.len().max(model.len());
    let differ = places.filter(|&place| real.get(place) != model.get(place));
    let differ = differ.map(|place| {
        let (real, model) = (real.get(place), model.get(place));
        format!("{what} {place} is {real:?}, the protocol says {model:?}")
    });
    differ.collect()
}
