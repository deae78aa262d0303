//! Runs the fake vendors alone. Prints their base URL, and serves until its standard input ends.
//!
//! `cargo run -p fakes --example fake -- 18600`

use fakes::{Fake, Options};
use std::io;

#[tokio::main]
#[expect(
    clippy::print_stdout,
    reason = "prints the address, as the caller expects"
)]
async fn main() -> anyhow::Result<()> {
    let port = match std::env::args().nth(1) {
        Some(port) => port.parse()?,
        None => 0,
    };
    let fake = Fake::start(Options {
        port,
        ..Options::default()
    })
    .await?;
    println!("{}", fake.base_url());
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    fake.stop().await;
    Ok(())
}
