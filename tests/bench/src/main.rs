//! `make bench`: Platen beside what a team would build instead: `BullMQ`, sharp and Postgres. With `--base` beside an older
//! build of Platen.
//!
//! The contestants run in turn on private servers, with the same work and the same model, in the other order for each pair.
//! Prints one table of medians and ratios, and writes the figures of every run as JSON. Exits with 1 if a run fails.
#![expect(clippy::print_stdout, reason = "prints what it measured")]

mod contestant;
mod load;
mod model;
mod process;
mod rows;
mod scenario;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;

use crate::contestant::{Contestant, Kind};
use crate::model::Answers;
use crate::scenario::Scenario;
use crate::table::Table;

#[derive(Parser)]
struct Arguments {
    /// The program that is measured: of a release build, as it ships.
    #[arg(long)]
    program: PathBuf,
    /// An older build to measure beside, instead of the peer.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Measure Platen alone, so without ratios.
    #[arg(long)]
    alone: bool,
    /// The folder with the packages of the peer.
    #[arg(long)]
    peer: PathBuf,
    /// How often each scenario is measured with each contestant.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Only these scenarios.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Where the figures are written as JSON.
    #[arg(long)]
    json: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let ours = Contestant {
        name: "Platen".to_owned(),
        kind: Kind::Platen {
            program: arguments.program,
            is_older: false,
        },
    };
    let theirs = match arguments.base {
        Some(program) => Contestant {
            name: "base".to_owned(),
            kind: Kind::Platen {
                program,
                is_older: true,
            },
        },
        None => Contestant {
            name: "BullMQ + sharp".to_owned(),
            kind: Kind::Peer {
                modules: arguments.peer.clone(),
            },
        },
    };
    let scenarios = if arguments.only.is_empty() {
        Scenario::all().to_vec()
    } else {
        arguments.only
    };
    let answers = Arc::new(Answers::draw()?);
    let mut table = Table::new([ours.name.clone(), theirs.name.clone()]);
    println!("{}", table::heading(&arguments.peer));
    // Nothing is deleted before the end. Ext4 does not use an inode again for minutes after it was deleted, and passes over each
    // of them whenever a file is made. So whoever is measured next would pay for the files of those who were measured before.
    let mut folders = Vec::new();
    for pair in 1..=arguments.pairs {
        for &scenario in &scenarios {
            let is_in_flight = matches!(scenario, Scenario::InFlight);
            // It takes as long as all others together, and its figures hardly differ from run to run.
            if is_in_flight && pair > 1 {
                continue;
            }
            // In the other order for each pair, because a machine can become slower or faster while it is measured.
            for side in [pair % 2, 1 - pair % 2] {
                // Its goals are figures of Platen alone, and the peer's worker does not survive it.
                if side == 1 && (arguments.alone || is_in_flight) {
                    continue;
                }
                let contestant = [&ours, &theirs][side];
                let (figures, folder) = Box::pin(scenario.run(contestant, &answers)).await?;
                folders.push(folder);
                table.add(pair, side, &figures);
                let figures: Vec<String> = figures
                    .iter()
                    .map(|(row, value)| format!("{row:?} {value:.2}"))
                    .collect();
                println!(
                    "pair {pair}, {scenario:?}, {}: {}",
                    contestant.name,
                    figures.join(", ")
                );
            }
        }
    }
    table.print();
    std::fs::write(&arguments.json, serde_json::to_vec_pretty(&table.json())?)?;
    println!("figures of every run: {}", arguments.json.display());
    Ok(())
}
