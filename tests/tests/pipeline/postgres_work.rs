//! What Postgres has to do for a job: round trips, transactions, index writes, and how much it reads.

use std::collections::HashMap;
use std::time::Duration;

use domain::id::JobId;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tests::pipeline::small_job;
use tests::plain_jobs::PlainWorker;
use tests::repository;
use tests::round_trips::{RoundTrip, RoundTrips};
use tests::servers::TestServers;
use tests::{Options, Pipeline};

/// Round trips of a worker for a job with one image.
const MAX_ROUND_TRIPS: usize = 9;
/// Transactions of a worker for a job with one image.
const MAX_TRANSACTIONS: usize = 4;
/// Statements of a worker's schedules, which run whether there are jobs or not.
const SCHEDULED: &[&str] = &[
    "job::due",
    "job::due_by_tenant",
    "job::next_marks",
    "job::renew",
    "job::expired_leases",
    "job::running_since",
    "job::jobs_past_deadline",
    "billing::fold",
    "storage::fold",
    "storage::uncounted",
    "storage::undelivered",
    "retention::take",
    "retention::overdue",
    "upload::due",
    "upload::unpaid",
    "idempotency::prune",
    "operation::prune",
    "operation::is_drained",
    "tenant::weights",
    "ownership::recorded",
];

fn without_workers() -> Options {
    Options {
        credits: 100_000,
        workers: 0,
        ..Options::default()
    }
}

/// Whether it belongs to the path of a job.
fn is_of_a_job(trip: &RoundTrip) -> bool {
    let mut statements = trip.statements.iter();
    // A connection prepares each statement once.
    let executes = statements.any(|label| !label.starts_with("prepare "));
    let is_scheduled = |label: &String| SCHEDULED.contains(&label.as_str());
    executes && !trip.statements.iter().any(is_scheduled)
}

fn transactions(trips: &[&RoundTrip]) -> usize {
    let mut begun = HashMap::new();
    let mut count = 0;
    for trip in trips {
        let is_begun = begun.entry(trip.connection).or_insert(false);
        let has = |word: &str| trip.statements.iter().any(|label| label.contains(word));
        if !*is_begun {
            count += 1;
        }
        *is_begun = (*is_begun || has("begin_with_") || has("BEGIN")) && !has("COMMIT");
    }
    count
}

#[tokio::test]
async fn a_job_takes_few_round_trips_and_transactions() {
    let mut pipeline = Pipeline::start_with(without_workers()).await;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let (round_trips, through) = RoundTrips::before(&url).await.unwrap();
    pipeline.config.database_url = Some(SecretString::from(through));
    pipeline.start_worker().await;
    for _ in 0..10 {
        pipeline.ended(&pipeline.submit(&small_job()).await).await;
    }
    // On a busy machine a job may be found twice, in Redis and among the due ones. Then it is claimed in vain once.
    let mut taken = Vec::new();
    for _ in 0..10 {
        round_trips.clear();
        let job = pipeline.ended(&pipeline.submit(&small_job()).await).await;
        assert_eq!(job["state"], "succeeded");
        taken = round_trips.taken();
        let is_claim = |trip: &&RoundTrip| trip.statements == ["job::claim"];
        if taken.iter().filter(is_claim).count() == 1 {
            break;
        }
        taken.clear();
    }
    assert!(!taken.is_empty(), "each job was claimed more than once");
    let of_job: Vec<&RoundTrip> = taken.iter().filter(|trip| is_of_a_job(trip)).collect();
    assert!(of_job.len() <= MAX_ROUND_TRIPS, "{of_job:#?}");
    let transactions = transactions(&of_job);
    assert!(
        transactions <= MAX_TRANSACTIONS,
        "{transactions}: {of_job:#?}"
    );
    pipeline.close().await;
}

/// The counters of a table: updates, and those of them that wrote no index.
async fn updates(reader: &sqlx::PgPool, table: &str) -> (i64, i64) {
    sqlx::query_as("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1")
        .bind(table)
        .fetch_one(reader)
        .await
        .unwrap()
}

/// Makes a connection's counters visible to others with its next transaction.
async fn flush_counters(worker: &PlainWorker) {
    worker
        .pool
        .execute("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_renewal_of_leases_writes_no_index() {
    const RENEWALS: i64 = 60;
    let mut pipeline = Pipeline::start_with(without_workers()).await;
    let mut held = Vec::new();
    // One connection, so that all counters are flushed together.
    let worker = PlainWorker::start(&pipeline, 1).await;
    for _ in 0..5 {
        let job: JobId = pipeline.submit(&small_job()).await.parse().unwrap();
        held.push((job, worker.claim(job).await.unwrap().fence));
    }
    flush_counters(&worker).await;
    let (updates_before, hot_before) = updates(&pipeline.reader, "jobs").await;
    for _ in 0..RENEWALS {
        let lease = Duration::from_secs(3);
        let renewed = storage::jobs::renew(&worker.pool, &held, lease)
            .await
            .unwrap();
        assert_eq!(renewed.len(), held.len());
    }
    flush_counters(&worker).await;
    let (updates_after, hot_after) = updates(&pipeline.reader, "jobs").await;
    let renewals = RENEWALS * 5;
    assert_eq!(updates_after - updates_before, renewals);
    // Now and then a page has no room, and the row moves to another page. That happens more often while another test makes a
    // database: until it has, Postgres does not learn that old versions can be removed. With an index, no update would be hot.
    let hot = hot_after - hot_before;
    assert!(hot * 10 >= renewals * 7, "{hot} of {renewals}");
    worker.pool.close().await;
    pipeline.start_worker().await;
    assert!(pipeline.drained(Duration::from_secs(30)).await);
    pipeline.close().await;
}

/// Blocks that were read in this database so far.
async fn blocks_read(reader: &sqlx::PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(reader)
    .await
    .unwrap()
}

/// A dump keeps every row version that is replaced while it runs. What a job reads must not grow with them.
#[tokio::test]
async fn a_long_snapshot_does_not_make_jobs_read_more() {
    const JOBS: usize = 600;
    const WINDOW: usize = 120;
    let pipeline = Pipeline::start_with(without_workers()).await;
    let mut dump = pipeline.owner().await;
    dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobs")
        .await
        .unwrap();
    for _ in 0..JOBS {
        pipeline.submit(&small_job()).await;
    }
    // A session that ends makes its counters visible. Nothing of the submits is left to be counted.
    let mut owner = pipeline.owner().await;
    owner
        .execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'platen platen_api' AND datname = current_database()")
        .await
        .unwrap();
    owner.close().await.unwrap();
    let worker = PlainWorker::start(&pipeline, 1).await;
    let mut windows = Vec::new();
    for _ in 0..JOBS / WINDOW {
        flush_counters(&worker).await;
        let before = blocks_read(&pipeline.reader).await;
        let mut ended = 0;
        while ended < WINDOW {
            ended += worker.work().await.unwrap();
        }
        flush_counters(&worker).await;
        windows.push(blocks_read(&pipeline.reader).await - before);
    }
    // The first window contains what a connection reads once.
    let (second, last) = (windows[1], windows[windows.len() - 1]);
    assert!(last * 4 <= second * 5, "blocks read: {windows:?}");
    dump.execute("COMMIT").await.unwrap();
    dump.close().await.unwrap();
    worker.pool.close().await;
    pipeline.close().await;
}

/// A statement, and the indexes that it must use. The plan is generic, as those of a worker and of admission are, or made
/// for the values.
struct Plan {
    statement: &'static str,
    role: &'static str,
    /// Values, if the plan is to be made for them. `{tenant}` is a tenant, `{job}` an early job, `{recent}` a recent one.
    values: Option<&'static str>,
    indexes: &'static [&'static str],
}

const PLANS: &[Plan] = &[
    Plan {
        statement: "job::due",
        role: "platen_worker",
        values: None,
        indexes: &[
            "jobs_by_model_and_turn",
            "jobs_by_due",
            "jobs_in_the_making",
        ],
    },
    Plan {
        statement: "job::due_by_tenant",
        role: "platen_worker",
        values: None,
        indexes: &[
            "jobs_by_model_tenant_and_turn",
            "jobs_by_due",
            "jobs_in_the_making",
        ],
    },
    Plan {
        statement: "job::next_marks",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_by_model_and_turn", "jobs_by_due"],
    },
    Plan {
        statement: "job::claim",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_pkey", "job_requests_pkey"],
    },
    Plan {
        statement: "call::begin",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "call::lose",
        role: "platen_worker",
        values: None,
        indexes: &["calls_pkey", "jobs_pkey"],
    },
    Plan {
        statement: "job::requeue",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::renew",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::expired_leases",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_running"],
    },
    Plan {
        statement: "job::jobs_past_deadline",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_by_deadline"],
    },
    Plan {
        statement: "job::lock",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "settlement::write",
        role: "platen_worker",
        values: None,
        indexes: &["jobs_pkey", "calls_of_job", "grants_pkey", "wallets_newest"],
    },
    Plan {
        statement: "admission::read",
        role: "platen_api",
        values: None,
        indexes: &["grants_to_spend", "wallets_newest", "idempotency_keys_pkey"],
    },
    Plan {
        statement: "admission::write",
        role: "platen_api",
        values: None,
        indexes: &["grants_pkey", "wallets_newest"],
    },
    Plan {
        statement: "job::list",
        role: "platen_api",
        values: Some("'{tenant}', NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::list",
        role: "platen_api",
        values: Some("'{tenant}', '{job}', NULL, NULL, NULL, 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::list",
        role: "platen_api",
        values: Some("'{tenant}', NULL, 'failed', NULL, NULL, 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::list",
        role: "platen_api",
        values: Some("'{tenant}', NULL, 'queued', NULL, NULL, 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::list",
        role: "platen_api",
        values: Some("'{tenant}', NULL, NULL, 'model 1', NULL, 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::list",
        role: "platen_api",
        values: Some("'{tenant}', NULL, NULL, NULL, 'bottle', 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::list",
        role: "platen_api",
        values: Some("'{tenant}', '{job}', 'failed', 'model 1', 'bottle', 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::count_ahead",
        role: "platen_api",
        values: Some("'{tenant}', 9000000000000000, '{job}'"),
        indexes: &["jobs_of_tenant_by_turn"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("ARRAY['{job}'::uuid], NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, '{tenant}', NULL, '{}', NULL, NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, '{tenant}', NULL, '{}', 'poison', NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_of_tenant"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, NULL, 'model 1', '{}', NULL, NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, NULL, NULL, '{failed,queued}', NULL, NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, NULL, NULL, '{}', 'unknown', NULL, NULL, NULL, NULL, 20"),
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, NULL, NULL, '{}', NULL, NULL, NULL, '{job}', NULL, 20"),
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some("NULL, NULL, NULL, '{}', 'poison', NULL, now(), '{job}', NULL, 20"),
        indexes: &["jobs_pkey"],
    },
    Plan {
        statement: "job::search",
        role: "platen_reader",
        values: Some(
            "NULL, NULL, 'no model', '{}', NULL, now() - interval '1 hour', NULL, NULL, '{recent}', 20",
        ),
        indexes: &["jobs_pkey"],
    },
];

/// An early one of [`MANY_JOBS`], a recent one, and one of their tenants.
const JOB: &str = "019ab6d4-f100-7000-8000-000000000fa0";
const RECENT_JOB: &str = "019ac265-2580-7000-8000-000000030570";
const TENANT: &str = "00000000-0000-7000-8000-000000000001";

/// 200,000 jobs of a thousand tenants, a second apart, half of them queued. The checks and triggers are off meanwhile.
const MANY_JOBS: &str = "
    SET session_replication_role = replica;
    INSERT INTO tenants (id, name) SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'tenant ' || n FROM generate_series(1, 1000) n;
    INSERT INTO wallets (tenant_id) SELECT id FROM tenants ON CONFLICT DO NOTHING;
    INSERT INTO grants (id, tenant_id, source_type, source_id, amount, remaining) SELECT gen_random_uuid(), id, 'promo', 'many', 1, 1 FROM tenants;
    INSERT INTO jobs (id, tenant_id, kind, model, request_id, max_calls, turn, run_after, deadline, price_version, unit_price, n_requested, hold_amount,
                      created_at, state, fence, finished_at, outcome, released)
    SELECT (lpad(to_hex(1764000000000 + n * 1000), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
           ('00000000-0000-7000-8000-' || lpad((1 + n % 1000)::text, 12, '0'))::uuid, 'image', 'model ' || n % 3, 'many', 3,
           1764000000000000 + n * 1000000::bigint, now() - interval '1 minute', now() + interval '1 day', 'v', 1, 1, 1, now(),
           CASE WHEN n % 2 = 0 THEN 'queued' ELSE 'failed' END, n % 2, CASE WHEN n % 2 = 1 THEN now() END, CASE WHEN n % 2 = 1 THEN 'unknown' END, n % 2
    FROM generate_series(1, 200000) n;
    INSERT INTO job_requests (job_id, tenant_id, generation) SELECT id, tenant_id, '{\"prompt\": \"x\", \"inputs\": []}' FROM jobs;
    INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, body) SELECT tenant_id, id, sha256(uuid_send(id)), 202, 'x' FROM jobs;
    INSERT INTO calls (id, tenant_id, job_id, fence, output_idx, provider, model, ended_at, outcome)
    SELECT gen_random_uuid(), tenant_id, id, 1, 0, 'p', 'm', now(), 'unknown' FROM jobs WHERE state = 'failed';
    ANALYZE";

/// The text of a statement, as the program sends it.
fn statement(name: &str) -> (String, usize) {
    let head = format!("-- {name}\n");
    let saved = repository::files(&[".sqlx"], &["json"]);
    let saved = saved.iter().map(|file| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    });
    let mut found = saved.filter(|saved| saved["query"].as_str().unwrap().starts_with(&head));
    let found = found
        .next()
        .unwrap_or_else(|| panic!("no statement {name}"));
    let parameters = found["describe"]["parameters"]["Left"].as_array();
    (
        found["query"].as_str().unwrap().to_owned(),
        parameters.map_or(0, Vec::len),
    )
}

/// Adds the indexes of a plan, and `table …` for each table that is read as a whole.
fn indexes(plan: &serde_json::Value, found: &mut Vec<String>) {
    if let Some(index) = plan["Index Name"].as_str() {
        found.push(index.to_owned());
    }
    if plan["Node Type"] == "Seq Scan" {
        let table = plan["Relation Name"].as_str().unwrap_or_default();
        found.push(format!("table {table}"));
    }
    for part in plan["Plans"].as_array().into_iter().flatten() {
        indexes(part, found);
    }
}

async fn explain(owner: &mut PgConnection, plan: &Plan) -> Vec<String> {
    let (text, parameters) = statement(plan.statement);
    let (mode, values) = match plan.values {
        Some(values) => (
            "force_custom_plan",
            values
                .replace("{tenant}", TENANT)
                .replace("{job}", JOB)
                .replace("{recent}", RECENT_JOB),
        ),
        None => ("force_generic_plan", vec!["NULL"; parameters].join(", ")),
    };
    // As `begin_with_wallet` does.
    let sort = if plan.statement.starts_with("admission::") {
        "off"
    } else {
        "on"
    };
    let explained = format!(
        "SET ROLE {}; SET plan_cache_mode = {mode}; SET enable_sort = {sort}; SET platen.tenant = '{TENANT}';
         PREPARE explained AS {text}",
        plan.role
    );
    owner.execute(AssertSqlSafe(explained)).await.unwrap();
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE explained({values})");
    let explained: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_one(&mut *owner)
        .await
        .unwrap();
    owner
        .execute("DEALLOCATE explained; RESET ROLE; RESET enable_sort")
        .await
        .unwrap();
    let mut found = Vec::new();
    indexes(&explained[0]["Plan"], &mut found);
    found
}

/// With `enable_seqscan` on: Postgres chooses the indexes by itself.
#[tokio::test]
async fn hot_statements_read_by_index() {
    let servers = TestServers::get().await;
    let name = servers.create_database().await;
    let url = servers.owner_url_of(&name);
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute(MANY_JOBS).await.unwrap();
    for plan in PLANS {
        let found = explain(&mut owner, plan).await;
        for index in plan.indexes {
            let is_used = found.iter().any(|found| found == index);
            assert!(
                is_used,
                "{} {:?} uses {found:?}, not {index}",
                plan.statement, plan.values
            );
        }
        // Such as a partial index of all running jobs for a job that is known by its id.
        let others = found
            .iter()
            .find(|found| found.starts_with("jobs_") && !plan.indexes.contains(&found.as_str()));
        assert_eq!(others, None, "{}", plan.statement);
        let whole = [
            "jobs",
            "job_requests",
            "calls",
            "grants",
            "wallets",
            "idempotency_keys",
        ];
        let whole = whole.map(|table| format!("table {table}"));
        assert!(
            !found.iter().any(|found| whole.contains(found)),
            "{} reads a whole table: {found:?}",
            plan.statement
        );
    }
    owner.close().await.unwrap();
    servers.drop_database(&name).await;
}
