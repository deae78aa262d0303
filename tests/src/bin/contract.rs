//! `make contract`: the API held against its own contract, with a tenant's and the operators' key, on a Postgres and a Redis of its
//! own and the fake. Every check of Schemathesis, every phase; then the books must close.

use std::process::ExitCode;

use clap::Parser;
use servers::Tuning;
use tests::servers::TestServers;
use tests::{Options, Pipeline, contract};

#[derive(Parser)]
struct Words {
    /// Requests to make, at least.
    #[arg(long, default_value_t = 5_000)]
    requests: usize,
    /// Where the first round of requests begins; chosen when missing.
    #[arg(long)]
    seed: Option<u32>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let words = Words::parse();
    let (_folder, servers, named) = TestServers::own(Tuning::Test).await;
    let pipeline = Pipeline::start_on(named, Options::in_earnest()).await;
    let seed = words
        .seed
        .map(|seed| ["--seed".to_owned(), seed.to_string()]);
    let more: Vec<String> = seed.into_iter().flatten().collect();
    let status = contract::check(&pipeline, words.requests, &more).await;
    contract::tidy(&pipeline).await;
    pipeline.close().await;
    servers.stop().await;
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
