//! How soon the jobs of a killed worker are taken up by another, and whose attempt each fence was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::clock;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::diary::Event;

const LOOK: Duration = Duration::from_millis(100);

/// A job whose worker was killed, until somebody claims it.
struct Lost {
    job: Uuid,
    fence: i32,
    at: OffsetDateTime,
    since: Instant,
}

/// One that was taken up again.
#[derive(Clone, Copy)]
pub struct Recovered {
    pub at: OffsetDateTime,
    pub after: Duration,
}

#[derive(Default)]
struct Known {
    lost: Vec<Lost>,
    recovered: Vec<Recovered>,
    /// Jobs that were held by workers when they were killed.
    killed: usize,
    /// Of those, jobs that ended before anybody claimed them: settled in the last moment, canceled, given up.
    ended: usize,
    /// Whose attempt it was, by job and fence.
    workers: HashMap<(Uuid, i32), String>,
}

#[derive(Default)]
pub struct Recovery(Mutex<Known>);

/// What came of all.
pub struct Summary {
    pub killed: usize,
    pub ended: usize,
    /// Sorted; without those that a loss of Postgres held up.
    pub times: Vec<Duration>,
    pub held_up: usize,
}

impl Recovery {
    /// Looks, until it is told to stop.
    pub fn watch(
        self: &Arc<Self>,
        owner: &PgPool,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (this, owner) = (Arc::clone(self), owner.clone());
        async move {
            let mut ticks = tokio::time::interval(LOOK);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                // Postgres may be away: the next look tells.
                let _looked = this.look(&owner).await;
            }
        }
    }

    /// A worker was killed just now: whatever it holds is lost until it is taken up.
    pub async fn killed(&self, owner: &PgPool, worker: &str) {
        let (at, since) = (clock::now(), Instant::now());
        let held: Result<Vec<(Uuid, i32)>, sqlx::Error> =
            sqlx::query_as("SELECT id, fence FROM jobs WHERE worker = $1 AND state = 'running'")
                .bind(worker)
                .fetch_all(owner)
                .await;
        let held = held.unwrap_or_default();
        let mut known = self.known();
        known.killed += held.len();
        for (job, fence) in held {
            known.workers.insert((job, fence), worker.to_owned());
            known.lost.push(Lost {
                job,
                fence,
                at,
                since,
            });
        }
    }

    async fn look(&self, owner: &PgPool) -> sqlx::Result<()> {
        let running: Vec<(Uuid, i32, String)> =
            sqlx::query_as("SELECT id, fence, worker FROM jobs WHERE state = 'running'")
                .fetch_all(owner)
                .await?;
        let lost: Vec<Uuid> = self.known().lost.iter().map(|lost| lost.job).collect();
        let now: Vec<(Uuid, i32, bool)> = sqlx::query_as(
            "SELECT id, fence, finished_at IS NOT NULL FROM jobs WHERE id = ANY($1)",
        )
        .bind(&lost)
        .fetch_all(owner)
        .await?;
        let now: HashMap<Uuid, (i32, bool)> = now
            .into_iter()
            .map(|(id, fence, ended)| (id, (fence, ended)))
            .collect();
        let mut known = self.known();
        let attempts = running
            .into_iter()
            .map(|(job, fence, worker)| ((job, fence), worker));
        known.workers.extend(attempts);
        let (mut recovered, mut ended) = (Vec::new(), 0);
        known.lost.retain(|lost| match now.get(&lost.job) {
            Some((fence, _)) if *fence > lost.fence => {
                recovered.push(Recovered {
                    at: lost.at,
                    after: lost.since.elapsed(),
                });
                false
            }
            Some((_, true)) => {
                ended += 1;
                false
            }
            _ => true,
        });
        known.recovered.extend(recovered);
        known.ended += ended;
        Ok(())
    }

    /// Whose attempt it was, where a look has seen it.
    pub fn worker(&self, job: Uuid, fence: i32) -> Option<String> {
        self.known().workers.get(&(job, fence)).cloned()
    }

    /// A loss of contact with Postgres holds up reapers until a lease after it.
    pub fn summary(&self, events: &[Event], lease: Duration) -> Summary {
        let known = self.known();
        let held_up = |recovered: &&Recovered| {
            let until = recovered.at + recovered.after;
            events.iter().any(|event| {
                event.outage && event.from <= until && recovered.at <= event.to + lease
            })
        };
        let (held_up, free): (Vec<&Recovered>, Vec<&Recovered>) =
            known.recovered.iter().partition(held_up);
        let mut times: Vec<Duration> = free.iter().map(|recovered| recovered.after).collect();
        times.sort_unstable();
        Summary {
            killed: known.killed,
            ended: known.ended,
            times,
            held_up: held_up.len(),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
