//! API keys that a tenant makes itself: scopes, networks, expiry, rotation, repeats.

use std::sync::Arc;
use std::time::Duration;

use common::people::key_cache::KeyCache;
use domain::api_key::{ApiKey, KeyTerms};
use domain::permission::Permissions;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Connection;
use storage::database::{self, DatabaseRole};
use tests::pipeline::small_job;
use tests::{Options, Pipeline};

/// How soon a key that has ended is refused. An api may remember it for five seconds.
const SOON: Duration = Duration::from_secs(10);

/// A pipeline without workers, and a key that may manage keys.
async fn with_manager() -> (Pipeline, String) {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let terms = KeyTerms::with_scopes("manager", Permissions::grantable_to_keys());
    let key = pipeline.add_key_with(pipeline.tenant, &terms).await;
    (pipeline, key)
}

/// Sends a request with a key, and returns status and body of the answer.
async fn ask(
    pipeline: &Pipeline,
    key: &str,
    (method, path): (Method, &str),
    body: Option<Value>,
) -> (StatusCode, Value) {
    let mut request = pipeline.anonymous(method, path).bearer_auth(key);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

async fn make(pipeline: &Pipeline, maker: &str, body: Value) -> Value {
    let (status, key) = ask(pipeline, maker, (Method::POST, "/v1/keys"), Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{key}");
    key
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say() {
    let (pipeline, manager) = with_manager().await;
    let made = make(
        &pipeline,
        &manager,
        json!({"name": "look", "scopes": ["jobs:read"]}),
    )
    .await;
    let key = made["key"].as_str().unwrap();
    let (status, _) = ask(&pipeline, key, (Method::GET, "/v1/jobs"), None).await;
    assert_eq!(status, StatusCode::OK);
    for (request, permission) in [
        ((Method::POST, "/v1/jobs"), "jobs:write"),
        ((Method::GET, "/v1/credits"), "credits:read"),
        ((Method::POST, "/v1/keys"), "keys:write"),
    ] {
        let (status, problem) = ask(&pipeline, key, request, Some(small_job())).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{permission}");
        assert_eq!(problem["permission"], permission);
    }
    pipeline.close().await;
}

#[tokio::test]
async fn a_key_holds_no_more_than_its_maker() {
    let (pipeline, manager) = with_manager().await;
    let scopes = json!(["keys:write", "jobs:read"]);
    let made = make(
        &pipeline,
        &manager,
        json!({"name": "maker", "scopes": scopes}),
    )
    .await;
    let maker = made["key"].as_str().unwrap();
    let more = json!({"name": "more", "scopes": ["jobs:read", "jobs:write"]});
    let (status, problem) = ask(&pipeline, maker, (Method::POST, "/v1/keys"), Some(more)).await;
    assert_eq!(
        (status, &problem["permission"]),
        (StatusCode::FORBIDDEN, &json!("jobs:write"))
    );
    // Rotation would make a key of the other's scopes.
    let other = make(&pipeline, &manager, json!({"name": "other"})).await;
    let rotate = format!("/v1/keys/{}/rotate", other["id"].as_str().unwrap());
    let (status, _) = ask(&pipeline, maker, (Method::POST, &rotate), Some(json!({}))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    // Without scopes the new key gets what its maker holds and keys hold by default.
    let same = make(&pipeline, maker, json!({"name": "same"})).await;
    assert_eq!(same["scopes"], json!(["jobs:read"]));
    pipeline.close().await;
}

#[tokio::test]
async fn only_the_first_answer_shows_the_secret() {
    let (pipeline, manager) = with_manager().await;
    let send = async || {
        let request = pipeline.anonymous(Method::POST, "/v1/keys");
        let request = request
            .bearer_auth(&manager)
            .header("Idempotency-Key", "once");
        let answer = request.json(&json!({"name": "ci"})).send().await.unwrap();
        let headers = answer.headers().clone();
        (headers, answer.json::<Value>().await.unwrap())
    };
    let (headers, first) = send().await;
    assert_eq!(headers["cache-control"], "no-store");
    let secret = first["key"].as_str().unwrap().to_owned();
    let (headers, second) = send().await;
    assert_eq!(headers["idempotent-replayed"], "true");
    assert_eq!(second["id"], first["id"]);
    assert_eq!(second["key"], Value::Null);
    let kept: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM idempotency_keys WHERE position(convert_to($1, 'UTF8') IN body) > 0",
    )
    .bind(&secret)
    .fetch_one(&pipeline.reader)
    .await
    .unwrap();
    assert_eq!(kept, 0, "the secret is in the kept answer");
    let one = format!("/v1/keys/{}", first["id"].as_str().unwrap());
    let (_, read) = ask(&pipeline, &manager, (Method::GET, &one), None).await;
    assert_eq!((&read["name"], &read["key"]), (&json!("ci"), &Value::Null));
    pipeline.close().await;
}

#[tokio::test]
async fn a_rotated_key_overlaps_with_its_successor() {
    let (pipeline, manager) = with_manager().await;
    let old = make(
        &pipeline,
        &manager,
        json!({"name": "ci", "scopes": ["jobs:read"]}),
    )
    .await;
    let id = old["id"].as_str().unwrap();
    let rotate = format!("/v1/keys/{id}/rotate");
    let overlap = Some(json!({"overlap_seconds": 2}));
    let (status, new) = ask(
        &pipeline,
        &manager,
        (Method::POST, &rotate),
        overlap.clone(),
    )
    .await;
    assert_eq!(status, StatusCode::CREATED, "{new}");
    assert_eq!(
        (&new["name"], &new["scopes"]),
        (&json!("ci"), &json!(["jobs:read"]))
    );
    let jobs = async |key: &Value| {
        let key = key["key"].as_str().unwrap();
        ask(&pipeline, key, (Method::GET, "/v1/jobs"), None).await.0
    };
    assert_eq!(jobs(&old).await, StatusCode::OK);
    assert_eq!(jobs(&new).await, StatusCode::OK);
    let (_, read) = ask(
        &pipeline,
        &manager,
        (Method::GET, &format!("/v1/keys/{id}")),
        None,
    )
    .await;
    assert_eq!(read["successor"], new["id"]);
    let (status, _) = ask(&pipeline, &manager, (Method::POST, &rotate), overlap).await;
    assert_eq!(status, StatusCode::CONFLICT, "rotated twice");
    pipeline
        .until("the old key is refused", SOON, async || {
            (jobs(&old).await == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
    assert_eq!(jobs(&new).await, StatusCode::OK);
    pipeline.close().await;
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_stays_listed() {
    let (pipeline, manager) = with_manager().await;
    let made = make(&pipeline, &manager, json!({"name": "ci"})).await;
    let one = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    for _ in 0..2 {
        let (status, _) = ask(&pipeline, &manager, (Method::DELETE, &one), None).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    let secret = made["key"].as_str().unwrap();
    pipeline
        .until("the key is refused", SOON, async || {
            let (status, _) = ask(&pipeline, secret, (Method::GET, "/v1/jobs"), None).await;
            (status == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
    let (_, page) = ask(&pipeline, &manager, (Method::GET, "/v1/keys?limit=1"), None).await;
    assert_eq!(page["data"][0]["id"], made["id"]);
    assert!(page["data"][0]["revoked_at"].is_string());
    assert_eq!(page["has_more"], true);
    let next = format!("/v1/keys?starting_after={}", made["id"].as_str().unwrap());
    let (_, page) = ask(&pipeline, &manager, (Method::GET, &next), None).await;
    let names = page["data"].as_array().unwrap().iter();
    let names: Vec<&Value> = names.map(|key| &key["name"]).collect();
    assert_eq!(names, ["manager", "test"]);
    pipeline.close().await;
}

#[tokio::test]
async fn a_key_may_be_limited_to_networks() {
    let (pipeline, manager) = with_manager().await;
    let jobs = async |networks: Value| {
        let made = json!({"name": "ci", "networks": networks});
        let key = make(&pipeline, &manager, made).await["key"].clone();
        let get = (Method::GET, "/v1/jobs");
        ask(&pipeline, key.as_str().unwrap(), get, None).await
    };
    assert_eq!(jobs(json!(["127.0.0.0/8"])).await.0, StatusCode::OK);
    let (status, problem) = jobs(json!(["192.0.2.0/24"])).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::FORBIDDEN, &json!("network_not_allowed"))
    );
    pipeline.close().await;
}

#[tokio::test]
async fn a_key_from_before_scopes_keeps_working() {
    let (pipeline, _) = with_manager().await;
    // As the version before this one wrote it: without a checksum, scopes and networks.
    let new = ApiKey::generate();
    let old = ApiKey::parse(&new.expose()[..new.expose().len() - 7]).unwrap();
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, DatabaseRole::Api, 1).await.unwrap();
    let mut transaction = database::begin_for(&pool, pipeline.tenant).await.unwrap();
    sqlx::query("INSERT INTO api_keys (id, tenant_id, name, sha256) VALUES ($1, $2, 'old', $3)")
        .bind(&old.id)
        .bind(pipeline.tenant.0)
        .bind(&old.sha256()[..])
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    pool.close().await;
    let key = old.expose();
    let (status, _) = ask(&pipeline, key, (Method::GET, "/v1/jobs"), None).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = ask(&pipeline, key, (Method::GET, "/v1/keys"), None).await;
    assert_eq!(
        status,
        StatusCode::FORBIDDEN,
        "such a key could not manage keys"
    );
    pipeline.close().await;
}

#[tokio::test]
async fn the_last_use_of_a_key_is_recorded() {
    let (pipeline, _) = with_manager().await;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = database::connect(&url, DatabaseRole::Api, 1).await.unwrap();
    let (cache, key) = (
        Arc::<KeyCache>::default(),
        ApiKey::parse(&pipeline.key).unwrap(),
    );
    let last_used = async || {
        let mut transaction = database::begin_for(&pool, pipeline.tenant).await.unwrap();
        let found = storage::api_keys::find(&mut transaction, pipeline.tenant, &key.id).await;
        found.unwrap().unwrap().last_used_at
    };
    assert_eq!(last_used().await, None);
    assert!(cache.authenticate(&pool, &key).await.unwrap().is_some());
    cache.record_uses(&pool).await;
    assert!(last_used().await.is_some());
    pool.close().await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_tenant_has_a_limited_number_of_keys() {
    let (pipeline, manager) = with_manager().await;
    let mut made = 2;
    let refused = loop {
        let body = Some(json!({"name": "one more"}));
        let (status, answer) = ask(&pipeline, &manager, (Method::POST, "/v1/keys"), body).await;
        if status != StatusCode::CREATED {
            break answer;
        }
        made += 1;
    };
    assert_eq!((made, &refused["code"]), (100, &json!("too_many_keys")));
    pipeline.close().await;
}

#[tokio::test]
async fn a_stored_key_cannot_gain_anything() {
    let (pipeline, _) = with_manager().await;
    let mut owner = pipeline.owner().await;
    for change in [
        "scopes = NULL",
        "networks = '{}', scopes = ARRAY['operations:write']",
        "sha256 = sha256('another')",
        "expires_at = NULL",
        "expires_at = clock_timestamp() + interval '2 years'",
    ] {
        sqlx::query("UPDATE api_keys SET expires_at = clock_timestamp() + interval '1 year' WHERE expires_at IS NULL")
            .execute(&mut owner)
            .await
            .unwrap();
        let changed = sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE api_keys SET {change}")))
            .execute(&mut owner)
            .await;
        assert!(changed.is_err(), "{change}");
    }
    owner.close().await.unwrap();
    pipeline.close().await;
}
