//! Compares the running API with its OpenAPI contract, by Schemathesis (`tests/python/contract.py`).

use std::process::ExitStatus;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::pipeline::OPERATOR_KEY;
use crate::{Pipeline, root};

/// How long the remaining jobs may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(1);

/// Makes at least this many requests, with further arguments for Schemathesis. Failures are printed.
pub async fn check(pipeline: &Pipeline, requests: usize, more: &[String]) -> ExitStatus {
    let python = root(".venv/bin/python");
    assert!(
        python.exists(),
        "there is no .venv: run `scripts/setup test` (or `make contract`, which does)"
    );
    let status = Command::new(python)
        .arg(root("tests/python/contract.py"))
        .args(["--base-url", &pipeline.url, "--key", &pipeline.key])
        .args(["--operator-key", OPERATOR_KEY])
        .args(["--requests", &requests.to_string()])
        .args(more)
        .kill_on_drop(true)
        .status();
    status.await.unwrap()
}

/// Ends what the requests have left behind: pauses, and jobs that start later.
pub async fn tidy(pipeline: &Pipeline) {
    let because = json!({"reason": "the contract was checked"});
    let (_, pauses) = ask(pipeline, Method::GET, "/v1/admin/pauses", &Value::Null).await;
    for pause in pauses["data"].as_array().unwrap() {
        let path = format!("/v1/admin/pauses/{}/resume", pause["id"]);
        ask(pipeline, Method::POST, &path, &because).await;
    }
    loop {
        let (status, ended) = ask(pipeline, Method::POST, "/v1/admin/jobs/cancel", &because).await;
        assert_eq!(status, StatusCode::OK, "{ended}");
        if ended["has_more"] == false {
            break;
        }
    }
    assert!(pipeline.drained(DRAIN_TIMEOUT).await, "jobs are still open");
}

async fn ask(pipeline: &Pipeline, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
    let request = pipeline
        .anonymous(method.clone(), path)
        .bearer_auth(OPERATOR_KEY);
    let request = if method == Method::GET {
        request
    } else {
        request.json(body)
    };
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, response.json().await.unwrap_or_default())
}
