//! The user that runs the servers when Platen runs as root.

use anyhow::{Result, bail};
use nix::unistd::{Uid, User};

/// What to do when `setpriv` cannot be started.
pub(crate) const NO_SETPRIV: &str =
    "`setpriv` cannot be started: install the package util-linux. It exists on Linux only";

/// The unprivileged user that runs the servers if this process runs as root; `None` if it does not.
///
/// # Errors
///
/// This process runs as root, and the system has no such user. Postgres refuses to run as root.
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
