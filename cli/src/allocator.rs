//! glibc's allocator, told to give memory back: pictures come and go in megabytes, and it would keep what they took.
//!
//! It can be told before a program starts only, so the program starts itself once more, as the same process. Measured with
//! `make flood CALLS=200`: 514 MiB at most without this, 232 with it, for the same room.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where glibc is told (`man ld.so`); whoever runs Platen may say it otherwise. Other libraries take no heed of it.
const VARIABLE: &str = "GLIBC_TUNABLES";
/// From 128 KiB on a block is the system's own, and goes back to it at once. Left to itself, glibc raises that to 32 MiB.
const GIVE_BACK: &str = "glibc.malloc.mmap_threshold=131072";

/// Starts the program once more, unless that was done.
pub fn give_back() {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut words = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = words.next() {
        again.arg0(name);
    }
    // It returns only where it failed, and then things go on as they were.
    let error = again.args(words).env(VARIABLE, GIVE_BACK).exec();
    tracing::debug!(%error, "The allocator could not be told to give memory back");
}
