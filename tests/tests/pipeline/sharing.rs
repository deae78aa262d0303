//! The jobs of one tenant do not block those of another, neither on a lane nor in the workers.

use std::time::{Duration, Instant};

use common::config::Timing;
use common::people::operator::tenants;
use domain::id::TenantId;
use futures::future::join_all;
use queue::{Lanes, ReadyQueue};
use redis::AsyncCommands;
use reqwest::Method;
use serde_json::{Value, json};
use storage::database::{self, DatabaseRole};
use tests::pipeline::{TESTER, small_job};
use tests::servers::connect_to_redis;
use tests::{Options, Pipeline};

const MODEL: &str = "gemini-nano-banana-2.1";
/// A job that nothing blocks succeeds within this time, even on a busy machine; a blocked job does
/// not.
const SOON: Duration = Duration::from_secs(8);

/// A tenant, and requests to the api with its key.
struct Tenant<'a> {
    pipeline: &'a Pipeline,
    key: String,
    id: TenantId,
}

impl<'a> Tenant<'a> {
    async fn new(pipeline: &'a Pipeline) -> Self {
        let (id, key) = pipeline.add_tenant(1_000).await;
        Self { pipeline, key, id }
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let request = self.pipeline.anonymous(method, path).bearer_auth(&self.key);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn submit(&self, body: &Value) -> String {
        let job = self.request(Method::POST, "/v1/jobs", Some(body)).await;
        job["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{job}"))
            .to_owned()
    }

    async fn job(&self, id: &str) -> Value {
        self.request(Method::GET, &format!("/v1/jobs/{id}"), None)
            .await
    }

    async fn cancel(&self, ids: &[String]) {
        for id in ids {
            let path = format!("/v1/jobs/{id}/cancel");
            self.request(Method::POST, &path, Some(&json!({}))).await;
        }
    }

    async fn succeeds_soon(&self, body: &Value) {
        let id = self.submit(body).await;
        let job = self
            .pipeline
            .until("the job has ended", SOON, async || {
                let job = self.job(&id).await;
                (job["state"] != "queued" && job["state"] != "running").then_some(job)
            })
            .await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }
}

fn job(model: &str, prompt: &str) -> Value {
    json!({"model": model, "prompt": prompt, "size": "1K"})
}

async fn running(pipeline: &Pipeline, tenant: TenantId) -> i64 {
    let sql = "SELECT count(*) FROM jobs WHERE state = 'running' AND tenant_id = $1";
    let count = sqlx::query_scalar(sql).bind(tenant.0);
    count.fetch_one(&pipeline.reader).await.unwrap()
}

/// Whether the lane is unavailable to all tenants.
async fn lane_is_unavailable(pipeline: &Pipeline) -> bool {
    let ready_queue =
        ReadyQueue::new(pipeline.config.redis().unwrap(), &pipeline.config.queue).unwrap();
    let catalog = pipeline.config.catalog().unwrap();
    let lanes = Lanes::new(&ready_queue, Timing::default().lanes, &catalog);
    let lane = catalog.get(MODEL).unwrap().lane().clone();
    let states = lanes.states_of(&[lane]).await.unwrap();
    states[0].unavailable_because().is_some()
}

/// The provider answers 500 to the prompts of one tenant. The model becomes unavailable for that
/// tenant only.
#[tokio::test]
async fn failing_prompts_stop_a_model_for_their_own_tenant_only() {
    let pipeline = Pipeline::start_with(Options {
        closed: Duration::from_mins(5),
        ..Options::default()
    })
    .await;
    let (failing, other) = (Tenant::new(&pipeline).await, Tenant::new(&pipeline).await);
    let faulty = job(MODEL, "a bottle [[fault:internal]]");
    let mut ids = join_all((0..12).map(|_| failing.submit(&faulty))).await;
    let waiting = pipeline
        .until(
            "a job waits for its lane",
            Duration::from_secs(20),
            async || {
                let jobs = join_all(ids.iter().map(|id| failing.job(id))).await;
                let mut jobs = jobs.into_iter();
                jobs.find(|job| job["waiting"]["reason"] == "lane_unavailable")
            },
        )
        .await;
    assert!(waiting["waiting"]["since"].is_string(), "{waiting}");
    assert!(
        !lane_is_unavailable(&pipeline).await,
        "it is unavailable to all tenants"
    );
    for _ in 0..3 {
        other.succeeds_soon(&small_job()).await;
    }
    // The failing tenant's jobs of other models run. Its next job of this model does not start.
    failing.succeeds_soon(&job("gpt-image-2", "a bottle")).await;
    let held_back = failing.submit(&small_job()).await;
    let calls = pipeline.fake.journal().count();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let job = failing.job(&held_back).await;
    assert_eq!(
        (job["state"].as_str(), job["attempts"].as_i64()),
        (Some("queued"), Some(0)),
        "{job}"
    );
    assert_eq!(pipeline.fake.journal().count(), calls);

    // Redis holds only a short hash of the tenant's id, and only for a time.
    let mut redis = connect_to_redis(&pipeline.servers.redis_url).await;
    let keys: Vec<String> = redis
        .keys(format!("{}:lane:*", pipeline.database))
        .await
        .unwrap();
    let hash_suffix = format!(":tenant:{}", failing.id.pseudonym());
    let key = keys.iter().find(|key| key.ends_with(&hash_suffix)).unwrap();
    let forgotten: i64 = redis.pttl(key).await.unwrap();
    assert!((1..=3_600_000).contains(&forgotten), "{forgotten} ms");
    assert!(!keys.iter().any(|key| key.contains(&failing.id.to_string())));

    ids.push(held_back);
    failing.cancel(&ids).await;
    pipeline.close().await;
}

#[tokio::test]
async fn faults_of_two_tenants_make_a_lane_unavailable_to_all() {
    let pipeline = Pipeline::start_with(Options {
        closed: Duration::from_mins(5),
        ..Options::default()
    })
    .await;
    let (first, second) = (Tenant::new(&pipeline).await, Tenant::new(&pipeline).await);
    let faulty = job(MODEL, "a bottle [[fault:internal]]");
    let of_first = join_all((0..12).map(|_| first.submit(&faulty))).await;
    let of_second = join_all((0..12).map(|_| second.submit(&faulty))).await;
    pipeline
        .until(
            "the lane is unavailable",
            Duration::from_secs(20),
            async || lane_is_unavailable(&pipeline).await.then_some(()),
        )
        .await;
    let third = Tenant::new(&pipeline).await;
    let id = third.submit(&small_job()).await;
    let job = pipeline
        .until(
            "the job waits for its lane",
            Duration::from_secs(5),
            async || {
                let job = third.job(&id).await;
                (job["waiting"]["reason"] == "lane_unavailable").then_some(job)
            },
        )
        .await;
    assert_eq!(job["attempts"], 0, "{job}");
    first.cancel(&of_first).await;
    second.cancel(&of_second).await;
    third.cancel(&[id]).await;
    pipeline.close().await;
}

/// One tenant's slow jobs take all slots, and more of them wait. Other tenants' jobs start at once,
/// and so do the same tenant's jobs of another model.
#[tokio::test]
async fn slow_jobs_of_one_tenant_leave_room_for_others() {
    let pipeline = Pipeline::start().await;
    let (slow, other) = (Tenant::new(&pipeline).await, Tenant::new(&pipeline).await);
    let late = job(MODEL, "a bottle [[fault:late:60000]]");
    let ids = join_all((0..32).map(|_| slow.submit(&late))).await;
    pipeline
        .until("eight slow jobs are running", SOON, async || {
            (running(&pipeline, slow.id).await == 8).then_some(())
        })
        .await;
    for _ in 0..3 {
        other.succeeds_soon(&small_job()).await;
        other.succeeds_soon(&job("gpt-image-2", "a bottle")).await;
        slow.succeeds_soon(&job("gpt-image-2", "a bottle")).await;
    }
    assert_eq!(
        running(&pipeline, slow.id).await,
        8,
        "as many as there are slots"
    );
    slow.cancel(&ids).await;
    pipeline.close().await;
}

/// The same without Redis: due jobs for the reserve are read from Postgres.
#[tokio::test]
async fn slow_jobs_leave_room_for_others_without_redis() {
    let pipeline = Pipeline::start_with(Options {
        redis: Some("redis://127.0.0.1:1".to_owned()),
        ..Options::default()
    })
    .await;
    let (slow, other) = (Tenant::new(&pipeline).await, Tenant::new(&pipeline).await);
    let late = job(MODEL, "a bottle [[fault:late:60000]]");
    let ids = join_all((0..32).map(|_| slow.submit(&late))).await;
    pipeline
        .until(
            "eight slow jobs are running",
            Duration::from_secs(15),
            async || (running(&pipeline, slow.id).await == 8).then_some(()),
        )
        .await;
    other.succeeds_soon(&small_job()).await;
    slow.succeeds_soon(&job("gpt-image-2", "a bottle")).await;
    slow.cancel(&ids).await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_tenants_share_of_the_slots_grows_with_its_weight() {
    let pipeline = Pipeline::start_with(Options {
        tenant_slots_percent: 25,
        ..Options::default()
    })
    .await;
    let (busy, other) = (Tenant::new(&pipeline).await, Tenant::new(&pipeline).await);
    let late = job(MODEL, "a bottle [[fault:late:60000]]");
    let ids = join_all((0..16).map(|_| busy.submit(&late))).await;
    pipeline
        .until(
            "two jobs of the busy tenant are running",
            SOON,
            async || (running(&pipeline, busy.id).await == 2).then_some(()),
        )
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running(&pipeline, busy.id).await, 2, "a quarter of eight");
    other.succeeds_soon(&small_job()).await;

    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, DatabaseRole::Api, 1).await.unwrap();
    tenants::set_weight(&pool, TESTER, busy.id, 3)
        .await
        .unwrap();
    pool.close().await;
    pipeline
        .until(
            "six jobs of the busy tenant are running",
            Duration::from_secs(20),
            async || (running(&pipeline, busy.id).await == 6).then_some(()),
        )
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running(&pipeline, busy.id).await, 6, "three quarters");
    busy.cancel(&ids).await;
    pipeline.close().await;
}

/// A value that somebody writes into Redis stops no model.
#[tokio::test]
async fn invalid_lane_values_in_redis_are_corrected() {
    let pipeline = Pipeline::start().await;
    let tenant = Tenant::new(&pipeline).await;
    tenant.succeeds_soon(&small_job()).await;
    let mut redis = connect_to_redis(&pipeline.servers.redis_url).await;
    let catalog = pipeline.config.catalog().unwrap();
    let lane = catalog.get(MODEL).unwrap().lane();
    let lanes_key = format!("{}:lanes", pipeline.database);
    let fields = [
        "limit",
        "until",
        "why",
        "since",
        "broken",
        "probe",
        "strikes",
        "openings",
        "pauses",
        "cut",
        "took",
        "last",
        "budget",
        "budget_at",
        "struck",
        "in_flight",
        "recount_at",
        "keep_at",
        "corrected",
    ];
    let mut texts = Vec::new();
    for value in [
        "0",
        "-7",
        "NaN",
        "Infinity",
        "-Infinity",
        "\"rubbish\"",
        "\"\"",
        "1e300",
        "null",
        "true",
        "[]",
    ] {
        let planted: Vec<String> = fields
            .iter()
            .map(|field| format!("\"{field}\": {value}"))
            .collect();
        texts.push(format!("{{{}}}", planted.join(", ")));
    }
    texts.extend(["", "{", "7", "null", "[1]"].map(str::to_owned));
    for text in texts {
        let _new: i64 = redis
            .hset(&lanes_key, lane.to_string(), &text)
            .await
            .unwrap();
        let began = Instant::now();
        tenant.succeeds_soon(&small_job()).await;
        let state = pipeline.lane(MODEL).await;
        assert!(
            (1.0..=2_000.0).contains(&state.limit),
            "{text:?} gave {state:?} after {:?}",
            began.elapsed()
        );
    }
    // The keys may hold another type, too.
    let prefix = format!("{}:lane:{lane}", pipeline.database);
    let of_lane = [":calls", ":closed", ":strikers"].map(|suffix| format!("{prefix}{suffix}"));
    for key in [lanes_key].iter().chain(&of_lane) {
        let _gone: i64 = redis.del(key).await.unwrap();
        let () = redis.set(key, "planted").await.unwrap();
        tenant.succeeds_soon(&small_job()).await;
    }
    assert!(pipeline.lane(MODEL).await.pause.is_none());
    pipeline.close().await;
}
