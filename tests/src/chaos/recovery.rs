//! Measures how soon the jobs of a killed worker are claimed by another, and remembers which worker each attempt belonged
//! to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::clock;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::diary::Event;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A job whose worker was killed and that nobody has claimed since.
struct Lost {
    job: Uuid,
    fence: i32,
    at: OffsetDateTime,
    since: Instant,
}

/// A job that was claimed again.
#[derive(Clone, Copy)]
struct Recovered {
    /// When its worker was killed.
    at: OffsetDateTime,
    /// How long after that it was claimed.
    after: Duration,
}

#[derive(Default)]
struct Known {
    lost: Vec<Lost>,
    recovered: Vec<Recovered>,
    /// Jobs that workers had when they were killed.
    killed: usize,
    /// How many of them ended before anybody claimed them: settled in the last moment, canceled or given up.
    ended: usize,
    /// The worker of each attempt, by job and fence.
    workers: HashMap<(Uuid, i32), String>,
}

/// Watches the jobs of killed workers.
#[derive(Default)]
pub struct Recovery(Mutex<Known>);

/// What was measured.
pub struct Summary {
    /// Jobs that workers had when they were killed.
    pub killed: usize,
    /// How many of them ended before anybody claimed them.
    pub ended: usize,
    /// How long it took until the others were claimed, sorted; without those that a loss of Postgres delayed.
    pub times: Vec<Duration>,
    /// How many were delayed by a loss of Postgres.
    pub held_up: usize,
}

impl Recovery {
    /// Looks at the jobs again and again until `stop` is cancelled.
    pub fn watch(
        self: &Arc<Self>,
        owner: &PgPool,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (this, owner) = (Arc::clone(self), owner.clone());
        async move {
            let mut ticks = tokio::time::interval(POLL_INTERVAL);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                // If Postgres is unreachable, the next look finds the same.
                let _looked = this.look(&owner).await;
            }
        }
    }

    /// Remembers the jobs of a worker that was killed just now.
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

    /// The worker of an attempt, if a look has seen it.
    pub fn worker(&self, job: Uuid, fence: i32) -> Option<String> {
        self.known().workers.get(&(job, fence)).cloned()
    }

    /// Sums up. After a loss of Postgres, reapers wait for the time of a lease, so jobs in that time count as delayed.
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
