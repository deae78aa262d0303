//! Waits that say what they waited for when they fail.

use std::time::{Duration, Instant};

use anyhow::bail;
use fakes::Fake;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer.
///
/// # Panics
///
/// There is no answer within the time. The message names `what`, such as "the job is running".
pub async fn until<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    match try_until(what, within, async || Ok(ask().await)).await {
        Ok(answer) => answer,
        Err(error) => panic!("{error:#}"),
    }
}

/// Waits until a fake has had its first call.
///
/// # Panics
///
/// It has had no call within the time, or more than one.
pub async fn until_called_once(fake: &Fake, within: Duration) {
    until("the provider was called once", within, async || {
        (fake.journal().count() == 1).then_some(())
    })
    .await;
}

/// Does the same as [`until`] for those who return errors. An error of `ask` is tried again, and is told if no answer comes in time.
///
/// # Errors
///
/// There is no answer within the time.
pub async fn try_until<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        if let Ok(Some(answer)) = answer {
            return Ok(answer);
        }
        if began.elapsed() > within {
            match answer {
                Err(error) => bail!("after {within:?} still not true: {what}; {error:#}"),
                Ok(_) => bail!("after {within:?} still not true: {what}"),
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_that_fails_names_what_it_waited_for() {
        let late: anyhow::Result<()> = try_until("the job is running", POLL_INTERVAL, async || {
            bail!("no route to host")
        })
        .await;
        let says = late.unwrap_err().to_string();
        assert!(says.contains("the job is running"), "{says}");
        assert!(says.contains("no route to host"), "{says}");

        let mut asked = 0;
        let answer = until(
            "it was asked three times",
            POLL_INTERVAL * 100,
            async || {
                asked += 1;
                (asked == 3).then_some(asked)
            },
        );
        assert_eq!(answer.await, 3);
    }
}
