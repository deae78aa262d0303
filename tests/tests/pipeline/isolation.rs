//! Isolation: no tenant sees or changes anything of another tenant, and no database role can do what it must not.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use storage::database::{self, DatabaseRole};
use tests::Pipeline;
use tests::pipeline::{TESTER, small_job};

#[tokio::test]
async fn everything_of_another_tenant_is_not_found() {
    let pipeline = Pipeline::start().await;
    let job = pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let (_, key) = pipeline.add_tenant(100).await;
    let id = job["id"].as_str().unwrap();
    let artifact = job["artifacts"][0]["id"].as_str().unwrap();
    let photo = include_bytes!("../../../samples/product.jpg").to_vec();
    let upload = pipeline.request(Method::POST, "/v1/uploads").body(photo);
    let upload: Value = upload.send().await.unwrap().json().await.unwrap();
    let upload = upload["id"].as_str().unwrap();
    for (method, path) in [
        (Method::GET, format!("/v1/jobs/{id}")),
        (Method::POST, format!("/v1/jobs/{id}/cancel")),
        (Method::GET, format!("/v1/artifacts/{artifact}")),
        (Method::GET, format!("/v1/uploads/{upload}")),
        (Method::DELETE, format!("/v1/uploads/{upload}")),
        (Method::POST, format!("/v1/uploads/{upload}/complete")),
    ] {
        let response = pipeline
            .anonymous(method, &path)
            .bearer_auth(&key)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let jobs: Value = pipeline
        .anonymous(Method::GET, "/v1/jobs")
        .bearer_auth(&key)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(jobs["data"], json!([]));
    let mut body = small_job();
    body["inputs"] = json!([{"upload": upload, "role": "product"}]);
    let theirs = pipeline
        .anonymous(Method::POST, "/v1/jobs")
        .bearer_auth(&key)
        .json(&body);
    let theirs = theirs.send().await.unwrap();
    assert_eq!(theirs.status(), StatusCode::UNPROCESSABLE_ENTITY);
    pipeline.close().await;
}

#[tokio::test]
async fn a_link_works_only_for_its_file_and_until_it_expires() {
    let pipeline = Pipeline::start().await;
    let job = pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let url = job["artifacts"][0]["url"].as_str().unwrap();
    assert_eq!(
        pipeline
            .anonymous(Method::GET, url)
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
    for altered in [
        url.replace("signature=", "signature=00"),
        url.replace("expires=", "expires=9"),
        url.replace("/j/", "/k/"),
        url.split('?').next().unwrap().to_owned(),
    ] {
        let status = pipeline
            .anonymous(Method::GET, &altered)
            .send()
            .await
            .unwrap()
            .status();
        assert!(status.is_client_error(), "{altered}: {status}");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn every_table_enforces_row_level_security() {
    let pipeline = Pipeline::start().await;
    let naked: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c
         WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'
           AND (NOT c.relrowsecurity OR NOT c.relforcerowsecurity OR (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) < 2)",
    )
    .fetch_all(&pipeline.reader)
    .await
    .unwrap();
    assert_eq!(naked, Vec::<String>::new());
    let without_comment: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'
           AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL",
    )
    .fetch_all(&pipeline.reader)
    .await
    .unwrap();
    assert_eq!(
        without_comment,
        Vec::<String>::new(),
        "every column says what it is"
    );
    let roles: Vec<(String, bool, bool, bool)> = sqlx::query_as(
        "SELECT rolname::text, rolsuper, rolbypassrls, EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid) FROM pg_roles r
         WHERE rolname IN ('platen', 'platen_api', 'platen_worker', 'platen_reader') ORDER BY 1",
    )
    .fetch_all(&pipeline.reader)
    .await
    .unwrap();
    assert_eq!(roles.len(), 4);
    for (role, superuser, bypasses, owns) in roles {
        assert!(!superuser && !bypasses && !owns, "{role} may do too much");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn roles_see_no_rows_without_a_tenant_and_rewrite_nothing() {
    let pipeline = Pipeline::start().await;
    pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let tables = [
        "tenants",
        "api_keys",
        "wallets",
        "grants",
        "jobs",
        "job_requests",
        "job_lots",
        "calls",
        "artifacts",
        "transfers",
        "idempotency_keys",
        "retention",
        "deletions",
        "holds",
        "tenant_weights",
        "abandoned_calls",
        "storage_totals",
        "storage_lines",
    ];
    let api = database::connect(&url, DatabaseRole::Api, 1).await.unwrap();
    for table in tables {
        let rows: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
                .fetch_one(&api)
                .await
                .unwrap();
        assert_eq!(rows, 0, "{table} shows rows to nobody in particular");
    }
    api.close().await;

    let mut login = PgConnection::connect(&url).await.unwrap();
    assert!(
        login.execute("SELECT id FROM jobs").await.is_err(),
        "the login has no rights of its own"
    );
    for role in ["platen_api", "platen_worker"] {
        login
            .execute(sqlx::AssertSqlSafe(format!(
                "SET ROLE {role}; SELECT set_config('platen.tenant', '{}', false)",
                pipeline.tenant.0
            )))
            .await
            .unwrap();
        for attack in [
            "UPDATE transfers SET amount = 1",
            "DELETE FROM transfers",
            "TRUNCATE transfers",
            "DELETE FROM jobs",
            "DELETE FROM deletions",
            "DELETE FROM job_requests",
            "DELETE FROM operator_actions",
            "DELETE FROM adopted_bucket",
            "UPDATE operator_actions SET by = 'nobody'",
            "UPDATE job_requests SET generation = jsonb_set(generation, '{prompt}', '\"another\"')",
            "UPDATE job_requests SET generation = generation - 'inputs'",
            "UPDATE idempotency_keys SET body = ''",
            "UPDATE deletions SET deleted_at = NULL, sha256 = sha256('x')",
            "UPDATE jobs SET unit_price = 0, hold_amount = 0, captured = 0",
            "UPDATE jobs SET state = 'failed', captured = 0, n_delivered = 0, released = hold_amount",
            "UPDATE wallets SET available = -1",
            "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
        ] {
            assert!(login.execute(attack).await.is_err(), "{role} may {attack}");
        }
    }
    // A worker may delete stored answers, but only old ones; of all tenants.
    let age = "UPDATE idempotency_keys SET created_at = created_at - interval '2 hours' WHERE key = 'old'";
    let (_, key) = pipeline.add_tenant(100).await;
    for (bearer, name) in [
        (&pipeline.key, "young"),
        (&pipeline.key, "old"),
        (&key, "old"),
    ] {
        let upload = pipeline
            .anonymous(Method::POST, "/v1/uploads")
            .bearer_auth(bearer)
            .header("Idempotency-Key", name)
            .body(include_bytes!("../../../samples/product.jpg").to_vec());
        assert_eq!(upload.send().await.unwrap().status(), StatusCode::CREATED);
    }
    let mut owner = pipeline.owner().await;
    owner.execute(age).await.unwrap();
    owner.close().await.unwrap();
    login.execute("SET ROLE platen_api").await.unwrap();
    assert!(login.execute("DELETE FROM idempotency_keys").await.is_err());
    login.execute("SET ROLE platen_worker").await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(created_at) FROM idempotency_keys")
        .fetch_one(&mut login)
        .await
        .unwrap();
    let deleted = login.execute("DELETE FROM idempotency_keys").await.unwrap();
    assert_eq!((seen, deleted.rows_affected()), (2, 2));
    login.close().await.unwrap();
    pipeline.close().await;
}

/// Row triggers do not fire for TRUNCATE, which the owner of a table may run.
#[tokio::test]
async fn not_even_the_owner_can_empty_a_record() {
    let pipeline = Pipeline::start().await;
    pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let mut owner = pipeline.owner().await;
    for table in [
        "transfers",
        "operator_actions",
        "deletions",
        "holds",
        "pauses",
        "billing_totals",
        "billing_lines",
        "abandoned_calls",
        "storage_totals",
        "storage_lines",
    ] {
        let truncate = format!("TRUNCATE {table} CASCADE");
        let refused = owner.execute(sqlx::AssertSqlSafe(truncate)).await;
        let says = refused.unwrap_err().to_string();
        assert!(says.contains("append-only"), "{table}: {says}");
        if !table.ends_with("_lines") {
            let delete = format!(
                "INSERT INTO pauses (reason) VALUES ('a test'); INSERT INTO deletions (tenant_id, job_id, class, object_key, sha256, bytes, due_at)
                 SELECT tenant_id, id, 'input', id::text, sha256('x'), 1, now() + interval '1 day' FROM jobs;
                 INSERT INTO abandoned_calls (call_id, tenant_id) SELECT id, tenant_id FROM calls; DELETE FROM {table}"
            );
            let refused = owner.execute(sqlx::AssertSqlSafe(delete)).await;
            assert!(refused.is_err(), "{table} can be emptied by DELETE");
        }
    }
    // Every table with a trigger against DELETE, also a future one, must have one against TRUNCATE.
    let unguarded: Vec<String> = sqlx::query_scalar(
        "SELECT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal
         GROUP BY tgrelid HAVING bit_or(tgtype) & 8 <> 0 AND bit_or(tgtype) & 32 = 0",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(unguarded, Vec::<String>::new());
    owner.close().await.unwrap();
    pipeline.close().await;
}

#[tokio::test]
async fn a_revoked_key_is_refused() {
    let pipeline = Pipeline::start().await;
    let id = pipeline.key.split('_').nth(1).unwrap();
    let (status, _) = pipeline.get("/v1/credits").await;
    assert_eq!(status, StatusCode::OK);
    cli::commands::key::revoke(&pipeline.config, None, TESTER, pipeline.tenant, id)
        .await
        .unwrap();
    // The api hears of it a moment later.
    let refused = async || {
        let (status, _) = pipeline.get("/v1/credits").await;
        (status == StatusCode::UNAUTHORIZED).then_some(())
    };
    pipeline
        .until("the key is refused", Duration::from_secs(1), refused)
        .await;
    pipeline.close().await;
}
