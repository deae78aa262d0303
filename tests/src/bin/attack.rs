//! `make attack`: tries every case of [`tests::attack`] and prints a line for each. Exits with 1 if one does not hold.
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::attack::stage::Stage;
use tests::attack::{Case, connection, files, request, tenant, tested};
use tests::proof::Proof;

#[derive(Parser)]
struct Arguments {
    /// Only cases whose row begins like this: `A.1`, `B`, `D`.
    #[arg(long, default_value = "")]
    only: String,
    /// Leave out the cases that are tests of the suite, if the suite has just passed.
    #[arg(long)]
    short: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { only, short } = Arguments::parse();
    // The attackers open more connections than the attacked processes may open files.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();

    let mut proof = Proof::default();
    let cases = [
        files::CASES,
        request::CASES,
        connection::CASES,
        tenant::CASES,
    ];
    let chosen: Vec<&Case> = cases
        .into_iter()
        .flatten()
        .filter(|case| case.row.starts_with(&only))
        .collect();
    let stage = Stage::start().await.unwrap();
    for case in chosen {
        let outcome = (case.attack)(&stage).await;
        let line = format!("{:<4} {}", case.row, case.says);
        match outcome {
            Ok(measured) => proof.check(true, format!("{line}: {measured}")),
            Err(error) => {
                proof.check(false, format!("{line}: {error:#}"));
                // Jobs that it left open would disturb the next case.
                stage.cancel_open_jobs().await.unwrap();
            }
        }
    }
    stage.close(&mut proof).await;
    if only.is_empty() && !short {
        for ((row, says, test), passed) in tested::CASES.iter().zip(tested::run().await.unwrap()) {
            proof.check(passed, format!("{row:<4} {says}: the test {test}"));
        }
    }
    proof.verdict()
}
