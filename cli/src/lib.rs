//! The `platen` program, as a library, so that the tests start what a person starts.

pub mod actor;
pub mod admin;
pub mod allocator;
pub mod bucket;
pub mod doctor;
pub mod healthy;
pub mod open_files;
pub mod operator;
pub mod private;
pub mod processes;
pub mod say;
mod secrets;
pub mod up;
