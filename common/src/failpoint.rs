//! Failpoints: named places in the code at which a test can make the process abort, fail, hang or
//! wait. Each is at a place where a crash could lose or repeat something.
//!
//! Without the feature `failpoints` this module has only the names. Only the crate `tests` enables
//! the feature. So a build of the whole workspace has failpoints. A release is built without that
//! crate and has none.

/// Every failpoint, as `<step>:<place in it>`, in the order in which a job reaches them.
pub const POINTS: &[&str] = &[
    "admission:before_commit",
    "admission:after_commit",
    "dispatch:before_ring",
    "dispatch:before_top_up",
    "generate:after_claim",
    "generate:before_begin_call",
    "generate:after_begin_call",
    "generate:after_call",
    "generate:before_operate",
    "generate:after_operate",
    "generate:after_store",
    "end_call:before_commit",
    "end_call:after_commit",
    "generate:before_settle",
    "settlement:before_commit",
    "settlement:after_commit",
    "generate:after_settle",
    "requeue:before_commit",
    "requeue:after_commit",
    "cancel:before_commit",
    "cancel:after_commit",
    "renew:before_renew",
    "reap:before_commit",
    "reap:after_commit",
];

/// Does nothing, because the feature `failpoints` is off.
///
/// # Errors
/// Never fails. With the feature, returns the error of a broken database connection if the test has
/// set `error`. Every caller must handle that error anyway.
#[cfg(not(feature = "failpoints"))]
pub async fn reach(_: &'static str) -> sqlx::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use enabled::reach;

#[cfg(feature = "failpoints")]
mod enabled {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;

    use super::POINTS;

    /// How long `delay` waits: noticeable, but shorter than the shortest lease.
    const DELAY: Duration = Duration::from_secs(2);

    /// What happens at a failpoint.
    #[derive(Clone, Copy)]
    enum Action {
        /// The process aborts.
        Abort,
        /// [`reach`] returns an error.
        Error,
        /// [`reach`] never returns.
        Hang,
        /// [`reach`] returns after [`DELAY`].
        Delay,
    }

    /// The actions that are still to be done. Each is removed when its point is reached, so it
    /// happens once.
    static ARMED: LazyLock<Mutex<HashMap<&'static str, Action>>> =
        LazyLock::new(|| Mutex::new(read_environment()));

    /// Reads `PLATEN_TEST_FAILPOINTS`: entries such as `generate:after_store=abort`, separated by
    /// commas.
    ///
    /// # Panics
    /// Panics if an entry names an unknown failpoint or action.
    fn read_environment() -> HashMap<&'static str, Action> {
        let setting = std::env::var("PLATEN_TEST_FAILPOINTS").unwrap_or_default();
        let parse = |entry: &str| {
            let (name, action) = entry.split_once('=')?;
            let action = match action {
                "abort" => Action::Abort,
                "error" => Action::Error,
                "hang" => Action::Hang,
                "delay" => Action::Delay,
                _ => return None,
            };
            let point = POINTS.iter().find(|point| **point == name)?;
            Some((*point, action))
        };
        let entries = setting.split(',').filter(|entry| !entry.is_empty());
        entries
            .map(|text| {
                parse(text).unwrap_or_else(|| panic!("{text:?} is not a failpoint and action"))
            })
            .collect()
    }

    /// Does what a test has set for this point.
    ///
    /// # Errors
    /// Returns an error if the test has set `error`.
    ///
    /// # Panics
    /// Panics if [`POINTS`] does not list the point.
    pub async fn reach(point: &'static str) -> sqlx::Result<()> {
        assert!(POINTS.contains(&point), "POINTS lacks {point}");
        let armed = ARMED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(point);
        let Some(action) = armed else {
            return Ok(());
        };
        tracing::warn!("Failpoint {point} is met");
        match action {
            Action::Abort => std::process::abort(),
            Action::Error => {
                let message = format!("the failpoint {point} was set to fail");
                Err(sqlx::Error::Io(std::io::Error::other(message)))
            }
            Action::Hang => std::future::pending().await,
            Action::Delay => {
                tokio::time::sleep(DELAY).await;
                Ok(())
            }
        }
    }
}
