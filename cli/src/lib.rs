//! The `platen` program, as a library, so that tests can run its parts.
//!
//! `main.rs` parses the command line and runs one of the [`commands`]. The other modules are shared by several commands.

pub mod actor;
pub mod arguments;
pub mod commands;
pub mod database;
pub mod listen;
pub mod open_files;
pub mod say;
pub mod shutdown;
