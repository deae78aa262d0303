//! `make contract`: compares the running API with its own OpenAPI contract, by every check and every phase of
//! Schemathesis, with the key of a tenant and that of operators. Postgres, Redis and the fake vendors are its own. Exits
//! with 1 if the API breaks the contract or the books do not close.

use std::process::ExitCode;

use clap::Parser;
use servers::Durability;
use tests::proof::Proof;
use tests::{Options, Pipeline, contract};

#[derive(Parser)]
struct Arguments {
    /// At least this many requests.
    #[arg(long, default_value_t = 5_000)]
    requests: usize,
    /// The seed of the first round of requests; a random one if missing.
    #[arg(long)]
    seed: Option<u32>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut proof = Proof::default();
    let pipeline = Pipeline::start_alone(Durability::Reduced, Options::in_earnest()).await;
    let seed = arguments
        .seed
        .map(|seed| ["--seed".to_owned(), seed.to_string()]);
    let more: Vec<String> = seed.into_iter().flatten().collect();
    let status = contract::check(&pipeline, arguments.requests, &more).await;
    proof.check(status.success(), "the API keeps its contract");
    contract::tidy(&pipeline).await;
    proof.close(pipeline).await;
    proof.verdict()
}
