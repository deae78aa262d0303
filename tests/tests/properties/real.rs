//! The same moves, made by the functions of `common` against a real Postgres. Time passes by moving rows back.

use std::time::Duration;

use common::admission::{self, Admission, AdmissionError, Admitted};
use common::config::UnbilledLimits;
use common::people::operator::tenants;
use common::settlement::{self, Canceler, Cancellation, Delivery, Lease, SettlementResult};
use domain::artifact::{self, Artifact, rendition_key};
use domain::call::{Ending, original_key};
use domain::catalog::Lane;
use domain::credits::{Credits, Quote};
use domain::generation::Generation;
use domain::generation::image::{
    AspectRatio, Format, ImageRequest, MediaType, Pixels, Rendering, Size,
};
use domain::id::{ArtifactId, CallId, JobId, TenantId};
use domain::idempotency::{Answer, Request, request_hash};
use domain::job::{self, Capacity, Job, JobAttributes, ModelCapacity};
use domain::outcome::{Class, Failure};
use domain::stored_file::StoredFile;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::types::Json;
use storage::database::{self, DatabaseRole};
use tests::pipeline::TESTER;
use tests::servers::TestServers;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::books::Books;
use crate::model::{Attempt, EXPIRED, Model, SECOND_LIFE, Said};
use crate::moves::{Asked, Lanes, Move};

/// Long enough to run out only when a move says so.
const LEASE: Duration = Duration::from_hours(1);
const LATER: Duration = Duration::from_hours(1);
const CANCEL_AFTER: Duration = Duration::from_hours(24);
const BYTES: i64 = 1_000;
const SQUARE: Pixels = Pixels {
    width: 1_024,
    height: 1_024,
};

/// A database, as each role sees it.
#[derive(Clone)]
pub(crate) struct Database {
    api: PgPool,
    worker: PgPool,
    pub reader: PgPool,
    /// Moves time, takes images, and is bound by no policy.
    owner: PgPool,
}

impl Database {
    pub(crate) async fn connect(servers: &TestServers, name: &str, connections: u32) -> Self {
        let url = servers.runtime_url(name);
        // The image is taken so often that it is worth planning once.
        let owner: PgConnectOptions = servers.owner_url_of(name).parse().unwrap();
        let once = [
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
        ];
        let owner = owner.options(once);
        let connect = async |role| database::connect(&url, role, connections).await.unwrap();
        Self {
            api: connect(DatabaseRole::Api).await,
            worker: connect(DatabaseRole::Worker).await,
            reader: connect(DatabaseRole::Reader).await,
            owner: PgPoolOptions::new()
                .max_connections(connections)
                .connect_with(owner)
                .await
                .unwrap(),
        }
    }

    pub(crate) fn worker(&self) -> &PgPool {
        &self.worker
    }

    pub(crate) async fn close(self) {
        tokio::join!(
            self.api.close(),
            self.worker.close(),
            self.reader.close(),
            self.owner.close()
        );
    }
}

/// The tables, as the game changes them.
pub(crate) struct Real<'a> {
    database: &'a Database,
    began: OffsetDateTime,
    tenants: Vec<TenantId>,
    /// A model of the game's own, so that no other game's jobs are found due.
    model: String,
    jobs: Vec<JobId>,
    calls: Vec<CallId>,
    moves: usize,
}

impl<'a> Real<'a> {
    pub(crate) async fn new(database: &'a Database, tenants: usize) -> Self {
        let mut ids = Vec::new();
        for _ in 0..tenants {
            let tenant = tenants::add(&database.api, TESTER, "plays a game").await;
            ids.push(tenant.unwrap());
        }
        let began = sqlx::query_scalar("SELECT clock_timestamp()");
        Self {
            began: began.fetch_one(&database.owner).await.unwrap(),
            database,
            model: format!("model-of-{}", ids[0]),
            tenants: ids,
            jobs: Vec::new(),
            calls: Vec::new(),
            moves: 0,
        }
    }

    /// Makes a move. The model, which has not made it yet, says which thing it names.
    pub(crate) async fn make(&mut self, a_move: Move, model: &Model) -> Said {
        self.moves += 1;
        match a_move {
            Move::Submit { tenant, key, asked } => self.submit(tenant, key, asked).await,
            Move::Begin { attempt, output } => match model.attempt(attempt) {
                Some(attempt) => self.begin(attempt, output, model).await,
                None => Said::Passed,
            },
            other => self.race(other, model).await,
        }
    }

    /// Makes a move that adds nothing to what a game knows: others may be made meanwhile.
    pub(crate) async fn race(&self, a_move: Move, model: &Model) -> Said {
        self.made(a_move, model).await.unwrap_or(Said::Passed)
    }

    async fn made(&self, a_move: Move, model: &Model) -> Option<Said> {
        let worker = &self.database.worker;
        Some(match a_move {
            Move::Submit { .. } | Move::Begin { .. } => unreachable!("these add to a game"),
            Move::Grant {
                tenant,
                source,
                amount,
                priority,
                expires,
            } => self.grant(tenant, source, amount, priority, expires).await,
            Move::Restrict { tenant, active } => {
                let status = if active { "active" } else { "restricted" };
                let set = sqlx::query("UPDATE wallets SET status = $2 WHERE tenant_id = $1");
                let set = set.bind(self.tenants[tenant].0).bind(status);
                set.execute(&self.database.owner).await.unwrap();
                Said::Done
            }
            Move::LotExpires { lot } => {
                self.expire_lot(model.lot(lot)?, EXPIRED).await;
                Said::Done
            }
            Move::Claim { job, lanes } => self.claim(model.job(job)?, lanes).await,
            Move::Renew { attempt, and } => {
                let held = [attempt, and].map(|back| model.attempt(back));
                let held = held.map(|held| held.map(|held| (self.jobs[held.job], held.fence)));
                let renewed = storage::jobs::renew(worker, &[held[0]?, held[1]?], LEASE).await;
                Said::Renewed(self.places(&renewed.unwrap()))
            }
            Move::Operate { call } => {
                let call = model.call(call)?;
                let job = model.books.calls[call].job;
                let mut transaction = self.begin_for(job, model).await;
                let kept = storage::calls::record_operation(
                    &mut transaction,
                    self.calls[call],
                    "a handle",
                );
                let kept = kept.await.unwrap();
                transaction.commit().await.unwrap();
                Said::Was(kept.has_changed())
            }
            Move::End { call, class } => self.end_call(model.call(call)?, class, model).await,
            Move::Deliver { attempt, outputs } => {
                let attempt = model.attempt(attempt)?;
                self.deliver(attempt, outputs, model).await
            }
            Move::GiveUp { attempt, class } => {
                let lease = self.lease(model.attempt(attempt)?, model);
                let failure = Failure::new(class, "");
                let nothing = Delivery::nothing(lease, failure);
                said(settlement::deliver(worker, &nothing).await.unwrap())
            }
            Move::Retry { attempt, later } => {
                let lease = self.lease(model.attempt(attempt)?, model);
                let failure = Failure::new(Class::ProviderFault, "");
                said(
                    settlement::retry(worker, lease, delay(later), &failure)
                        .await
                        .unwrap(),
                )
            }
            Move::PutBack { attempt, later } => {
                let lease = self.lease(model.attempt(attempt)?, model);
                let settled = settlement::put_back(worker, lease, delay(later)).await;
                said(settled.unwrap())
            }
            Move::Cancel { tenant, job, key } => self.cancel(tenant, model.job(job)?, key).await,
            Move::Reap { job } => self.reap(model.job(job)?, model).await,
            Move::ReapAll => {
                let found =
                    storage::jobs::expired_leases(worker, Duration::ZERO, i64::MAX, None).await;
                let found: Vec<JobId> = found.unwrap().into_iter().map(|(job, _)| job).collect();
                let mut reaped = Vec::new();
                for job in self.places(&found) {
                    reaped.push((job, self.reap(job, model).await));
                }
                Said::Found(reaped)
            }
            Move::Expire { job } => {
                let job = model.job(job)?;
                let row = &model.books.jobs[job];
                if !row.late && !row.state.is_terminal() {
                    return None;
                }
                self.expire(job, model).await
            }
            Move::ExpireAll => {
                let found = storage::jobs::jobs_past_deadline(worker, i64::MAX).await;
                let found: Vec<JobId> = found.unwrap().into_iter().map(|(job, _)| job).collect();
                let mut expired = Vec::new();
                for job in self.places(&found) {
                    expired.push((job, self.expire(job, model).await));
                }
                Said::Found(expired)
            }
            Move::LeaseRunsOut { job } => {
                let job = model.job(job)?;
                model.books.jobs[job].leased?;
                self.move_back(job, "lease_until").await
            }
            Move::DeadlinePasses { job } => self.move_back(model.job(job)?, "deadline").await,
            Move::DelayPasses { job } => self.move_back(model.job(job)?, "run_after").await,
        })
    }

    async fn grant(
        &self,
        tenant: usize,
        source: u8,
        amount: i64,
        priority: i16,
        expires: Option<i64>,
    ) -> Said {
        let (api, tenant) = (&self.database.api, self.tenants[tenant]);
        let source = format!("{}:{source}", self.model);
        let amount = Credits::new(amount).unwrap();
        let given = match tenants::grant(api, TESTER, tenant, &source, amount).await {
            Ok(_) => true,
            Err(tenants::TenantError::GivenBefore { .. }) => false,
            Err(refusal) => panic!("{refusal}"),
        };
        if given {
            // No function of ours grants such a lot yet.
            let set = sqlx::query(
                "UPDATE grants SET priority = $2, expires_at = $3 + make_interval(mins => $4::int) WHERE source_id = $1 AND tenant_id = $5",
            );
            let set = set
                .bind(source)
                .bind(priority)
                .bind(self.began)
                .bind(expires)
                .bind(tenant.0);
            set.execute(&self.database.owner).await.unwrap();
        }
        Said::Was(given)
    }

    async fn expire_lot(&self, lot: usize, minutes: i64) {
        let set = sqlx::query(
            "UPDATE grants SET expires_at = $2 + make_interval(mins => $3::int)
            WHERE id = (SELECT id FROM grants WHERE tenant_id = ANY($1) ORDER BY id OFFSET $4 LIMIT 1)",
        );
        let set = set.bind(self.tenant_ids()).bind(self.began).bind(minutes);
        let set = set.bind(i64::try_from(lot).unwrap());
        set.execute(&self.database.owner).await.unwrap();
    }

    /// Lots that got a second life just now stand in the books with the minute they got, each a later one: two that
    /// got it in the same instant would have no order.
    pub(crate) async fn set_second_lives(&self, before: &Books, after: &Books) {
        for (lot, (before, after)) in before.lots.iter().zip(&after.lots).enumerate() {
            let Some(minutes) = after.expires.filter(|_| before.expires != after.expires) else {
                continue;
            };
            if minutes <= SECOND_LIFE {
                continue;
            }
            let real = sqlx::query_scalar(
                "SELECT expires_at BETWEEN $2 + interval '72 hours' AND clock_timestamp() + interval '72 hours' FROM grants
                WHERE id = (SELECT id FROM grants WHERE tenant_id = ANY($1) ORDER BY id OFFSET $3 LIMIT 1)",
            );
            let real = real.bind(self.tenant_ids()).bind(self.began);
            let real = real.bind(i64::try_from(lot).unwrap());
            let real: Option<bool> = real.fetch_one(&self.database.owner).await.unwrap();
            if real == Some(true) {
                self.expire_lot(lot, minutes).await;
            }
        }
    }

    async fn submit(&mut self, tenant: usize, key: u8, asked: Asked) -> Said {
        let id = JobId::new();
        let moves = self.moves;
        let admission = Admission {
            tenant: self.tenants[tenant],
            idempotency: request(key, &format!("{asked:?}")),
            job: id,
            attributes: JobAttributes {
                model: self.model.clone(),
                metadata: json!({}),
                fallback: true,
                ..JobAttributes::default()
            },
            request_id: "a-game".to_owned(),
            traceparent: None,
            generation: Generation::Image(ImageRequest {
                prompt: "a bottle".to_owned(),
                art_direction: None,
                inputs: Vec::new(),
                aspect_ratio: AspectRatio::Square,
                size: Size::OneK,
                outputs: asked.outputs,
                format: Format::Png,
                rendering: Rendering::default(),
                seed: None,
            }),
            quote: Quote {
                unit_price: Credits::new(asked.price).unwrap(),
                price_version: "1".to_owned(),
                outputs: asked.outputs,
            },
            run_at: asked.later.then(|| self.began + LATER),
            cancel_after: CANCEL_AFTER,
            model_timeout: Duration::ZERO,
            redrive: None,
            unbilled_limits: UnbilledLimits::default(),
        };
        let answer = |job: &Job| {
            assert_eq!(job.id, id);
            answer(202, id, moves)
        };
        match admission::admit(&self.database.api, &admission, answer).await {
            Ok(Admitted::New { job, .. }) => {
                self.jobs.push(job.id);
                Said::Admitted
            }
            Ok(Admitted::Repeated(answer)) => repeated(&answer),
            Err(AdmissionError::KeyReused) => Said::KeyReused,
            Err(AdmissionError::Inactive) => Said::Inactive,
            Err(AdmissionError::InsufficientCredits { .. }) => Said::Insufficient,
            Err(
                error @ (AdmissionError::UploadGone
                | AdmissionError::AllowanceUsed { .. }
                | AdmissionError::StorageFull { .. }
                | AdmissionError::Redriven(_)
                | AdmissionError::Amount(_)
                | AdmissionError::Database(_)),
            ) => {
                panic!("{error}")
            }
        }
    }

    async fn claim(&self, job: usize, lanes: Lanes) -> Said {
        let room = |places| ModelCapacity {
            model: self.model.clone(),
            jobs_on_all_lanes: places,
            jobs_on_first_lane: places,
        };
        let open = match lanes {
            Lanes::Open => Capacity::new([room(1)]),
            Lanes::Full => Capacity::new([room(0)]),
            Lanes::Unknown => Capacity::new([]),
        };
        let worker = &self.database.worker;
        let claimed = storage::jobs::claim(worker, self.jobs[job], "a worker", LEASE, &open).await;
        claimed
            .unwrap()
            .map_or(Said::Nothing, |claim| Said::Claimed {
                fence: claim.claimed.fence,
                calls_made: claim.claimed.calls_made,
                calls_left: claim.claimed.calls_left,
            })
    }

    async fn begin(&mut self, attempt: Attempt, output: i32, model: &Model) -> Said {
        let output_idx = output % model.books.jobs[attempt.job].outputs;
        let lane = Lane {
            provider: "nobody".to_owned(),
            project: None,
            location: "nowhere".to_owned(),
            model: self.model.clone(),
        };
        let Lease { tenant, job, fence } = self.lease(attempt, model);
        let new = storage::calls::NewCall {
            id: CallId::new(),
            tenant,
            job,
            fence,
            output_idx,
            lane: &lane,
            cost_micros: 1,
        };
        let begun = storage::calls::begin(&self.database.worker, &new)
            .await
            .unwrap();
        if begun {
            self.calls.push(new.id);
        }
        Said::Was(begun)
    }

    async fn end_call(&self, call: usize, class: Class, model: &Model) -> Said {
        let job = model.books.calls[call].job;
        let original = self.original(call, model);
        let ending = Ending {
            outcome: class,
            detail: None,
            reason: None,
            provider_request_id: None,
            usage: None,
            cost_micros: None,
            original: (class == Class::Ok).then_some(&original),
        };
        let (worker, tenant) = (&self.database.worker, self.owner(job, model));
        let (job, call) = (self.jobs[job], self.calls[call]);
        let ended = storage::calls::end(worker, tenant, job, call, &ending);
        Said::Was(ended.await.unwrap().has_ended)
    }

    async fn deliver(&self, attempt: Attempt, outputs: u8, model: &Model) -> Said {
        let lease = self.lease(attempt, model);
        let bought = model.bought(attempt.job, outputs);
        let artifacts: Vec<Artifact> = bought
            .iter()
            .flat_map(|&call| {
                let original = self.original(call, model);
                let output_idx = model.books.calls[call].output;
                let rendition = rendition_key(
                    lease.tenant,
                    lease.job,
                    lease.fence,
                    output_idx,
                    Format::Png,
                );
                [
                    (artifact::ArtifactKind::Rendition, rendition),
                    (
                        artifact::ArtifactKind::Original,
                        original.object_key.clone(),
                    ),
                ]
                .map(|(role, object_key)| Artifact {
                    id: ArtifactId::new(),
                    job: lease.job,
                    output_idx,
                    kind: role,
                    file: StoredFile {
                        object_key,
                        ..original.clone()
                    },
                    synthetic: true,
                    c2pa_sha256: None,
                    created_at: None,
                })
            })
            .collect();
        let asked = usize::try_from(model.books.jobs[attempt.job].outputs).unwrap();
        let shortfall = Failure::new(Class::ProviderFault, "");
        let delivery = Delivery {
            lease,
            artifacts,
            shortfall: (bought.len() < asked).then_some(shortfall),
        };
        let settled = settlement::deliver(&self.database.worker, &delivery);
        said(settled.await.unwrap())
    }

    async fn cancel(&self, tenant: usize, job: usize, key: u8) -> Said {
        let id = self.jobs[job];
        let request = request(key, &format!("cancel {id}"));
        let answer = |job: &Job| {
            assert_eq!(job.state, job::State::Canceled);
            answer(200, id, self.moves)
        };
        let api = &self.database.api;
        let owner = Canceler::Owner {
            allowance: u32::MAX,
        };
        let canceled =
            settlement::cancel(api, owner, (self.tenants[tenant], id), &request, answer).await;
        match canceled.unwrap() {
            Cancellation::Canceled(_) => Said::Canceled,
            Cancellation::Repeated(answer) => repeated(&answer),
            Cancellation::KeyReused => Said::KeyReused,
            Cancellation::AlreadyEnded(state) => Said::Already(state),
            Cancellation::NotFound => Said::Nothing,
            Cancellation::AllowanceUsed(used) => unreachable!("it has no end: {used:?}"),
        }
    }

    async fn reap(&self, job: usize, model: &Model) -> Said {
        let tenant = self.owner(job, model);
        let reaped = settlement::reap(&self.database.worker, tenant, self.jobs[job]).await;
        said(reaped.unwrap())
    }

    async fn expire(&self, job: usize, model: &Model) -> Said {
        let tenant = self.owner(job, model);
        let expired = settlement::expire(
            &self.database.worker,
            (tenant, self.jobs[job]),
            u32::MAX,
            |_| Duration::ZERO,
        )
        .await;
        said(expired.unwrap())
    }

    /// Moves a time of a job into the past.
    async fn move_back(&self, job: usize, column: &str) -> Said {
        let moved = format!(
            "UPDATE jobs SET {column} = least({column}, clock_timestamp() - interval '1 second') WHERE id = $1"
        );
        let moved = sqlx::query(sqlx::AssertSqlSafe(moved)).bind(self.jobs[job].0);
        moved.execute(&self.database.owner).await.unwrap();
        Said::Done
    }

    /// The jobs that a worker whose lanes are open would be rung for.
    pub(crate) async fn due(&self) -> Vec<usize> {
        let open = Capacity::new([ModelCapacity {
            model: self.model.clone(),
            jobs_on_all_lanes: 100,
            jobs_on_first_lane: 100,
        }]);
        let due = storage::jobs::due(&self.database.worker, 100, &open, &[])
            .await
            .unwrap();
        let due: Vec<JobId> = due.into_iter().map(|(job, _)| job).collect();
        self.places(&due)
    }

    /// The model its jobs ask for.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    pub(crate) async fn as_owner(&self, statement: &str) {
        let statement = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()));
        statement.execute(&self.database.owner).await.unwrap();
    }

    /// The image of what stands in the tables.
    pub(crate) async fn books(&self) -> Books {
        let books = sqlx::query_scalar(include_str!("books.sql"));
        let books = books.bind(self.tenant_ids()).bind(self.began);
        let Json(books): Json<Books> = books.fetch_one(&self.database.owner).await.unwrap();
        books
    }

    async fn begin_for(&self, job: usize, model: &Model) -> database::Transaction {
        let tenant = self.owner(job, model);
        database::begin_for(&self.database.worker, tenant)
            .await
            .unwrap()
    }

    fn original(&self, call: usize, model: &Model) -> StoredFile {
        let tenant = self.owner(model.books.calls[call].job, model);
        StoredFile {
            object_key: original_key(tenant, self.calls[call]),
            sha256: [7; 32],
            bytes: BYTES,
            media_type: MediaType::Png,
            pixels: SQUARE,
        }
    }

    fn lease(&self, attempt: Attempt, model: &Model) -> Lease {
        Lease {
            tenant: self.owner(attempt.job, model),
            job: self.jobs[attempt.job],
            fence: attempt.fence,
        }
    }

    fn owner(&self, job: usize, model: &Model) -> TenantId {
        self.tenants[model.books.jobs[job].tenant]
    }

    /// Those of these jobs that are of this game, by place.
    fn places(&self, jobs: &[JobId]) -> Vec<usize> {
        let own = 0..self.jobs.len();
        own.filter(|&place| jobs.contains(&self.jobs[place]))
            .collect()
    }

    fn tenant_ids(&self) -> Vec<Uuid> {
        self.tenants.iter().map(|tenant| tenant.0).collect()
    }
}

fn said(settled: SettlementResult) -> Said {
    match settled {
        SettlementResult::Ended(state) => Said::Ended(state),
        SettlementResult::Requeued => Said::Requeued,
        SettlementResult::AlreadyEnded(state) => Said::Already(state),
        SettlementResult::Fenced => Said::Fenced,
        SettlementResult::NotFound => Said::Nothing,
        SettlementResult::Extended => unreachable!("an allowance without end"),
    }
}

fn delay(later: bool) -> Duration {
    if later { LATER } else { Duration::ZERO }
}

fn request(key: u8, body: &str) -> Request {
    Request {
        key: format!("key-{key}"),
        hash: request_hash("POST", "/v1/jobs", body.as_bytes()),
    }
}

/// An answer that says which move it is to.
fn answer(status: u16, job: JobId, moves: usize) -> Answer {
    Answer {
        status,
        location: (status == 202).then(|| format!("/v1/jobs/{job}")),
        body: json!({"id": job, "move": moves}).to_string().into_bytes(),
    }
}

fn repeated(answer: &Answer) -> Said {
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    Said::Repeated(usize::try_from(body["move"].as_u64().unwrap()).unwrap())
}
