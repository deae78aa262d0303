//! `make structure`: how long functions and files are, and which files import each other in a circle. `make draw`: functions
//! drawn at random, to read them.
#![expect(clippy::print_stdout, reason = "prints what it measured")]

use clap::{Parser, Subcommand};
use sha2::{Digest, Sha256};
use tests::structure::{Workspace, circles, current_commit};

/// Shorter functions are not drawn: there is little to read in them.
const MIN_DRAWN_LINES: usize = 8;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    word: Word,
}

#[derive(Subcommand)]
enum Word {
    /// Prints the median and the 99th percentile of the lengths of functions, and the ten longest functions and files. Leaves
    /// out tests.
    Lengths,
    /// Prints the files of each crate that import each other, directly or through others.
    Circles,
    /// Draws functions at random and prints their whole text.
    Draw {
        #[arg(long, default_value_t = 10)]
        count: usize,
        /// The same seed draws the same functions of the same code. Default: the hash of the current commit.
        #[arg(long)]
        seed: Option<String>,
    },
}

fn main() -> anyhow::Result<()> {
    let word = Arguments::parse().word;
    let workspace = Workspace::read()?;
    match word {
        Word::Lengths => print_lengths(&workspace),
        Word::Circles => print_circles(&workspace),
        Word::Draw { count, seed } => {
            let seed = seed.map_or_else(current_commit, Ok)?;
            print_drawn(&workspace, count, &seed);
        }
    }
    Ok(())
}

fn print_lengths(workspace: &Workspace) {
    let functions = workspace.shipped_functions();
    println!(
        "{} functions outside tests. Lines: p50 {}, p99 {}. The longest:",
        functions.len(),
        workspace.length_of_functions(50),
        workspace.length_of_functions(99),
    );
    for (file, function) in functions.iter().rev().take(10) {
        let length = function.length();
        println!(
            "{length:6}  {}:{} {}",
            file.path, function.line, function.name
        );
    }
    let files = workspace.shipped_files();
    println!("{} files outside tests. The longest:", files.len());
    for file in files.iter().take(10) {
        println!("{:6}  {}", file.length(), file.path);
    }
}

fn print_circles(workspace: &Workspace) {
    for krate in &workspace.crates {
        let circles = circles::of(krate);
        println!(
            "{}: {} files, {} imports, {} circles",
            krate.root,
            krate.files.len(),
            krate.edges.len(),
            circles.len()
        );
        for circle in circles {
            println!("  a circle:");
            for edge in circle.edges {
                println!("    {}", krate.show(edge));
            }
        }
    }
}

fn print_drawn(workspace: &Workspace, count: usize, seed: &str) {
    let mut functions = workspace.shipped_functions();
    functions.retain(|(_, function)| function.length() >= MIN_DRAWN_LINES);
    functions.sort_by_cached_key(|(file, function)| {
        Sha256::digest(format!("{seed} {}:{}", file.path, function.line))
    });
    let all = functions.len();
    println!("Seed {seed}: {count} of {all} functions of {MIN_DRAWN_LINES} lines or more.");
    for (file, function) in functions.into_iter().take(count) {
        println!("\n{}:{} {}", file.path, function.line, function.name);
        println!("{}", file.text_of(function));
    }
}
