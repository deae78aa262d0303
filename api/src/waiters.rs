//! Requests that wait for the end of a job (`Prefer: wait`). However many there are, Postgres is asked once for all of them, ten times a
//! second, while any waits; between that a waiting request holds no connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::id::JobId;
use common::job;
use sqlx::PgPool;
use tokio::sync::watch;

/// How often it is asked which jobs have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Clones are the same.
#[derive(Clone, Default)]
pub struct Waiters(Arc<Mutex<Waited>>);

#[derive(Default)]
struct Waited {
    /// For each job how to tell those who wait for it.
    jobs: HashMap<JobId, watch::Sender<bool>>,
    /// Whether somebody asks.
    asking: bool,
}

impl Waiters {
    /// Waits until the job has ended, for as long as this future is kept. `reader` sees all jobs; of this one nothing but that it has
    /// ended is told.
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends when nobody waits, and nothing is lost where the process ends first"
    )]
    pub async fn ended(&self, reader: &PgPool, job: JobId) {
        let mut told = {
            let mut waited = self.lock();
            let told = (waited.jobs.entry(job))
                .or_insert_with(|| watch::Sender::new(false))
                .subscribe();
            if !std::mem::replace(&mut waited.asking, true) {
                tokio::spawn(self.clone().ask(reader.clone()));
            }
            told
        };
        // The sender is dropped where nobody asks any more, and that is when it is told.
        let _ended = told.wait_for(|ended| *ended).await;
    }

    /// Asks again and again, until nobody waits.
    async fn ask(self, reader: PgPool) {
        loop {
            let jobs: Vec<JobId> = {
                let mut waited = self.lock();
                waited.jobs.retain(|_, told| !told.is_closed());
                if waited.jobs.is_empty() {
                    waited.asking = false;
                    return;
                }
                waited.jobs.keys().copied().collect()
            };
            match job::store::ended(&reader, &jobs).await {
                Ok(ended) => {
                    let mut waited = self.lock();
                    for job in ended {
                        if let Some(told) = waited.jobs.remove(&job) {
                            told.send_replace(true);
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "It is not known which jobs have ended"),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
