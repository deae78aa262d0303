//! The `platen` program: parses the command line, sets up logging and TLS, and runs the command.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use cli::commands::Command;
use cli::say::OutputError;
use cli::shutdown;
use common::config::Config;
use nix::sys::stat::{Mode, umask};
use tikv_jemallocator::Jemalloc;

/// Keeps freed memory for a moment, because the next image needs as much, and returns it to the system
/// by a thread of its own. `.cargo/config.toml` has its settings (`docs/decisions/0039`). The C libraries
/// use it, too.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The exit code of a process that SIGPIPE has ended, as a shell reports it.
const SIGPIPE_EXIT_CODE: u8 = 128 + 13;

/// The backend of an AI content studio: it takes jobs, delivers images, and accounts for every credit.
#[derive(Parser)]
#[command(name = "platen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    if command.may_start_postgres(names_data_folder(&matches)) {
        servers::restart_without_postgres_variables();
    }
    if command.is_server() {
        // Only the owner of the process may read the files that it writes, above all customers' images.
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
    }
    match shutdown::run_to_end(start(command)) {
        Ok(code) => code,
        Err(error) => fail_unlogged(&format_args!("the program cannot start: {error}")),
    }
}

/// Sets up logging and TLS, and runs the command. Errors are logged, or printed if the log does not show them.
/// Whether the arguments of the command name a data folder.
fn names_data_folder(mut matches: &ArgMatches) -> bool {
    while let Some((_, of_command)) = matches.subcommand() {
        matches = of_command;
    }
    matches.try_contains_id("data").unwrap_or(false)
        && matches.value_source("data") == Some(ValueSource::CommandLine)
}

async fn start(command: Command) -> ExitCode {
    // The value is dropped at the end, which sends the last traces.
    let _telemetry = match telemetry::start() {
        Ok(telemetry) => telemetry,
        Err(error) => return fail_unlogged(&error),
    };
    // This must happen before the first TLS connection, because all libraries share this crypto provider.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("A crypto provider is installed already");
    }
    let run = async { command.run(Config::from_env()?).await };
    match run.await {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<OutputError>() {
            // The exit code is the same as if SIGPIPE had ended the process. Rust ignores that signal, so the write failed instead.
            Some(output) if output.is_closed() => ExitCode::from(SIGPIPE_EXIT_CODE),
            _ if tracing::enabled!(tracing::Level::ERROR) => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
            _ => fail_unlogged(&format_args!("{error:#}")),
        },
    }
}

/// Prints an error to standard error. Used if the log is not set up yet, or if its level hides errors.
fn fail_unlogged(error: &dyn Display) -> ExitCode {
    // If standard error is closed, there is no other place to report the error.
    let _result = writeln!(std::io::stderr(), "platen: {error}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_data_folder_is_found_in_any_command() {
        let names = |arguments: &str| {
            let arguments = arguments.split(' ');
            let matches = Cli::command().try_get_matches_from(arguments);
            matches.map(|matches| names_data_folder(&matches)).ok()
        };
        for (arguments, expected) in [
            ("platen verify --data d", true),
            ("platen tenant add --data d studio", true),
            ("platen tenant add studio", false),
            ("platen up", false),
            ("platen migrate", false),
        ] {
            assert_eq!(names(arguments), Some(expected), "{arguments}");
        }
    }
}
