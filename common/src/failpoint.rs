//! Failpoints: named places where a crash matters, at which a test lets the process abort, fail, hang or wait.
//!
//! Without the feature `failpoints` there is nothing here but the names. Only the dev-only member `tests` switches it
//! on, so a build of the whole workspace has it and a release, which is built without that member, has not.

/// Every failpoint, in the order a job meets them: `<step>:<where in it>`.
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

/// Does what was asked of this point, if anything was. It fails as the database does when its connection breaks, which
/// every caller must be ready for.
#[cfg(not(feature = "failpoints"))]
pub async fn reach(_: &'static str) -> sqlx::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use on::reach;

#[cfg(feature = "failpoints")]
mod on {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;

    use super::POINTS;

    /// How long `delay` waits: longer than a moment, shorter than the shortest lease.
    const DELAY: Duration = Duration::from_secs(2);

    #[derive(Clone, Copy)]
    enum Action {
        Abort,
        Error,
        Hang,
        Delay,
    }

    /// What is still to be done, each thing once.
    static ASKED: LazyLock<Mutex<HashMap<&'static str, Action>>> =
        LazyLock::new(|| Mutex::new(asked()));

    /// `PLATEN_TEST_FAILPOINTS`: `generate:after_store=abort`, several separated by commas.
    fn asked() -> HashMap<&'static str, Action> {
        let asked = std::env::var("PLATEN_TEST_FAILPOINTS").unwrap_or_default();
        let entry = |entry: &str| {
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
        let entries = asked.split(',').filter(|entry| !entry.is_empty());
        entries
            .map(|text| entry(text).unwrap_or_else(|| panic!("no failpoint is {text:?}")))
            .collect()
    }

    pub async fn reach(point: &'static str) -> sqlx::Result<()> {
        assert!(POINTS.contains(&point), "POINTS lacks {point}");
        let asked = ASKED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(point);
        let Some(action) = asked else {
            return Ok(());
        };
        tracing::warn!("Failpoint {point} is met");
        match action {
            Action::Abort => std::process::abort(),
            Action::Error => {
                let says = format!("the failpoint {point} says so");
                Err(sqlx::Error::Io(std::io::Error::other(says)))
            }
            Action::Hang => std::future::pending().await,
            Action::Delay => {
                tokio::time::sleep(DELAY).await;
                Ok(())
            }
        }
    }
}
