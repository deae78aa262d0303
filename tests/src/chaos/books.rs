//! Checks at the end: rows, ledger, bucket, the journal of the provider and the memory of the clients must agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bucket::Bucket;
use common::config::{Config, Timing};
use common::files::orphans::Search;
use common::verify::deep::{self, Report};
use domain::id::JobId;
use fakes::Call;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::clients::Memory;
use super::diary::{Diary, Event, Whom};
use super::recovery::Recovery;
use super::stage::Stage;
use crate::scraped::{self, labelled};

/// Covers the time from the answer of the provider until the image is stored, and the difference between clocks.
const SLACK: Duration = Duration::from_secs(5);
/// How long the sweeper may take.
const SWEEP_TIMEOUT: Duration = Duration::from_mins(1);

/// Figures that are printed.
#[derive(Default)]
pub struct Figures {
    /// Jobs by state, and by class if they failed.
    pub jobs: BTreeMap<String, i64>,
    /// Requests for images, as the provider counts them.
    pub creates: usize,
    /// How these requests were answered.
    pub answers: BTreeMap<String, usize>,
    /// Images that were made and not delivered although their job was not canceled or expired, by the reason.
    pub wasted: BTreeMap<&'static str, usize>,
    /// Objects that no row named.
    pub orphans: usize,
    /// Files that were read.
    pub objects: u64,
}

#[derive(sqlx::FromRow)]
struct Job {
    id: Uuid,
    state: String,
    outcome: Option<String>,
    calls_started: i32,
    max_calls: i32,
    crash_count: i32,
}

#[derive(sqlx::FromRow)]
struct CallRow {
    id: Uuid,
    job_id: Uuid,
    fence: i32,
    output_idx: i32,
    outcome: Option<String>,
    started_at: OffsetDateTime,
    ended_at: Option<OffsetDateTime>,
    object_key: Option<String>,
    delivered: bool,
}

/// Everything that is compared.
pub struct Books<'a> {
    stage: &'a Stage,
    memory: &'a Memory,
    recovery: &'a Recovery,
    lease: Duration,
    pool: PgPool,
    jobs: HashMap<Uuid, Job>,
    calls: HashMap<Uuid, CallRow>,
    journal: Vec<Arc<Call>>,
    events: Vec<Event>,
}

impl<'a> Books<'a> {
    /// Reads the rows and the journal of the provider.
    pub async fn open(
        stage: &'a Stage,
        memory: &'a Memory,
        recovery: &'a Recovery,
        lease: Duration,
    ) -> anyhow::Result<Self> {
        let pool = stage.reader().await?;
        let jobs: Vec<Job> = sqlx::query_as(
            "SELECT id, state, outcome, calls_started, max_calls, crash_count FROM jobs",
        )
        .fetch_all(&pool)
        .await?;
        let calls: Vec<CallRow> = sqlx::query_as(
            "SELECT id, job_id, fence, output_idx, outcome, started_at, ended_at, object_key,
                    EXISTS (SELECT FROM artifacts a WHERE a.object_key = calls.object_key AND a.role = 'original') AS delivered
             FROM calls",
        )
        .fetch_all(&pool)
        .await?;
        Ok(Self {
            stage,
            memory,
            recovery,
            lease,
            pool,
            jobs: jobs.into_iter().map(|job| (job.id, job)).collect(),
            calls: calls.into_iter().map(|call| (call.id, call)).collect(),
            journal: stage.fake.journal().calls(),
            events: stage.diary.events(),
        })
    }

    /// Checks everything. Violations are recorded in the diary.
    pub async fn close(self) -> anyhow::Result<Figures> {
        let mut figures = Figures::default();
        self.invariants().await?;
        self.every_wish_has_its_job();
        self.jobs_ended_for_good_reason(&mut figures);
        self.provider_and_journal_agree(&mut figures);
        self.nothing_stored_was_bought_again();
        self.images_were_wasted_with_reason(&mut figures);
        self.bucket(&mut figures).await?;
        self.no_process_panicked();
        self.pool.close().await;
        Ok(figures)
    }

    fn diary(&self) -> &Diary {
        &self.stage.diary
    }

    /// I1 to I12, I16.
    async fn invariants(&self) -> anyhow::Result<()> {
        for finding in common::verify::verify(&self.pool).await? {
            self.diary()
                .violation(format!("{}: {}", finding.invariant, finding.text));
        }
        Ok(())
    }

    /// I11, I20: each accepted submit has one job of its own, and there are no other jobs.
    fn every_wish_has_its_job(&self) {
        let accepted = self.memory.accepted();
        let mut seen = BTreeSet::new();
        for wish in &accepted {
            let Ok(JobId(job)) = wish.job.parse() else {
                self.diary().violation(format!(
                    "I11: {} was answered with {}, which is no id of a job",
                    wish.key, wish.job
                ));
                continue;
            };
            self.diary().demand(seen.insert(job), || {
                format!(
                    "I11: {} was the answer to two submits, {} is one",
                    wish.job, wish.key
                )
            });
            self.diary().demand(self.jobs.contains_key(&job), || {
                format!("I20: {} of {} is lost", wish.job, wish.key)
            });
        }
        self.diary().demand(self.jobs.len() == accepted.len(), || {
            format!(
                "I11: {} submits made {} jobs",
                accepted.len(),
                self.jobs.len()
            )
        });
    }

    /// I20: every job has ended, and none failed because of us.
    fn jobs_ended_for_good_reason(&self, figures: &mut Figures) {
        let wishes = self.memory.accepted();
        let wishes: HashMap<Uuid, _> = wishes
            .iter()
            .filter_map(|wish| Some((wish.job.parse::<JobId>().ok()?.0, wish)))
            .collect();
        for job in self.jobs.values() {
            let outcome = job.outcome.as_deref().unwrap_or("none");
            let word = match job.state.as_str() {
                "failed" | "partial" => format!("{} ({outcome})", job.state),
                state => state.to_owned(),
            };
            *figures.jobs.entry(word.clone()).or_default() += 1;
            let wish = wishes.get(&job.id);
            let fine = match job.state.as_str() {
                "succeeded" => true,
                "canceled" => wish.is_some_and(|wish| wish.was_canceled),
                "expired" => wish.is_some_and(|wish| wish.deadline_is_near),
                "failed" | "partial" => match outcome {
                    "poison" => job.crash_count >= 2,
                    // Every allowed call was made, or no time was left for another, and the answer was lost.
                    "unknown" => {
                        job.calls_started == job.max_calls
                            || wish.is_some_and(|wish| wish.deadline_is_near)
                    }
                    "internal" | "expired" => wish.is_some_and(|wish| wish.deadline_is_near),
                    _ => true,
                },
                _ => false,
            };
            self.diary().demand(fine, || {
                format!(
                    "I20: job {} is {word}, with {} of {} calls and {} crashes",
                    job.id, job.calls_started, job.max_calls, job.crash_count
                )
            });
        }
    }

    /// I9: the journal of the provider and our rows of calls agree.
    fn provider_and_journal_agree(&self, figures: &mut Figures) {
        let creates = self.journal.iter().filter(|call| call.creates);
        let mut of_wish: HashMap<String, i32> = HashMap::new();
        let mut seen = BTreeSet::new();
        for create in creates {
            figures.creates += 1;
            let outcome = create.outcome.as_deref().unwrap_or("caller went away");
            *figures.answers.entry(outcome.to_owned()).or_default() += 1;
            let counts = outcome != "throttle" && create.status != Some(429);
            if let Some(wish) = wish_of(create) {
                *of_wish.entry(wish).or_default() += i32::from(counts);
            }
            // Requests to Vertex AI carry the id of the call; those of the background model only the wish, in the prompt.
            let Some(label) = create.labels.get("call") else {
                continue;
            };
            let call = labelled(create).and_then(|id| self.calls.get(&id));
            self.diary().demand(call.is_some(), || {
                format!("I9: the provider was called as {label}, which has no row")
            });
            self.diary().demand(seen.insert(label.clone()), || {
                format!("I9: the provider was called twice as {label}")
            });
        }
        for wish in self.memory.accepted() {
            let Some(job) = wish
                .job
                .parse::<JobId>()
                .ok()
                .and_then(|id| self.jobs.get(&id.0))
            else {
                continue;
            };
            let made = of_wish.get(&wish.key).copied().unwrap_or(0);
            self.diary().demand(
                made <= job.calls_started && job.calls_started <= job.max_calls,
                || {
                    format!(
                        "I9: the provider counts {made} calls for job {}, which counts {} of {}",
                        job.id, job.calls_started, job.max_calls
                    )
                },
            );
        }
    }

    /// I9: an image that a call names was not requested again.
    fn nothing_stored_was_bought_again(&self) {
        let mut by_output: HashMap<(Uuid, i32), Vec<&CallRow>> = HashMap::new();
        for call in self.calls.values() {
            by_output
                .entry((call.job_id, call.output_idx))
                .or_default()
                .push(call);
        }
        for calls in by_output.values() {
            for bought in calls.iter().filter(|call| call.object_key.is_some()) {
                let again = calls.iter().find(|other| {
                    bought
                        .ended_at
                        .is_some_and(|ended| other.started_at > ended)
                });
                self.diary().demand(again.is_none(), || {
                    format!(
                        "I9: output {} of job {} was stored by call {}, and then requested again by {}",
                        bought.output_idx,
                        bought.job_id,
                        bought.id,
                        again.map_or(bought.id, |call| call.id)
                    )
                });
            }
        }
    }

    /// I9: every image that was made and not delivered has a reason: its worker was killed or frozen, or the answer was
    /// lost.
    fn images_were_wasted_with_reason(&self, figures: &mut Figures) {
        let creates = self.journal.iter().filter(|call| call.creates);
        // A late answer contains an image, too.
        let made = creates.filter(|call| {
            call.outcome
                .as_deref()
                .is_none_or(|outcome| outcome == "ok" || outcome.starts_with("late"))
        });
        for create in made {
            let Some(call) = labelled(create).and_then(|id| self.calls.get(&id)) else {
                continue;
            };
            let job = self.jobs.get(&call.job_id);
            let ended_otherwise =
                job.is_some_and(|job| matches!(job.state.as_str(), "canceled" | "expired"));
            if call.delivered || ended_otherwise {
                continue;
            }
            let at = |us: u64| self.stage.fake_began + Duration::from_micros(us);
            let from = at(create.received_us);
            let answered = create
                .answered_us
                .map_or(from + Duration::from_secs(30), at);
            // Until the call ended, its image may have waited for the bucket.
            let to = call.ended_at.map_or(answered, |ended| ended.max(answered));
            let worker = self.recovery.worker(call.job_id, call.fence);
            let reasons = self.events.iter().filter(|event| match &event.whom {
                Whom::Callers => true,
                Whom::Worker(name) => worker.as_ref().is_none_or(|worker| worker == name),
                Whom::Nobody => false,
            });
            let mut reasons = reasons.filter(|event| event.meets(from, to, SLACK));
            // A fault of its own worker is a better reason than one of the network.
            let reason = reasons.clone().find(|event| event.whom != Whom::Callers);
            let reason = reason.or_else(|| reasons.next()).map(|event| event.kind);
            // The image was stored, and then the workers that claimed the job were killed, too.
            let poison = call.object_key.is_some()
                && job.is_some_and(|job| job.outcome.as_deref() == Some("poison"));
            let reason = reason.or_else(|| poison.then_some("its job was given up as poison"));
            *figures
                .wasted
                .entry(reason.unwrap_or("no reason"))
                .or_default() += 1;
            self.diary().demand(reason.is_some(), || {
                format!(
                    "I9: call {} of job {}, which ended as {}, ({}, fence {}, worker {}) made an image at {to} that was not delivered, and there was no fault",
                    call.id, call.job_id, job.and_then(|job| job.outcome.as_deref()).unwrap_or("nothing"), call.outcome.as_deref().unwrap_or("open"), call.fence, worker.as_deref().unwrap_or("unknown")
                )
            });
        }
    }

    /// I7, I19: every file is as it was stored; orphans are swept, and none of them was an image that a job still needed.
    async fn bucket(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let bucket = self.stage.direct_bucket()?;
        let orphans = orphans(&self.pool, &bucket).await?;
        figures.orphans = orphans.len();
        for (key, modified) in &orphans {
            let id = key
                .rsplit_once("/c/")
                .and_then(|(_, id)| Uuid::try_parse(id).ok());
            let Some(call) = id.and_then(|id| self.calls.get(&id)) else {
                continue;
            };
            let was_stored = call
                .ended_at
                .is_some_and(|ended| *modified + self.lease / 2 < ended);
            let given_up = self
                .jobs
                .get(&call.job_id)
                .is_some_and(|job| job.state != "succeeded");
            self.diary().demand(!was_stored || given_up, || {
                format!("I9: the image of call {} was in the bucket from {modified} on, and the call was given up at {:?}", call.id, call.ended_at)
            });
        }
        sweep(&self.stage.direct, &self.pool, &bucket).await?;
        let checked = deep::check(&self.pool, &bucket, Duration::ZERO, |told| {
            if let Report::Finding(finding) = told {
                self.diary()
                    .violation(format!("{}: {}", finding.invariant, finding.text));
            }
        });
        figures.objects = checked.await?.read;
        Ok(())
    }

    fn no_process_panicked(&self) {
        for process in self.stage.processes() {
            let Ok(process) = process.try_lock() else {
                continue;
            };
            let log = std::fs::read_to_string(process.log()).unwrap_or_default();
            for line in log.lines().filter(|line| line.contains("panicked at")) {
                self.diary().violation(format!("{}: {line}", process.name));
            }
        }
    }
}

/// I15: the billing metrics of each api agree with the rows.
pub async fn metrics_agree(stage: &Stage) -> anyhow::Result<()> {
    for api in &stage.apis {
        let address = api.lock().await.metrics_address();
        for difference in scraped::differences(&stage.owner, address).await? {
            stage.diary.violation(format!("I15: {difference}"));
        }
    }
    Ok(())
}

/// The wish that a request for an image belongs to, read from its prompt.
fn wish_of(create: &Call) -> Option<String> {
    let body = create.body.to_string();
    let (_, rest) = body.split_once("wish-")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("wish-{digits}"))
}

/// Objects that no row names.
async fn orphans(pool: &PgPool, bucket: &Bucket) -> anyhow::Result<Vec<(String, OffsetDateTime)>> {
    let mut search = Search::begin(pool, bucket, Duration::ZERO).await?;
    let mut found = Vec::new();
    while let Some(batch) = search.next().await? {
        found.extend(
            batch
                .unnamed
                .into_iter()
                .map(|object| (object.key, object.modified)),
        );
    }
    Ok(found)
}

/// Runs the sweeper of a worker, without a grace period, until there are no orphans.
async fn sweep(config: &Config, pool: &PgPool, bucket: &Bucket) -> anyhow::Result<()> {
    let config = Config {
        timing: Timing {
            sweep_every: Duration::from_secs(1),
            sweep_grace: Duration::ZERO,
            ..config.timing.clone()
        },
        providers: common::config::Providers {
            fake: Some("http://127.0.0.1:9".to_owned()),
            ..config.providers.clone()
        },
        ..config.clone()
    };
    let app = Arc::new(worker::App::connect(&config).await?);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let sweeping = tasks.spawn(worker::run(app, stop.clone()));
    tasks.close();
    let asked = Instant::now();
    while asked.elapsed() < SWEEP_TIMEOUT && !orphans(pool, bucket).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.cancel();
    sweeping.await?
}
