//! One trace, from the client over the api and a worker of its own process to the call, as a collector receives it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use reqwest::Method;
use serde_json::json;
use tests::fleet::Role;
use tests::real::Real;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

type Received = Arc<Mutex<Vec<Span>>>;

async fn receive(State(received): State<Received>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let scopes = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans);
    received
        .lock()
        .unwrap()
        .extend(scopes.flat_map(|scope| scope.spans));
}

fn said(span: &Span, key: &str) -> Option<String> {
    let attribute = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    Some(match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

#[tokio::test]
async fn a_trace_goes_from_the_client_to_the_call() {
    let received = Received::default();
    let collector = Router::new()
        .route("/v1/traces", post(receive))
        .with_state(Arc::clone(&received));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    TaskTracker::new().spawn(async { axum::serve(listener, collector).await.unwrap() });

    let Real {
        pipeline,
        fake: _fake,
        mut orders,
        folders: _folders,
    } = Real::start(10..=20).await;
    orders.environment.extend([
        ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "200".to_owned()),
    ]);
    let mut apis = orders.start(Role::Api, 1).await.unwrap();
    let mut workers = orders.start(Role::Worker, 1).await.unwrap();
    let submit = async |prompt: &str| {
        let url = format!("http://{}/v1/jobs", apis[0].address());
        let request = pipeline
            .anonymous(Method::POST, &url)
            .bearer_auth(&pipeline.key)
            .header("traceparent", format!("00-{TRACE}-{CLIENT}-01"))
            .json(&json!({"model": "gemini-3-pro-image", "prompt": prompt, "size": "1K"}));
        let job: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        let id = job["id"].as_str().unwrap().to_owned();
        pipeline.ended_within(&id, Duration::from_secs(20)).await;
        id
    };
    let (good, refused) = (
        submit("a secret bottle").await,
        submit("something forbidden").await,
    );
    // Stopping sends what is left.
    assert!(apis[0].stop().await.unwrap().success());
    assert!(workers[0].stop().await.unwrap().success());

    let spans = received.lock().unwrap().clone();
    let of_trace: Vec<&Span> = spans
        .iter()
        .filter(|span| hex::encode(&span.trace_id) == TRACE)
        .collect();
    let named = |name: &str| {
        let spans = of_trace.iter().filter(|span| span.name == name);
        spans.copied().collect::<Vec<&Span>>()
    };
    let (requests, attempts, calls) = (
        named("POST /v1/jobs"),
        named("attempt gemini-3-pro-image"),
        named("generate_content gemini-3-pro-image"),
    );
    assert_eq!(
        (requests.len(), attempts.len(), calls.len(), of_trace.len()),
        (2, 2, 2, 6),
        "{of_trace:#?}"
    );
    for request in &requests {
        assert_eq!(hex::encode(&request.parent_span_id), CLIENT);
        assert_eq!(request.kind, i32::from(SpanKind::Server));
        assert_eq!(
            said(request, "http.response.status_code").as_deref(),
            Some("202")
        );
    }
    for (attempt, call) in attempts.iter().zip(&calls) {
        let parent = requests
            .iter()
            .any(|request| request.span_id == attempt.parent_span_id);
        assert!(
            parent,
            "an attempt belongs to the request that submitted its job"
        );
        assert_eq!(attempt.kind, i32::from(SpanKind::Consumer));
        assert_eq!(call.parent_span_id, attempt.span_id);
        assert_eq!(call.kind, i32::from(SpanKind::Client));
        assert_eq!(
            said(call, "gen_ai.operation.name").as_deref(),
            Some("generate_content")
        );
        assert_eq!(
            said(call, "gen_ai.provider.name").as_deref(),
            Some("gcp.vertex_ai")
        );
        assert_eq!(said(call, "gen_ai.output.type").as_deref(), Some("image"));
        let job = said(attempt, "messaging.message.id").unwrap();
        let (error, input) = (
            said(call, "error.type"),
            said(call, "gen_ai.usage.input_tokens"),
        );
        if job == good {
            assert_eq!(error, None);
            assert!(input.is_some(), "{call:#?}");
        } else {
            assert_eq!(job, refused);
            assert!(error.is_some_and(|class| class.starts_with("refused")));
        }
    }
    assert!(
        !format!("{spans:?}").contains("secret"),
        "a prompt is in a trace"
    );
    pipeline.close().await;
}

/// What is no `traceparent` is nobody's trace, and no error.
#[tokio::test]
async fn the_clients_trace_is_kept_on_the_job_and_nonsense_is_not() {
    let pipeline = tests::Pipeline::start().await;
    let kept = async |header: &str| {
        let request = pipeline
            .request(Method::POST, "/v1/jobs")
            .header("traceparent", header)
            .json(&tests::pipeline::small_job());
        let job: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        let id = job["id"].as_str().unwrap().to_owned();
        pipeline.ended(&id).await;
        let id: domain::id::JobId = id.parse().unwrap();
        sqlx::query_scalar::<_, Option<String>>("SELECT traceparent FROM jobs WHERE id = $1")
            .bind(id.0)
            .fetch_one(&pipeline.reader)
            .await
            .unwrap()
    };
    let good = format!("00-{TRACE}-{CLIENT}-00");
    assert_eq!(kept(&good).await, Some(good));
    assert_eq!(kept("00-nonsense-01").await, None);
    pipeline.close().await;
}
