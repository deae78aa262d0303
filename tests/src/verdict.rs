//! How a long proof ends.

use std::process::ExitCode;

/// Prints what was violated, and makes the exit code of it.
pub fn verdict(violations: &[String]) -> ExitCode {
    for violation in violations {
        println!("  VIOLATION {violation}");
    }
    println!("violations: {}", violations.len());
    if violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
