//! The user that runs the servers when Platen runs as root.

use anyhow::{Result, bail};
use nix::unistd::{Uid, User};

/// The error for a `setpriv` that cannot be started. It says what to do.
pub(crate) const NO_SETPRIV: &str =
    "`setpriv` cannot be started: install the package util-linux. It exists on Linux only";

/// The unprivileged user that runs the servers if this process runs as root. Returns `None` if it
/// does not run as root.
///
/// # Errors
///
/// Returns an error if this process runs as root and the system has no such user, because Postgres
/// refuses to run as root.
pub(crate) fn server_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!(
        "Postgres refuses to run as root, and this system has neither a user `postgres` nor `nobody`"
    )
}

/// The arguments that make `setpriv` continue as another user.
pub(crate) fn setpriv_arguments(user: &User) -> Vec<String> {
    vec![
        format!("--reuid={}", user.uid),
        format!("--regid={}", user.gid),
        "--init-groups".to_owned(),
    ]
}
