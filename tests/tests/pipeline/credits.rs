//! Credits: the statement, the metrics, and the checks of the ledger.

use std::time::Duration;

use common::people::operator::tenants;
use domain::credits::Credits;
use domain::id::TenantId;
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, Executor};
use storage::{database, verify};
use tests::pipeline::{TESTER, small_job};
use tests::{Options, Pipeline};
use time::format_description::well_known::Rfc3339;

#[tokio::test]
async fn the_statement_has_every_transfer() {
    let pipeline = Pipeline::start().await;
    let paid = pipeline.submit(&small_job()).await;
    pipeline.ended(&paid).await;
    let mut body = small_job();
    body["prompt"] = json!("forbidden");
    let refused = pipeline.submit(&body).await;
    pipeline.ended(&refused).await;
    let (_, statement) = pipeline.get("/v1/credits/transfers").await;
    let lines: Vec<(i64, String, i64, Option<String>)> = statement["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            (
                line["seq"].as_i64().unwrap(),
                line["kind"].as_str().unwrap().to_owned(),
                line["amount"].as_i64().unwrap(),
                line["job"].as_str().map(str::to_owned),
            )
        })
        .collect();
    let of = |job: &str| Some(job.to_owned());
    assert_eq!(
        lines,
        [
            (5, "release".to_owned(), 6, of(&refused)),
            (4, "hold".to_owned(), 6, of(&refused)),
            (3, "capture".to_owned(), 6, of(&paid)),
            (2, "hold".to_owned(), 6, of(&paid)),
            (1, "promo".to_owned(), 1_000, None),
        ]
    );
    pipeline.close().await;
}

#[tokio::test]
async fn billing_metrics_equal_the_ledger() {
    let pipeline = Pipeline::start().await;
    let mut body = small_job();
    body["outputs"] = json!(2);
    pipeline.ended(&pipeline.submit(&body).await).await;
    body["prompt"] = json!("forbidden");
    pipeline.ended(&pipeline.submit(&body).await).await;
    let metrics = pipeline
        .anonymous(
            Method::GET,
            &format!("{}/metrics/billing", pipeline.metrics_url),
        )
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let model = r#"model="gemini-nano-banana-2.1""#;
    for line in [
        format!("platen_credits_captured_total{{{model}}} 12"),
        format!("platen_credits_released_total{{{model}}} 12"),
        format!("platen_credits_held{{{model}}} 0"),
        format!(r#"platen_jobs_total{{{model},outcome="ok",state="succeeded"}} 1"#),
        format!(r#"platen_jobs_total{{{model},outcome="refused_prompt",state="failed"}} 1"#),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    pipeline.close().await;
}

/// Dashboards may use every metric in `telemetry::NAMES`, so a process must export each of them.
#[tokio::test]
async fn every_documented_metric_is_exported() {
    let pipeline = Pipeline::start().await;
    pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let mut later = small_job();
    later["run_at"] = json!(
        (domain::clock::now() + Duration::from_hours(1))
            .format(&Rfc3339)
            .unwrap()
    );
    let open = pipeline.submit(&later).await;
    let mut exported = String::new();
    for path in ["/metrics", "/metrics/billing"] {
        let url = format!("{}{path}", pipeline.metrics_url);
        exported += &pipeline
            .anonymous(Method::GET, &url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
    }
    for name in telemetry::NAMES {
        assert!(
            exported.contains(&format!("# HELP {name} ")),
            "{name} is not in\n{exported}"
        );
    }
    let named = exported
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in named {
        assert!(
            telemetry::NAMES.contains(&name),
            "telemetry::NAMES lacks {name}"
        );
    }
    pipeline
        .post(&format!("/v1/jobs/{open}/cancel"), &json!({}))
        .await;
    pipeline.close().await;
}

/// For each invariant, what violates it.
const PLANTS: &[(&str, &str)] = &[
    ("I1", "UPDATE wallets SET available = available + 1"),
    (
        "I2",
        "UPDATE transfers SET hash = sha256('x') WHERE seq = 2",
    ),
    ("I2", "DELETE FROM transfers WHERE seq = 2"),
    (
        "I3",
        "UPDATE grants SET remaining = remaining - 1, forfeited = forfeited + 1",
    ),
    ("I4", "UPDATE wallets SET held = held + 1"),
    (
        "I5",
        "UPDATE jobs SET unit_price = 3, hold_amount = 3, captured = 3",
    ),
    ("I5", "UPDATE jobs SET refunded = 1"),
    (
        "I5",
        "INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
         SELECT tenant_id, 99, 'sys:revenue', 'tenant:available', 1, 'refund', id, now(), sha256('x') FROM jobs",
    ),
    (
        "I2",
        "CREATE OR REPLACE FUNCTION transfer_hash(previous bytea, tenant uuid, seq bigint, debit text, credit text, amount bigint, kind text, ref text, at timestamptz) RETURNS bytea
           LANGUAGE sql STABLE PARALLEL SAFE RETURN (SELECT t.hash FROM transfers t WHERE t.tenant_id = tenant AND t.seq = transfer_hash.seq);
         UPDATE transfers SET amount = amount + 1",
    ),
    ("I2", "DELETE FROM transfers; UPDATE wallets SET seq = 0"),
    ("I6", "DELETE FROM artifacts WHERE role = 'rendition'"),
    (
        "I7",
        "UPDATE calls SET object_key = NULL, sha256 = NULL, bytes = NULL, media_type = NULL, width = NULL, height = NULL",
    ),
    ("I7", "UPDATE calls SET object_key = object_key || '1'"),
    (
        "I7",
        "UPDATE artifacts SET sha256 = sha256('x') WHERE role = 'original'",
    ),
    (
        "I7",
        "UPDATE artifacts SET object_key = replace(object_key, '/1/0.', '/2/0.') WHERE role = 'rendition'",
    ),
    ("I8", "UPDATE calls SET fence = 9"),
    ("I8", "UPDATE artifacts SET fence = 9"),
    ("I9", "UPDATE jobs SET calls_started = 3"),
    ("I9", "UPDATE calls SET ended_at = NULL, outcome = NULL"),
    (
        "I10",
        "UPDATE jobs SET state = 'queued', captured = 0, n_delivered = 0, finished_at = NULL, deadline = now() - interval '2 minutes'",
    ),
    (
        "I11",
        "UPDATE idempotency_keys SET location = '/v1/jobs/job_' || repeat('0', 26)",
    ),
    (
        "I11",
        "UPDATE idempotency_keys SET location = NULL, body = 'x'",
    ),
    (
        "I11",
        "UPDATE idempotency_keys SET tenant_id = gen_random_uuid()",
    ),
    (
        "I11",
        "INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, location, body) SELECT tenant_id, key || ' again', request_hash, status, location, body FROM idempotency_keys",
    ),
    (
        "I11",
        "UPDATE idempotency_keys SET status = 200, created_at = created_at - interval '1 hour'",
    ),
    (
        "I12",
        "UPDATE transfers SET amount = 2000 WHERE kind = 'hold'",
    ),
    // It is not known whether the lines were folded by now.
    ("I15", "TRUNCATE billing_lines, billing_totals"),
    (
        "I15",
        "INSERT INTO billing_lines (subject, model, state, n) VALUES ('job', 'gemini-nano-banana-2.1', 'admitted', 1)",
    ),
    (
        "I16",
        "UPDATE artifacts SET object_key = 't/elsewhere' || id",
    ),
    (
        "I17",
        "INSERT INTO retention (tenant_id, renditions) SELECT tenant_id, 0 FROM wallets",
    ),
    (
        "I17",
        "INSERT INTO retention (tenant_id, prompts) SELECT tenant_id, 0 FROM wallets",
    ),
    (
        "I17",
        "INSERT INTO deletions (tenant_id, job_id, class, object_key, bytes, due_at, deleted_at) SELECT tenant_id, job_id, 'prompt', 'job_requests/' || job_id, 1, now(), now() FROM job_requests",
    ),
    (
        "I17",
        "INSERT INTO retention (tenant_id, uploads) SELECT tenant_id, 60 FROM wallets;
         INSERT INTO uploads (id, tenant_id, object_key, sha256, bytes, media_type, width, height, last_used_at)
         SELECT id, tenant_id, 't/' || tenant_id || '/u/' || id, sha256('x'), 1, 'image/png', 1, 1, now() - interval '3 minutes' FROM (SELECT gen_random_uuid() AS id, tenant_id FROM wallets) w",
    ),
    (
        "I17",
        "INSERT INTO uploads (id, tenant_id, object_key, sha256, bytes, media_type, width, height, deleted_at)
         SELECT id, tenant_id, 't/' || tenant_id || '/u/' || id, sha256('x'), 1, 'image/png', 1, 1, now() FROM (SELECT gen_random_uuid() AS id, tenant_id FROM wallets) w",
    ),
    (
        "I17",
        "INSERT INTO retention (tenant_id, originals) SELECT tenant_id, 0 FROM wallets",
    ),
    (
        "I17",
        "INSERT INTO deletions (tenant_id, job_id, class, object_key, sha256, bytes, due_at) SELECT tenant_id, job_id, role, object_key, sha256, bytes, now() - interval '2 minutes' FROM artifacts WHERE role = 'thumbnail'",
    ),
    (
        "I17",
        "INSERT INTO deletions (tenant_id, job_id, class, object_key, sha256, bytes, due_at, deleted_at) SELECT tenant_id, job_id, role, object_key, sha256, bytes, now(), now() FROM artifacts WHERE role = 'thumbnail'",
    ),
    (
        "I24",
        "INSERT INTO abandoned_calls (call_id, tenant_id) SELECT id, tenant_id FROM calls",
    ),
    ("I25", "UPDATE storage_totals SET bytes = bytes + 1"),
    (
        "I25",
        "INSERT INTO storage_lines (tenant_id, bytes) SELECT tenant_id, -1 FROM wallets",
    ),
];

/// A check that finds nothing proves nothing by itself. So each kind of violation is made, found, and rolled back.
#[tokio::test]
async fn every_kind_of_violation_is_found() {
    let pipeline = Pipeline::start().await;
    pipeline.ended(&pipeline.submit(&small_job()).await).await;
    // Only the superuser can make the violations; no role of Platen can.
    let mut owner = pipeline.owner().await;
    for &(invariant, plant) in PLANTS {
        let mut transaction = owner.begin().await.unwrap();
        transaction
            .execute("SET session_replication_role = replica")
            .await
            .unwrap();
        transaction.execute(plant).await.unwrap();
        let mut found = Vec::new();
        for checked in verify::INVARIANTS {
            let says: Vec<String> = sqlx::query_scalar(checked.query)
                .fetch_all(&mut *transaction)
                .await
                .unwrap();
            found.extend(says.into_iter().map(|_| checked.number));
        }
        assert!(found.contains(&invariant), "{plant}: found {found:?}");
        transaction.rollback().await.unwrap();
    }
    let planted: std::collections::BTreeSet<&str> =
        PLANTS.iter().map(|(invariant, _)| *invariant).collect();
    let checked: std::collections::BTreeSet<&str> = verify::INVARIANTS
        .iter()
        .map(|invariant| invariant.number)
        .collect();
    assert_eq!(planted, checked, "every invariant needs a plant");
    owner.close().await.unwrap();
    pipeline.close().await;
}

#[tokio::test]
async fn a_source_grants_once_per_tenant_a_payment_once_in_all() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        credits: 0,
        ..Options::default()
    })
    .await;
    let (other, _) = pipeline.add_tenant(0).await;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, database::DatabaseRole::Api, 2)
        .await
        .unwrap();
    let grant = async |tenant, credits| {
        let credits = Credits::new(credits).unwrap();
        tenants::grant(&pool, TESTER, tenant, "welcome", credits).await
    };
    for tenant in [pipeline.tenant, other] {
        grant(tenant, 100).await.unwrap();
        let refused = grant(tenant, 30).await.unwrap_err();
        assert!(
            matches!(&refused, tenants::TenantError::GivenBefore { amount, .. } if amount.get() == 100),
            "{refused}"
        );
    }
    assert_eq!(pipeline.balance().await, (100, 0));
    // Of grants from the same source at the same time, one succeeds.
    let third = pipeline.add_tenant(0).await.0;
    let grants = futures::future::join_all((0..8).map(|_| grant(third, 5))).await;
    assert_eq!(grants.iter().filter(|granted| granted.is_ok()).count(), 1);

    let mut owner = pipeline.owner().await;
    let mut bought = owner.begin().await.unwrap();
    let buy = |source_type: &str, tenant: TenantId| {
        format!(
            "INSERT INTO grants (id, tenant_id, source_type, source_id, amount, remaining)
             VALUES (gen_random_uuid(), '{}', '{source_type}', 'pi_1', 5, 5)",
            tenant.0
        )
    };
    for source_type in ["purchase", "refund"] {
        let first = sqlx::AssertSqlSafe(buy(source_type, pipeline.tenant));
        bought.execute(first).await.unwrap();
        let mut again = bought.begin().await.unwrap();
        let second = sqlx::AssertSqlSafe(buy(source_type, other));
        let refused = again.execute(second).await.unwrap_err();
        assert!(refused.to_string().contains("one_grant_per_source_outside"));
        again.rollback().await.unwrap();
    }
    bought.rollback().await.unwrap();
    owner.close().await.unwrap();
    pool.close().await;
    pipeline.close().await;
}

#[tokio::test]
async fn grants_are_spent_in_order_and_get_back_their_credits() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        credits: 0,
        ..Options::default()
    })
    .await;
    let mut owner = pipeline.owner().await;
    let pool = database::connect(
        &pipeline.servers.runtime_url(&pipeline.database),
        database::DatabaseRole::Api,
        1,
    )
    .await
    .unwrap();
    for source in ["first", "second"] {
        let credits = Credits::new(4).unwrap();
        tenants::grant(&pool, TESTER, pipeline.tenant, source, credits)
            .await
            .unwrap();
    }
    let id = pipeline.submit(&small_job()).await;
    let remaining = "SELECT remaining FROM grants ORDER BY created_at";
    let lots: Vec<i64> = sqlx::query_scalar(remaining)
        .fetch_all(&mut owner)
        .await
        .unwrap();
    assert_eq!(lots, [0, 2]);
    pipeline
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await;
    let lots: Vec<i64> = sqlx::query_scalar(remaining)
        .fetch_all(&mut owner)
        .await
        .unwrap();
    assert_eq!(lots, [4, 4]);
    owner.close().await.unwrap();
    pool.close().await;
    pipeline.close().await;
}
