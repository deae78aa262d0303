//! The variables of Postgres's own clients, which must not change how the private Postgres is reached.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    process::Command,
};

/// Restarts this program, in the same process, without the variables of Postgres's own clients (`PGSSLMODE`,
/// `PGOPTIONS`, …). These variables are meant for another server, and would change how Platen connects to the private
/// server. This function returns only if there are no such variables, or if the restart fails. In both cases nothing
/// has changed.
///
/// A restart is needed because a running program cannot safely change its own environment.
pub fn restart_without_postgres_variables() {
    let variables: Vec<OsString> = env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| is_postgres_variable(name))
        .collect();
    if variables.is_empty() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1));
    for name in variables {
        command.env_remove(name);
    }
    // `exec` returns only if it failed.
    let _error = command.exec();
}

/// Whether Postgres's clients may read the variable: true for names such as `PGSSLMODE`, false for `PG_…`.
fn is_postgres_variable(name: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(b"PG");
    rest.is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_uppercase))
}
