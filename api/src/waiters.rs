//! Requests that wait for the end of a job (`Prefer: wait`). One task asks Postgres for all of them together, ten times a second, while
//! any request waits. So a waiting request holds no connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::id::JobId;
use sqlx::PgPool;
use tokio::sync::watch;

/// How often Postgres is asked which jobs have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// All waiting requests of this process. Clones share them.
#[derive(Clone, Default)]
pub struct Waiters(Arc<Mutex<WaitedJobs>>);

/// The jobs whose end is awaited.
#[derive(Default)]
struct WaitedJobs {
    /// For each job, the channel to the requests that wait for its end. `true` is sent when it has ended.
    channels: HashMap<JobId, watch::Sender<bool>>,
    /// Whether the polling task runs.
    is_polling: bool,
}

impl Waiters {
    /// Waits until the job has ended. Dropping the future stops the wait. `reader` can read the jobs of all tenants, but this
    /// function reveals only that this job has ended.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task ends when nobody waits, and nothing is lost if the process ends first"
    )]
    pub async fn wait_for_end(&self, reader: &PgPool, job: JobId) {
        let mut receiver = {
            let mut waited = self.lock();
            let receiver = (waited.channels.entry(job))
                .or_insert_with(|| watch::Sender::new(false))
                .subscribe();
            if !std::mem::replace(&mut waited.is_polling, true) {
                tokio::spawn(self.clone().poll(reader.clone()));
            }
            receiver
        };
        // An error means that the sender was dropped. That happens only after it has sent `true`.
        let _ended = receiver.wait_for(|ended| *ended).await;
    }

    /// Asks Postgres again and again which of the awaited jobs have ended, until nobody waits.
    async fn poll(self, reader: PgPool) {
        loop {
            let jobs: Vec<JobId> = {
                let mut waited = self.lock();
                waited.channels.retain(|_, sender| !sender.is_closed());
                // `is_polling` changes under the same lock under which it is checked when a wait begins, so that no waiter is left
                // without a polling task.
                if waited.channels.is_empty() {
                    waited.is_polling = false;
                    return;
                }
                waited.channels.keys().copied().collect()
            };
            match storage::jobs::ended(&reader, &jobs).await {
                Ok(ended) => {
                    let mut waited = self.lock();
                    for job in ended {
                        if let Some(sender) = waited.channels.remove(&job) {
                            sender.send_replace(true);
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "Cannot find out which jobs have ended; trying again");
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaitedJobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
