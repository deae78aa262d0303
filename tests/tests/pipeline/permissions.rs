//! Attacks on every route, generated from `/openapi.json`: without credentials, with keys that are wrong, revoked or expired, with
//! keys that do not hold the permission, and with ids of another tenant.
#![expect(
    clippy::print_stdout,
    reason = "how many attacks were tried is a figure"
)]

use std::collections::BTreeMap;

use domain::api_key::{ApiKey, KeyTerms};
use domain::clock;
use domain::permission::{KeyAccess, Permission, Permissions};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::Pipeline;
use tests::pipeline::{OPERATOR_KEY, TESTER, small_job};

/// One operation of the API.
#[derive(Debug)]
struct Operation {
    method: Method,
    /// The path, such as `/v1/jobs/{id}`.
    path: String,
    /// What its caller needs; `None` if it is public.
    permission: Option<Permission>,
}

impl Operation {
    /// The path with this text in place of its parameters.
    fn path_with(&self, id: &str) -> String {
        let parts = self.path.split('/').map(|part| match part {
            part if part.starts_with('{') => id,
            part => part,
        });
        parts.collect::<Vec<_>>().join("/")
    }

    fn is_of_tenant(&self) -> bool {
        let holders = self.permission.map(Permission::holders);
        holders.is_some_and(|holders| holders.keys != KeyAccess::Never)
    }
}

async fn operations(pipeline: &Pipeline) -> Vec<Operation> {
    let (_, document) = pipeline.get("/openapi.json").await;
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let permission = operation["x-permission"].as_str();
            found.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                permission: permission.map(|name| name.parse().unwrap()),
            });
        }
    }
    found
}

/// What a request is answered.
async fn send(
    pipeline: &Pipeline,
    (method, path): (&Method, &str),
    credentials: Option<&str>,
) -> (StatusCode, Value) {
    let mut request = pipeline.anonymous(method.clone(), path);
    if let Some(credentials) = credentials {
        request = request.header("Authorization", credentials);
    }
    if [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        request = request.json(&json!({}));
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[tokio::test]
async fn every_route_is_public_or_names_its_permission() {
    let pipeline = Pipeline::start().await;
    let all = operations(&pipeline).await;
    let mut public: Vec<&str> = all
        .iter()
        .filter(|operation| operation.permission.is_none())
        .map(|operation| operation.path.as_str())
        .collect();
    public.sort_unstable();
    assert_eq!(
        public,
        [
            "/errors",
            "/errors/{code}",
            "/livez",
            "/readyz",
            "/v1/models",
            "/v1/models/{id}",
        ]
    );
    for &permission in Permission::ALL {
        let is_used = all
            .iter()
            .any(|operation| operation.permission == Some(permission));
        assert!(is_used, "no route needs {permission:?}");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn no_route_answers_without_valid_credentials() {
    let pipeline = Pipeline::start().await;
    let revoked = pipeline.add_key().await;
    let id = ApiKey::parse(&revoked).unwrap().id;
    cli::commands::key::revoke(&pipeline.config, None, TESTER, pipeline.tenant, &id)
        .await
        .unwrap();
    let terms = KeyTerms {
        expires_at: Some(clock::now() - time::Duration::SECOND),
        ..KeyTerms::named("expired")
    };
    let expired = pipeline.add_key_with(pipeline.tenant, &terms).await;
    let unknown = ApiKey::generate();
    let mut forged = pipeline.key.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == '0' { '1' } else { '0' });
    let attacks = [
        ("no credentials", None),
        ("an empty header", Some(String::new())),
        ("another scheme", Some(format!("Basic {}", pipeline.key))),
        ("no key", Some(bearer("secret"))),
        ("an unknown key", Some(bearer(unknown.expose()))),
        ("a forged key", Some(bearer(&forged))),
        ("a revoked key", Some(bearer(&revoked))),
        ("an expired key", Some(bearer(&expired))),
    ];
    let mut sent = 0;
    for operation in operations(&pipeline).await {
        if operation.permission.is_none() {
            continue;
        }
        let path = operation.path_with("x");
        for (what, credentials) in &attacks {
            let request = (&operation.method, path.as_str());
            let (status, _) = send(&pipeline, request, credentials.as_deref()).await;
            assert_eq!(
                status,
                StatusCode::UNAUTHORIZED,
                "{operation:?} with {what}"
            );
            sent += 1;
        }
        // A key of a tenant opens no route of operators, and theirs opens no route of a tenant.
        let other = if operation.is_of_tenant() {
            OPERATOR_KEY
        } else {
            &pipeline.key
        };
        let request = (&operation.method, path.as_str());
        let (status, _) = send(&pipeline, request, Some(&bearer(other))).await;
        assert_eq!(
            status,
            StatusCode::UNAUTHORIZED,
            "{operation:?} with a key of the other kind"
        );
        sent += 1;
    }
    println!("{sent} requests without valid credentials: all were answered with 401");
    pipeline.close().await;
}

#[tokio::test]
async fn a_key_opens_only_the_routes_of_its_scopes() {
    let pipeline = Pipeline::start().await;
    let operations = operations(&pipeline).await;
    let (mut allowed, mut refused) = (0, 0);
    for scope in Permissions::grantable_to_keys().iter() {
        let terms = KeyTerms::with_scopes(scope.as_str(), Permissions::from_iter([scope]));
        let key = bearer(&pipeline.add_key_with(pipeline.tenant, &terms).await);
        for operation in operations
            .iter()
            .filter(|operation| operation.is_of_tenant())
        {
            let path = operation.path_with("x");
            let request = (&operation.method, path.as_str());
            let (status, problem) = send(&pipeline, request, Some(&key)).await;
            if operation.permission == Some(scope) {
                assert_ne!(status, StatusCode::FORBIDDEN, "{scope:?}: {operation:?}");
                assert_ne!(status, StatusCode::UNAUTHORIZED, "{scope:?}: {operation:?}");
                allowed += 1;
            } else {
                assert_eq!(
                    problem["code"], "forbidden",
                    "{scope:?}: {operation:?}: {status}"
                );
                refused += 1;
            }
        }
    }
    println!("{allowed} requests within a scope, {refused} outside of it: each of these got 403");
    pipeline.close().await;
}

#[tokio::test]
async fn a_foreign_id_answers_like_an_unknown_id() {
    let pipeline = Pipeline::start().await;
    let job = pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let photo = include_bytes!("../../../samples/product.jpg").to_vec();
    let upload = pipeline.request(Method::POST, "/v1/uploads").body(photo);
    let upload: Value = upload.send().await.unwrap().json().await.unwrap();
    let everything = KeyTerms::with_scopes("everything", Permissions::grantable_to_keys());
    let key = pipeline.add_key_with(pipeline.tenant, &everything).await;
    let key_id = ApiKey::parse(&key).unwrap().id;
    // By the noun of the path: an id of the first tenant, and one that nobody has.
    let ids = BTreeMap::from([
        (
            "jobs",
            [
                text(&job["id"]),
                "job_01kavm5pw8e0t9xqyp7x9r7m4b".to_owned(),
            ],
        ),
        (
            "artifacts",
            [
                text(&job["artifacts"][0]["id"]),
                "art_01kavm5pw8e0t9xqyp7x9r7m4b".to_owned(),
            ],
        ),
        (
            "uploads",
            [
                text(&upload["id"]),
                "upl_01kavm5pw8e0t9xqyp7x9r7m4b".to_owned(),
            ],
        ),
        ("keys", [key_id, "000000000000".to_owned()]),
    ]);
    let (other, _) = pipeline.add_tenant(100).await;
    let attacker = bearer(&pipeline.add_key_with(other, &everything).await);
    let mut compared = 0;
    for operation in operations(&pipeline).await {
        if !operation.is_of_tenant() || !operation.path.contains('{') {
            continue;
        }
        let noun = operation.path.split('/').nth(2).unwrap();
        let mut answers = Vec::new();
        for id in &ids[noun] {
            let path = operation.path_with(id);
            let request = (&operation.method, path.as_str());
            let (status, mut problem) = send(&pipeline, request, Some(&attacker)).await;
            // What differs between any two answers: the id itself, and the id of the request.
            problem["detail"] = text(&problem["detail"]).replace(id, "…").into();
            problem["instance"] = text(&problem["instance"]).replace(id, "…").into();
            problem["request_id"] = Value::Null;
            answers.push((status, problem));
        }
        let [foreign, unknown] = answers.try_into().unwrap();
        assert_eq!(
            foreign.0,
            StatusCode::NOT_FOUND,
            "{operation:?}: {}",
            foreign.1
        );
        assert_eq!(foreign, unknown, "{operation:?}");
        compared += 1;
    }
    println!("{compared} routes answered a foreign id as an unknown one");
    // As a cursor a foreign id leads to nothing: the pages are empty, as those of the attacker are.
    for (noun, [foreign, _]) in &ids {
        if *noun == "artifacts" {
            continue;
        }
        let path = format!("/v1/{noun}?starting_after={foreign}");
        let (status, page) = send(&pipeline, (&Method::GET, &path), Some(&attacker)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {page}");
        let leaked = page["data"].as_array().unwrap().iter();
        let leaked = leaked.filter(|item| item["id"] == ids[noun][0].as_str());
        assert_eq!(leaked.count(), 0, "{path}");
    }
    pipeline.close().await;
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
