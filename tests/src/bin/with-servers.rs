//! Starts private servers for the tests, runs a command, and stops the servers when the command has ended.
//!
//! `cargo run -p tests --bin with-servers -- cargo nextest run`
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;

use servers::Durability;
use tests::servers::OwnServers;
use tokio::process::Command;

fn main() -> ExitCode {
    servers::restart_without_postgres_variables();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    let _exporting = telemetry::start();
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().unwrap();
    let (servers, urls) = OwnServers::start(Durability::Reduced).await;
    let status = Command::new(program)
        .args(arguments)
        .envs(urls.env())
        .status()
        .await
        .unwrap();
    servers.stop().await;
    u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from)
}
