//! Submits: round trips to Postgres, group commit, and API keys that are remembered.
#![expect(clippy::print_stdout, reason = "tests print what they measured")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::admission::{self, Admission, AdmissionError, AdmissionRequest, Admitted};
use common::config::UnbilledLimits;
use common::people::operator::tenants;
use domain::credits::{Credits, Quote};
use domain::generation::Generation;
use domain::generation::image::{AspectRatio, Format, ImageRequest, Rendering, Size};
use domain::id::{JobId, TenantId};
use domain::idempotency::{Answer, Request, request_hash};
use domain::job::{Job, JobAttributes};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{Connection, Executor, PgPool};
use storage::database::{self, DatabaseRole};
use tests::pipeline::{TESTER, small_job};
use tests::round_trips::{RoundTrip, RoundTrips};
use tests::servers::TestServers;
use tests::{Options, Pipeline};

/// Credits that a [`small_job`] costs.
const PRICE: i64 = 6;

/// A pipeline without workers whose round trips to Postgres are counted.
async fn counted(credits: i64) -> (RoundTrips, Pipeline) {
    let servers = TestServers::get().await;
    let (trips, database_url) = RoundTrips::before(&servers.database_url).await.unwrap();
    let servers = TestServers {
        database_url,
        ..servers
    };
    let options = Options {
        credits,
        workers: 0,
        ..Options::default()
    };
    (trips, Pipeline::start_on(servers, options).await)
}

/// The statements of submits, without pings, and without the tests of the connection that listens.
fn statements(trips: &[RoundTrip]) -> Vec<&[String]> {
    let statements = trips.iter().filter(|trip| !trip.is_ping());
    let statements = statements.map(|trip| &trip.statements[..]);
    let background = ["tenant::test_listener"];
    statements
        .filter(|labels| {
            !labels
                .iter()
                .all(|label| background.contains(&label.as_str()))
        })
        .collect()
}

/// Submits a job with a key, and returns its status and body.
async fn submit(
    pipeline: &Pipeline,
    key: Option<&str>,
    body: &serde_json::Value,
) -> (StatusCode, serde_json::Value) {
    let mut request = pipeline.request(Method::POST, "/v1/jobs").json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// Ends all jobs, as their tenant would.
async fn cancel_all(pipeline: &Pipeline) {
    loop {
        let (_, page) = pipeline.get("/v1/jobs?state=queued&limit=100").await;
        let page = page["data"].as_array().unwrap().clone();
        if page.is_empty() {
            return;
        }
        for job in page {
            let path = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
            let (status, answer) = pipeline.post(&path, &json!({})).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_submit_takes_four_round_trips() {
    let (trips, pipeline) = counted(1_000).await;
    // Each connection prepares the statements once.
    for _ in 0..30 {
        pipeline.submit(&small_job()).await;
    }
    for key in [None, Some("a-key-of-the-client")] {
        // The key of the tenant may just have become five seconds old, so that it is looked up once more.
        let mut fewest = Vec::new();
        for attempt in 0..3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            trips.clear();
            let key = key.map(|key| format!("{key}-{attempt}"));
            let (status, job) = submit(&pipeline, key.as_deref(), &small_job()).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{job}");
            let taken = trips.taken();
            let labels: Vec<String> = statements(&taken)
                .iter()
                .map(|labels| labels.join(", "))
                .collect();
            // What comes after the answer belongs to the pool.
            let pings = taken.iter().filter(|trip| trip.is_ping()).count();
            println!("{key:?}: {labels:?} and {pings} pings");
            if fewest.is_empty() || labels.len() < fewest.len() {
                fewest = labels;
            }
        }
        assert_eq!(
            fewest,
            [
                "database::begin_with_wallet",
                "admission::read",
                "admission::write",
                "COMMIT"
            ],
            "a submit, {key:?}"
        );
    }
    cancel_all(&pipeline).await;
    pipeline.close().await;
}

#[tokio::test]
async fn submits_that_arrive_together_share_a_transaction() {
    const SUBMITS: usize = 60;
    let affordable = 40;
    let (trips, pipeline) = counted(PRICE * affordable).await;
    let mut other = small_job();
    other["prompt"] = json!("something else");
    let (status, first) = submit(&pipeline, Some("twice"), &small_job()).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    trips.clear();
    let requests = (0..SUBMITS).map(async |number| {
        // Every fifth repeats the first request, and every fifth uses its key for another one.
        match number % 5 {
            0 => submit(&pipeline, Some("twice"), &small_job()).await,
            1 => submit(&pipeline, Some("twice"), &other).await,
            // Each of these keys is used by two requests of this crowd.
            2 => {
                submit(
                    &pipeline,
                    Some(&format!("pair-{}", number / 10)),
                    &small_job(),
                )
                .await
            }
            _ => submit(&pipeline, None, &small_job()).await,
        }
    });
    let answers = join_all(requests).await;
    let commits = trips.taken();
    let commits = commits.iter().filter(|trip| trip.statements == ["COMMIT"]);
    let commits = commits.count();
    let mut jobs = HashSet::new();
    let mut counts = [0; 3];
    for (number, (status, body)) in answers.iter().enumerate() {
        match (number % 5, *status) {
            (0, StatusCode::ACCEPTED) => assert_eq!(body, &first),
            (1, StatusCode::UNPROCESSABLE_ENTITY) => counts[1] += 1,
            (2.., StatusCode::ACCEPTED) => {
                jobs.insert(body["id"].as_str().unwrap().to_owned());
                counts[0] += 1;
            }
            (2.., StatusCode::PAYMENT_REQUIRED) => counts[2] += 1,
            unexpected => panic!("{unexpected:?}: {body}"),
        }
    }
    println!("{SUBMITS} submits at once: {counts:?}, {commits} commits");
    // 24 without a key, and 6 pairs, for 39 jobs that can still be paid.
    assert_eq!((jobs.len(), counts[1], counts[2]), (30, 12, 0));
    assert!(
        commits < SUBMITS / 2,
        "{commits} commits for {SUBMITS} submits"
    );
    assert_eq!(pipeline.balance().await, (PRICE * 9, PRICE * 31));

    // More than there are credits for: exactly as many are admitted.
    let answers =
        join_all((0..20).map(async |_| submit(&pipeline, None, &small_job()).await)).await;
    let admitted = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::ACCEPTED);
    assert_eq!(admitted.count(), 9);
    assert_eq!(pipeline.balance().await, (0, PRICE * 40));
    cancel_all(&pipeline).await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_breaks_no_connection() {
    let (_trips, pipeline) = counted(PRICE * 100).await;
    let mut owner = pipeline.owner().await;
    let mut holder = owner.begin().await.unwrap();
    sqlx::query("SELECT FROM wallets WHERE tenant_id = $1 FOR UPDATE")
        .bind(pipeline.tenant.0)
        .execute(&mut *holder)
        .await
        .unwrap();
    let (status, problem) = submit(&pipeline, None, &small_job()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    holder.rollback().await.unwrap();
    owner.close().await.unwrap();
    for _ in 0..20 {
        pipeline.submit(&small_job()).await;
        let (status, _) = pipeline.get("/v1/credits").await;
        assert_eq!(status, StatusCode::OK);
    }
    cancel_all(&pipeline).await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_client_that_goes_away_changes_nothing_for_others() {
    let (_trips, pipeline) = counted(PRICE * 100).await;
    let impatient = (0..20).map(async |number| {
        let after = Duration::from_micros(500 * number);
        let body = small_job();
        let submitted = pipeline.submit(&body);
        tokio::time::timeout(after, submitted).await.is_ok()
    });
    let patient = (0..20).map(async |_| pipeline.submit(&small_job()).await);
    let (answered, jobs) = tokio::join!(join_all(impatient), join_all(patient));
    let answered = answered.into_iter().filter(|answered| *answered).count();
    let jobs: HashSet<String> = jobs.into_iter().collect();
    assert_eq!(jobs.len(), 20);
    // What an impatient client does not see was admitted or not, and was paid if it was.
    let settled = pipeline.until(
        "no submit is under way",
        Duration::from_secs(5),
        async || {
            let before = pipeline.open_jobs().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            (pipeline.open_jobs().await == before).then_some(before)
        },
    );
    let open = settled.await;
    assert!(
        (20 + answered..=40).contains(&usize::try_from(open).unwrap()),
        "{open}"
    );
    assert_eq!(
        pipeline.balance().await,
        (PRICE * (100 - open), PRICE * open)
    );
    cancel_all(&pipeline).await;
    pipeline.close().await;
}

/// A request of this tenant for one image.
fn admission(tenant: TenantId, key: &str, price: i64) -> Admission<'static> {
    let generation = ImageRequest {
        prompt: format!("a bottle, {price}"),
        art_direction: None,
        inputs: Vec::new(),
        aspect_ratio: AspectRatio::Square,
        size: Size::OneK,
        outputs: 1,
        format: Format::Png,
        rendering: Rendering::default(),
        seed: None,
    };
    Admission {
        tenant,
        idempotency: Request {
            key: key.to_owned(),
            hash: request_hash("POST", "/v1/jobs", &price.to_be_bytes()),
        },
        job: JobId::new(),
        attributes: JobAttributes {
            model: "a-model".to_owned(),
            metadata: json!({}),
            ..JobAttributes::default()
        },
        request_id: "a-test".to_owned(),
        traceparent: None,
        generation: Generation::Image(generation),
        quote: Quote {
            unit_price: Credits::new(price).unwrap(),
            price_version: "1".to_owned(),
            outputs: 1,
        },
        run_at: None,
        cancel_after: Duration::from_hours(1),
        model_timeout: Duration::ZERO,
        redrive: None,
        unbilled_limits: UnbilledLimits::default(),
    }
}

fn answer(job: &Job) -> Answer {
    Answer::json(202, &json!({ "id": job.id }))
}

async fn admit_all(
    pool: &PgPool,
    tenant: TenantId,
    admissions: &[Admission<'_>],
) -> Vec<Result<Admitted, AdmissionError>> {
    let members: Vec<AdmissionRequest<'_>> = admissions
        .iter()
        .map(|admission| AdmissionRequest {
            admission,
            answer: &answer,
        })
        .collect();
    admission::admit_all(pool, tenant, &members).await
}

/// A database with a tenant that has these credits, in two grants.
async fn tenant_with(credits: i64) -> (TestServers, String, PgPool, TenantId) {
    let servers = TestServers::get().await;
    let name = servers.create_database().await;
    let pool = database::connect(&servers.runtime_url(&name), DatabaseRole::Api, 2)
        .await
        .unwrap();
    let tenant = tenants::add(&pool, TESTER, "submits much").await.unwrap();
    for (source, credits) in [("first", credits / 2), ("second", credits - credits / 2)] {
        let credits = Credits::new(credits).unwrap();
        tenants::grant(&pool, TESTER, tenant, source, credits)
            .await
            .unwrap();
    }
    (servers, name, pool, tenant)
}

/// Checks the invariants, and removes the database.
async fn close(servers: TestServers, name: &str, pool: PgPool) {
    let url = servers.runtime_url(name);
    let reader = database::connect(&url, DatabaseRole::Reader, 1)
        .await
        .unwrap();
    let findings = common::verify::verify(&reader).await.unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
    reader.close().await;
    pool.close().await;
    servers.drop_database(name).await;
}

#[tokio::test]
async fn each_request_of_a_set_gets_its_own_result() {
    let (servers, name, pool, tenant) = tenant_with(30).await;
    let mut refused = admission(tenant, "refused by Postgres", 4);
    refused.attributes.name = Some("n".repeat(500));
    let admissions = [
        admission(tenant, "a", 10),
        admission(tenant, "a", 10),
        admission(tenant, "a", 11),
        admission(tenant, "too expensive", 25),
        refused,
        admission(tenant, "b", 9),
        admission(tenant, "free", 0),
        // The hash is another than that of the request which was too expensive, but that one wrote nothing.
        admission(tenant, "too expensive", 8),
        admission(tenant, "the rest is 3", 4),
        admission(tenant, "c", 3),
    ];
    for round in 0..2 {
        let results = admit_all(&pool, tenant, &admissions).await;
        let results: Vec<&str> = results
            .iter()
            .map(|result| match result {
                Ok(Admitted::New { .. }) => "new",
                Ok(Admitted::Repeated(_)) => "repeated",
                Err(AdmissionError::KeyReused) => "reused",
                Err(AdmissionError::InsufficientCredits { .. }) => "insufficient",
                Err(AdmissionError::Database(_)) => "database",
                Err(error) => panic!("{error}"),
            })
            .collect();
        let expected = if round == 0 {
            [
                "new",
                "repeated",
                "reused",
                "insufficient",
                "database",
                "new",
                "new",
                "new",
                "insufficient",
                "new",
            ]
        } else {
            // The key belongs to the cheaper request now, and no credits are left.
            [
                "repeated",
                "repeated",
                "reused",
                "reused",
                "insufficient",
                "repeated",
                "repeated",
                "repeated",
                "insufficient",
                "repeated",
            ]
        };
        assert_eq!(results, expected, "round {round}");
    }
    close(servers, &name, pool).await;
}

/// The time is printed. It is measured on a build without optimizations, on servers that others may use.
#[tokio::test]
async fn ten_thousand_jobs_are_admitted_as_a_set() {
    const JOBS: usize = 10_000;
    let (servers, name, pool, tenant) = tenant_with(1_000_000).await;
    let admissions: Vec<_> = (0..JOBS)
        .map(|number| admission(tenant, &format!("row {number}"), 24))
        .collect();
    let began = Instant::now();
    let results = admit_all(&pool, tenant, &admissions).await;
    let took = began.elapsed();
    println!("{JOBS} jobs admitted in {:.2} s", took.as_secs_f64());
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Ok(Admitted::New { .. })))
    );
    // The goal is 5 seconds on an idle machine of two cores.
    assert!(took < Duration::from_secs(30), "{took:?}");
    close(servers, &name, pool).await;
}

#[tokio::test]
async fn a_remembered_key_is_forgotten_when_it_is_revoked() {
    let (_trips, pipeline) = counted(0).await;
    let id = pipeline.key.split('_').nth(1).unwrap().to_owned();
    let refused_within = async |within| {
        let refused = async || {
            let (status, _) = pipeline.get("/v1/credits").await;
            (status == StatusCode::UNAUTHORIZED).then_some(())
        };
        pipeline.until("the key is refused", within, refused).await;
    };
    let (status, _) = pipeline.get("/v1/credits").await;
    assert_eq!(status, StatusCode::OK);
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, DatabaseRole::Api, 1).await.unwrap();
    tenants::revoke_key(&pool, TESTER, pipeline.tenant, &id)
        .await
        .unwrap();
    // Sooner than the entry expires: it has to be told.
    refused_within(Duration::from_secs(1)).await;
    pool.close().await;
    pipeline.close().await;
}

/// Without the message an entry lives five seconds, and no longer than the listener.
#[tokio::test]
async fn a_key_is_asked_about_again_without_a_message() {
    const SILENT: &str = "ALTER TABLE api_keys DISABLE TRIGGER revoked_keys_are_told";
    const TOLD: &str = "ALTER TABLE api_keys ENABLE TRIGGER revoked_keys_are_told";
    const END_LISTENER: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND (query LIKE '%LISTEN%' OR query LIKE '%test_listener%') AND pid <> pg_backend_pid()";
    for listener_ends in [false, true] {
        let (_trips, pipeline) = counted(0).await;
        let id = pipeline.key.split('_').nth(1).unwrap().to_owned();
        let mut owner = pipeline.owner().await;
        owner.execute(SILENT).await.unwrap();
        let url = pipeline.servers.runtime_url(&pipeline.database);
        let pool = database::connect(&url, DatabaseRole::Api, 1).await.unwrap();
        // Until the listener works nothing is remembered.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (status, _) = pipeline.get("/v1/credits").await;
        assert_eq!(status, StatusCode::OK);
        let asked = Instant::now();
        tenants::revoke_key(&pool, TESTER, pipeline.tenant, &id)
            .await
            .unwrap();
        let (status, _) = pipeline.get("/v1/credits").await;
        assert_eq!(status, StatusCode::OK, "it is remembered");
        let limit = if listener_ends {
            owner.execute(END_LISTENER).await.unwrap();
            Duration::from_secs(2)
        } else {
            Duration::from_secs(6)
        };
        let refused = async || {
            let (status, _) = pipeline.get("/v1/credits").await;
            (status == StatusCode::UNAUTHORIZED).then_some(())
        };
        pipeline.until("the key is refused", limit, refused).await;
        if !listener_ends {
            assert!(
                asked.elapsed() > Duration::from_secs(4),
                "{:?}",
                asked.elapsed()
            );
        }
        owner.execute(TOLD).await.unwrap();
        owner.close().await.unwrap();
        pool.close().await;
        pipeline.close().await;
    }
}
