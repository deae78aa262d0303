//! Writes the answer of a command to standard output. `println!` would panic if the reader has gone or the disk is full.

use std::fmt;
use std::io::{self, Write};

/// The answer could not be written.
#[derive(Debug)]
pub struct OutputError(io::Error);

impl OutputError {
    /// Whether the reader has closed the pipe, as `head` does when it has seen enough. That is not a failure.
    pub fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer cannot be written to standard output")
    }
}

impl std::error::Error for OutputError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Writes one line. Call it as [`crate::say!`].
///
/// # Errors
///
/// Standard output is closed, or its disk is full.
pub fn line(text: fmt::Arguments<'_>) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(OutputError)
}

/// Writes a line to standard output, as `println!` does, but returns an [`OutputError`](crate::say::OutputError) if that
/// fails.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::say::line(format_args!($($text)*))
    };
}
