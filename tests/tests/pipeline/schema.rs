//! The schema and the rows of a newer version, under processes that serve.

use std::time::Duration;

use domain::id::{JobId, TenantId, UploadId};
use domain::idempotency;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use storage::jobs::Filter;
use tests::pipeline::small_job;
use tests::{Options, Pipeline};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

async fn tables(owner: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname",
    )
    .fetch_all(owner)
    .await
    .unwrap()
}

/// Everything a customer asks for, once; every answer as it should be. Returns the job and the upload.
async fn visit(pipeline: &Pipeline) -> (String, String) {
    let upload = pipeline.request(Method::POST, "/v1/uploads").body(PHOTO);
    let upload = upload.send().await.unwrap();
    assert_eq!(upload.status(), StatusCode::CREATED);
    let upload: Value = upload.json().await.unwrap();
    let job = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
    for path in [
        "/v1/jobs",
        "/v1/uploads",
        "/v1/credits",
        "/v1/credits/transfers",
        "/v1/receipts",
        "/v1/retention",
    ] {
        let (status, answer) = pipeline.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    }
    (job, upload["id"].as_str().unwrap().to_owned())
}

/// The outage this forbids: a `*` in a prepared statement fails from then on.
#[tokio::test]
async fn a_column_added_to_every_table_is_noticed_by_nobody() {
    let pipeline = Pipeline::start().await;
    for _ in 0..3 {
        visit(&pipeline).await;
    }
    let mut owner = pipeline.owner().await;
    for table in tables(&mut owner).await {
        let grow = format!(
            "ALTER TABLE {table} ADD COLUMN grown integer, ADD COLUMN grown_by_default text NOT NULL DEFAULT 'x'"
        );
        owner.execute(AssertSqlSafe(grow)).await.unwrap();
    }
    for _ in 0..3 {
        visit(&pipeline).await;
    }
    pipeline.close().await;
}

/// Not a change we make beside processes that serve; but one that somebody makes must not need a restart.
#[tokio::test]
async fn a_column_of_another_type_heals_without_a_restart() {
    let pipeline = Pipeline::start().await;
    let job = pipeline.submit(&small_job()).await;
    pipeline.ended(&job).await;
    // So that every connection there is has prepared it.
    for _ in 0..20 {
        pipeline.job(&job).await;
    }
    let mut owner = pipeline.owner().await;
    be_newer(&mut owner).await;
    owner
        .execute("ALTER TABLE jobs ALTER COLUMN name TYPE varchar(200), ALTER COLUMN request_id TYPE varchar(64)")
        .await
        .unwrap();
    // Whoever finds it out is told to come again; everybody after that gets a connection made anew, and so does the worker.
    let path = format!("/v1/jobs/{job}");
    let mut refused = 0;
    for _ in 0..20 {
        let answer = pipeline.request(Method::GET, &path).send().await.unwrap();
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert!(answer.headers().contains_key("retry-after"));
            refused += 1;
        } else {
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
    assert_eq!(refused, 1);
    let job = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
    pipeline.close().await;
}

/// What reads rows for a tenant; returns the errors.
async fn read(on: &mut PgConnection, tenant: TenantId, job: JobId) -> Vec<String> {
    let request = idempotency::Request {
        key: "kept".to_owned(),
        hash: [0; 32],
    };
    let read = [
        storage::jobs::get(on, job).await.err(),
        storage::jobs::list(on, tenant, &Filter::default(), 10)
            .await
            .err(),
        storage::jobs::request(on, job).await.err(),
        storage::artifacts::of_jobs(on, &[job]).await.err(),
        storage::uploads::list(on, tenant, None, 10).await.err(),
        storage::calls::of_job(on, job).await.err(),
        storage::retention::get(on, tenant).await.err(),
        storage::retention::receipts(on, tenant, None, None, 10)
            .await
            .err(),
        storage::idempotency::find(on, tenant, &request).await.err(),
        storage::ledger::wallet(on, tenant).await.err(),
        match storage::ledger::statement(on, tenant, None, 10).await {
            Ok(lines) => lines.iter().find_map(|line| line.job().err()),
            Err(error) => Some(error),
        },
    ];
    let errors = read.into_iter().flatten();
    errors.map(|error| error.to_string()).collect()
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_an_error_of_its_row() {
    let mut pipeline = Pipeline::start().await;
    let (job, _) = visit(&pipeline).await;
    pipeline.stop_workers().await;
    let (tenant, job) = (pipeline.tenant, job.parse::<JobId>().unwrap());
    let mut owner = pipeline.owner().await;
    let mut all = owner.begin().await.unwrap();
    let on = &mut *all;
    forget_checks(on).await;
    let fill = format!(
        r"INSERT INTO retention (tenant_id) VALUES ('{tenant}');
          INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, body)
          VALUES ('{tenant}', 'kept', decode(repeat('00', 32), 'hex'), 202, '');
          INSERT INTO deletions (tenant_id, job_id, class, object_key, sha256, bytes, due_at, deleted_at)
          VALUES ('{tenant}', '{job}', 'input', 'gone', sha256(''), 1, now(), now())",
        tenant = tenant.0,
        job = job.0,
    );
    on.execute(AssertSqlSafe(fill)).await.unwrap();
    assert_eq!(read(on, tenant, job).await, Vec::<String>::new());

    let plants = [
        ("jobs", "kind", "'video'", "\"video\""),
        ("jobs", "state", "'paused'", "\"paused\""),
        ("jobs", "outcome", "'newer'", "\"newer\""),
        ("jobs", "captured", "-5", "-5"),
        (
            "job_requests",
            "generation",
            "jsonb_build_object('kind', 'video', 'prompt', 'a bottle')",
            "of kind \"video\"",
        ),
        (
            "artifacts",
            "role",
            "replace(role, 'thumbnail', 'poster')",
            "\"poster\"",
        ),
        ("artifacts", "media_type", "'image/avif'", "\"image/avif\""),
        ("artifacts", "width", "-5", "-5"),
        ("artifacts", "sha256", "decode('07', 'hex')", "[7]"),
        ("uploads", "media_type", "'image/avif'", "\"image/avif\""),
        ("uploads", "height", "-5", "-5"),
        ("calls", "outcome", "'newer'", "\"newer\""),
        ("calls", "media_type", "'image/avif'", "\"image/avif\""),
        ("calls", "lane", "'nowhere'", "\"nowhere\""),
        ("retention", "inputs", "-5", "-5"),
        ("deletions", "class", "'poster'", "\"poster\""),
        ("idempotency_keys", "status", "-5", "-5"),
        ("transfers", "ref", "'batch ' || seq", "\"batch "),
    ];
    for (table, column, value, told) in plants {
        let mut planted = on.begin().await.unwrap();
        let plant = format!("UPDATE {table} SET {column} = {value}");
        planted.execute(AssertSqlSafe(plant)).await.unwrap();
        let errors = read(&mut planted, tenant, job).await;
        let (place, told) = (format!("{table}.{column} of "), format!(" is {told}"));
        let mut about = errors.iter().filter(|error| error.contains(&place));
        assert!(
            about.any(|error| error.contains(&told)),
            "{table}.{column}: {errors:?}"
        );
        planted.rollback().await.unwrap();
    }
    all.rollback().await.unwrap();
    pipeline.close().await;
}

/// A newer version has migrated: what guards this schema is not looked at.
async fn be_newer(on: &mut PgConnection) {
    on.execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'of a newer version', true, '', 0)")
        .await
        .unwrap();
}

/// The schema of a newer version, which allows what this one does not know.
async fn forget_checks(on: &mut PgConnection) {
    be_newer(on).await;
    on.execute("SET session_replication_role = replica")
        .await
        .unwrap();
    let checks: Vec<(String, String)> = sqlx::query_as(
        "SELECT conrelid::regclass::text, conname::text FROM pg_constraint
         WHERE contype = 'c' AND connamespace = 'public'::regnamespace AND conrelid <> 0",
    )
    .fetch_all(&mut *on)
    .await
    .unwrap();
    for (table, check) in checks {
        let drop = format!(r#"ALTER TABLE {table} DROP CONSTRAINT "{check}""#);
        on.execute(AssertSqlSafe(drop)).await.unwrap();
    }
}

async fn set(owner: &mut PgConnection, statement: String) {
    owner.execute(AssertSqlSafe(statement)).await.unwrap();
}

/// The customer is told that something failed, not a shorter list; the rest is as before.
#[tokio::test]
async fn a_list_with_a_row_of_a_newer_version_is_not_shorter() {
    let pipeline = Pipeline::start().await;
    let (first, upload) = visit(&pipeline).await;
    let (second, _) = visit(&pipeline).await;
    let mut owner = pipeline.owner().await;
    forget_checks(&mut owner).await;
    let id = first.parse::<JobId>().unwrap().0;
    let upload_id = upload.parse::<UploadId>().unwrap().0;
    let write = async |owner: &mut PgConnection, role: &str, media_type: &str| {
        set(owner, format!("UPDATE artifacts SET role = '{role}' WHERE job_id = '{id}' AND role IN ('poster', 'thumbnail')")).await;
        set(
            owner,
            format!("UPDATE uploads SET media_type = '{media_type}' WHERE id = '{upload_id}'"),
        )
        .await;
    };
    write(&mut owner, "poster", "image/avif").await;
    for path in ["/v1/jobs", "/v1/uploads"] {
        let (status, answer) = pipeline.get(path).await;
        assert_eq!(
            status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{path}: {answer}"
        );
    }
    for path in [format!("/v1/jobs/{first}"), format!("/v1/uploads/{upload}")] {
        let (status, answer) = pipeline.get(&path).await;
        assert_eq!(
            status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{path}: {answer}"
        );
        assert_eq!(answer["code"], "internal");
    }
    pipeline.job(&second).await;
    visit_without_lists(&pipeline).await;
    write(&mut owner, "thumbnail", "image/jpeg").await;
    visit(&pipeline).await;
    pipeline.close().await;
}

async fn visit_without_lists(pipeline: &Pipeline) {
    let job = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
}

/// A call whose end only a newer version understands is neither made again nor given up.
#[tokio::test]
async fn a_call_that_ended_in_a_newer_way_is_not_bought_again() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let job = pipeline.submit(&small_job()).await;
    let mut owner = pipeline.owner().await;
    let id = job.parse::<JobId>().unwrap().0;
    set(
        &mut owner,
        format!(
            "WITH job AS (UPDATE jobs SET calls_started = 1 WHERE id = '{id}' RETURNING id, tenant_id)
             INSERT INTO calls (id, tenant_id, job_id, fence, output_idx, provider, model, lane, ended_at, outcome)
             SELECT gen_random_uuid(), tenant_id, id, 1, 0, 'vertex', 'gemini-nano-banana-2.1', 'vertex/global/gemini-nano-banana-2.1', now(), 'newer' FROM job"
        ),
    )
    .await;
    pipeline.start_worker().await;
    // It was taken up more than once, and put back.
    pipeline
        .until(
            "the third attempt has begun",
            Duration::from_secs(20),
            async || {
                let fence: i32 = sqlx::query_scalar("SELECT fence FROM jobs WHERE id = $1")
                    .bind(id)
                    .fetch_one(&mut owner)
                    .await
                    .unwrap();
                (fence >= 3).then_some(())
            },
        )
        .await;
    assert_eq!(pipeline.fake.journal().count(), 0, "it was bought again");
    set(
        &mut owner,
        format!("UPDATE calls SET outcome = 'provider_fault' WHERE job_id = '{id}'"),
    )
    .await;
    assert_eq!(pipeline.ended(&job).await["state"], "succeeded");
    assert_eq!(pipeline.fake.journal().count(), 1);
    pipeline.close().await;
}

/// What a worker does for everybody goes on for everybody else.
#[tokio::test]
async fn a_row_of_a_newer_version_stops_no_task() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let newer = pipeline.submit(&small_job()).await;
    let known = pipeline.submit(&small_job()).await;
    let mut owner = pipeline.owner().await;
    forget_checks(&mut owner).await;
    let (newer_id, known_id) = (
        newer.parse::<JobId>().unwrap().0,
        known.parse::<JobId>().unwrap().0,
    );
    set(&mut owner, format!("UPDATE jobs SET deadline = now() - interval '1 second'; UPDATE jobs SET kind = 'video', deadline = deadline - interval '1 second' WHERE id = '{newer_id}'")).await;
    let tenant = pipeline.tenant.0;
    let key = |name: &str| format!("t/{tenant}/j/{known_id}/in/{name}");
    for (name, class) in [("newer", "poster"), ("known", "input")] {
        let key = key(name);
        set(&mut owner, format!("INSERT INTO deletions (tenant_id, job_id, class, object_key, sha256, bytes, due_at) VALUES ('{tenant}', '{known_id}', '{class}', '{key}', sha256(''), 1, now())")).await;
    }
    pipeline.start_worker().await;
    assert_eq!(pipeline.ended(&known).await["state"], "expired");
    let gone = async |owner: &mut PgConnection, name: &str| {
        let gone: Option<bool> = sqlx::query_scalar(
            "SELECT deleted_at IS NOT NULL FROM deletions WHERE object_key = $1",
        )
        .bind(key(name))
        .fetch_optional(owner)
        .await
        .unwrap();
        gone == Some(true)
    };
    pipeline
        .until(
            "the known row is gone",
            Duration::from_secs(10),
            async || gone(&mut owner, "known").await.then_some(()),
        )
        .await;
    assert!(!gone(&mut owner, "newer").await, "nobody knows what it is");
    assert_eq!(pipeline.open_jobs().await, 1);

    set(&mut owner, format!("UPDATE jobs SET kind = 'image' WHERE id = '{newer_id}'; UPDATE deletions SET class = 'input', tried_at = NULL WHERE class = 'poster'")).await;
    assert_eq!(pipeline.ended(&newer).await["state"], "expired");
    pipeline
        .until(
            "the newer row is gone",
            Duration::from_secs(10),
            async || gone(&mut owner, "newer").await.then_some(()),
        )
        .await;
    pipeline.close().await;
}
