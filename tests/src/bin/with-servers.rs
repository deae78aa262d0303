//! Runs a command with private servers for the tests, and stops them when it has ended.
//!
//! `cargo run -p tests --bin with-servers -- cargo nextest run`
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;

use servers::Tuning;
use tests::servers::TestServers;
use tokio::process::Command;

fn main() -> ExitCode {
    servers::restart_without_postgres_variables();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    let _exporting = common::telemetry::start();
    let mut words = std::env::args().skip(1);
    let program = words.next().unwrap();
    let (_folder, servers, named) = TestServers::own(Tuning::Test).await;
    let status = Command::new(program)
        .args(words)
        .envs(named.env())
        .status()
        .await
        .unwrap();
    servers.stop().await;
    u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from)
}
