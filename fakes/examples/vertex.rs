//! The fake Vertex AI alone: prints its base URL and serves until its input ends.
//!
//! `cargo run -p fakes --example vertex -- 18600`

use fakes::vertex::{Options, Vertex};
use std::io;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the address is what it is run for")]
async fn main() -> anyhow::Result<()> {
    let port = match std::env::args().nth(1) {
        Some(port) => port.parse()?,
        None => 0,
    };
    let vertex = Vertex::start(Options {
        port,
        ..Options::default()
    })
    .await?;
    println!("{}", vertex.base_url());
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    vertex.stop().await;
    Ok(())
}
