//! `make attack`: every case of [`tests::attack`], a line each; exits with 1 when one does not hold.
#![expect(clippy::print_stdout, reason = "prints what it tried")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::attack::stage::Stage;
use tests::attack::{Case, connection, files, request, tenant, tested};
use tests::verdict;

#[derive(Parser)]
struct Words {
    /// Only cases whose row begins so: `A.1`, `B`, `D`.
    #[arg(long, default_value = "")]
    only: String,
    /// Without the cases that have a test in the suite: where the suite has just passed.
    #[arg(long)]
    short: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words { only, short } = Words::parse();
    // The attackers hold more connections than those they attack may have files.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();

    let mut violations = Vec::new();
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
            Ok(measured) => println!("held    {line}: {measured}"),
            Err(error) => {
                println!("FAILED  {line}: {error:#}");
                violations.push(line);
                // What it left open is no other case's concern.
                stage.cancel_open_jobs().await.unwrap();
            }
        }
    }
    stage.close().await;
    if only.is_empty() && !short {
        for ((row, says, _), passed) in tested::CASES.iter().zip(tested::run().await.unwrap()) {
            let line = format!("{row:<4} {says}");
            if passed {
                println!("held    {line}: its test passes");
            } else {
                println!("FAILED  {line}: its test does not pass");
                violations.push(line);
            }
        }
    }
    verdict(&violations)
}
