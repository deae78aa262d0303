//! Fuzz targets: random input for what reads text or bytes of others. Each target is a file with one property.
//!
//! `make check` runs each target for two seconds, and `make fuzz TARGET=ids` one of them without end. An input for which the
//! property does not hold is made smaller and printed. Its seed is kept in `regressions/<target>` and tried first from then on.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]
#![expect(clippy::print_stdout, reason = "prints how many inputs were tried")]

mod catalogue;
mod edit;
mod extractor;
mod ids;
mod images;
mod mail_addresses;
mod tokens;
mod traceparent;
mod urls;

use std::cell::Cell;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{
    Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner,
};

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/regressions");
/// How long a target runs, in seconds, if `PLATEN_TEST_FUZZ_SECONDS` does not say it. 0 means without end.
const SECONDS: u64 = 2;
/// Inputs between two looks at the clock.
const BATCH: u32 = 32;

/// What the code under test did with an input.
#[derive(PartialEq, Eq)]
enum Verdict {
    Read,
    Refused,
}

/// Tries random inputs until the time is over or the property does not hold.
///
/// # Panics
/// The property does not hold, or all inputs had the same verdict: then they prove little.
fn fuzz<S: Strategy<Value: Debug>>(
    target: &str,
    inputs: &S,
    property: impl Fn(S::Value) -> Result<Verdict, TestCaseError>,
) {
    let seconds = std::env::var("PLATEN_TEST_FUZZ_SECONDS");
    let seconds = seconds.map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let path: &'static str = format!("{REGRESSIONS}/{target}").leak();
    let (began, read, refused) = (Instant::now(), Cell::new(0_u64), Cell::new(0_u64));
    let (mut reported, mut batches) = (began, 0);
    while seconds == 0 || began.elapsed() < Duration::from_secs(seconds) {
        batches += 1;
        // A runner counts its inputs over all of its runs, and tries none after the last. So each batch has its own.
        let mut runner = TestRunner::new(Config {
            cases: BATCH,
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(path))),
            rng_seed: RngSeed::Random,
            ..Config::default()
        });
        let result = runner.run(inputs, |input| {
            let count = match property(input)? {
                Verdict::Read => &read,
                Verdict::Refused => &refused,
            };
            count.set(count.get() + 1);
            Ok(())
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(why, input)) => panic!("{target}: {why}\n{input:#?}"),
            Err(TestError::Abort(why)) => panic!("{target}: {why}"),
        }
        if reported.elapsed() > Duration::from_secs(10) {
            reported = Instant::now();
            println!("{target}: {} read, {} refused", read.get(), refused.get());
        }
    }
    println!("{target}: {} read, {} refused", read.get(), refused.get());
    let tried = read.get() + refused.get();
    assert!(
        tried >= batches * u64::from(BATCH),
        "{target}: a batch was not tried"
    );
    assert!(read.get() > 0, "{target}: no input was read");
    assert!(refused.get() > 0, "{target}: no input was refused");
}
