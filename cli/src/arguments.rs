//! Arguments that several commands take.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use common::people::operator::MAX_REASON;
use domain::operator::Actor;
use domain::visible::is_blank;

/// The reason that most commands record if they require no reason and none is given.
pub const NO_REASON: &str = "no reason was given";

/// Which database a command works on.
#[derive(Args)]
pub struct DatabaseArgs {
    /// The data folder of a `platen up`, running or stopped. Without it the database in `DATABASE_URL` is used, or else the
    /// data folder ./data.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The data folder, if one is named.
    pub fn data_folder(&self) -> Option<&Path> {
        self.data.as_deref()
    }
}

/// The argument for a reason that is required.
#[derive(Args)]
pub struct ReasonArgs {
    /// Why this is done. The reason is recorded with the action.
    #[arg(long)]
    reason: String,
}

/// The argument for a reason that is optional.
#[derive(Args)]
pub struct OptionalReasonArgs {
    /// Why this is done. The reason is recorded with the action.
    #[arg(long)]
    reason: Option<String>,
}

impl ReasonArgs {
    /// Returns the operator `name` with this reason.
    ///
    /// # Errors
    ///
    /// Returns an error if the reason is blank or too long.
    pub fn actor_for<'a>(&'a self, name: &'a str) -> anyhow::Result<Actor<'a>> {
        actor(name, &self.reason)
    }
}

impl OptionalReasonArgs {
    /// Returns the operator `name` with this reason, or with `default` if no reason is given.
    ///
    /// # Errors
    ///
    /// Returns an error if the reason, or `default` in its place, is blank or too long.
    pub fn actor_for<'a>(&'a self, name: &'a str, default: &'a str) -> anyhow::Result<Actor<'a>> {
        actor(name, self.reason.as_deref().unwrap_or(default))
    }
}

/// Trims and checks the reason, and returns it together with `name`, the operator who gives it.
///
/// # Errors
///
/// Returns an error if the reason is too long, or has no visible characters.
fn actor<'a>(name: &'a str, reason: &'a str) -> anyhow::Result<Actor<'a>> {
    let reason = reason.trim();
    ensure!(
        !is_blank(reason) && reason.chars().count() <= MAX_REASON,
        "give a reason of 1 to {MAX_REASON} characters"
    );
    Ok(Actor { by: name, reason })
}
