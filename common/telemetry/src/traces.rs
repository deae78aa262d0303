//! Traces: from the client's `traceparent` to the request, to every attempt, and to each call of a
//! model.
//!
//! All names and attributes of spans are in this file, because OpenTelemetry's conventions for
//! generative AI still change (opentelemetry.io/docs/specs/semconv, "Generative AI"; their status
//! was "development" in November 2026). No span contains a prompt or a key.
//!
//! Without the feature `otel`, or without `OTEL_EXPORTER_OTLP_ENDPOINT`, these spans are not
//! recorded. The client's `traceparent` is stored and passed on in any case.

use std::fmt;

use tracing::Span;
use tracing::field::Empty;

use domain::catalog::{Lane, Tokens};
use domain::id::{CallId, JobId};
use domain::outcome::Class;
use domain::outcome::table::Dialect;

#[cfg_attr(not(feature = "otel"), path = "traces/off.rs")]
mod otlp;

use domain::traceparent::TraceParent;

/// Sends spans until the value is dropped. Dropping it sends the last spans.
pub use otlp::TraceExporter;
pub(super) use otlp::layer;

/// The target of all spans of this file. They are exported as traces and never logged.
pub(super) const TARGET: &str = "trace";

/// The variable with the collector's URL.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The span of a request to the api. `parent` is the client's span, if the client sent one.
pub fn request(method: &str, route: &str, parent: Option<&TraceParent>) -> Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        otel.status_code = Empty,
    );
    with_parent(span, parent)
}

/// Records the status of a request's answer.
pub fn record_status(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of one attempt at a job. `parent` is the span in which the job was submitted, if one
/// was stored.
pub fn attempt(job: JobId, fence: i32, model: &str, parent: Option<&TraceParent>) -> Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "attempt",
        otel.name = format!("attempt {model}"),
        otel.kind = "consumer",
        messaging.operation.name = "process",
        messaging.message.id = %job,
        platen.attempt = fence,
    );
    with_parent(span, parent)
}

/// The span of one call of a model. Its parent is the current span.
pub fn call(dialect: Dialect, lane: &Lane, call: CallId) -> Span {
    let model = lane.model.as_str();
    tracing::debug_span!(
        target: TARGET,
        "call",
        otel.name = format!("generate_content {model}"),
        otel.kind = "client",
        gen_ai.operation.name = "generate_content",
        gen_ai.provider.name = vendor(dialect),
        gen_ai.request.model = model,
        gen_ai.output.r#type = "image",
        gen_ai.response.id = Empty,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        error.r#type = Empty,
        otel.status_code = Empty,
        platen.lane = %lane,
        platen.call = %call,
    )
}

/// Records how a call ended: its class, and the provider's response id and token counts.
pub fn record_call(span: &Span, class: Class, response: Option<&str>, tokens: Option<Tokens>) {
    if let Some(response) = response {
        span.record("gen_ai.response.id", response);
    }
    if let Some(Tokens { input, thought }) = tokens {
        span.record("gen_ai.usage.input_tokens", input);
        // Thoughts and text only: the tokens of an image are not in this number.
        span.record("gen_ai.usage.output_tokens", thought);
    }
    if class != Class::Ok {
        span.record("error.type", class.as_str());
        span.record("otel.status_code", "ERROR");
    }
}

/// The name of the provider in OpenTelemetry's conventions.
fn vendor(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Vertex => "gcp.vertex_ai",
        Dialect::Gemini | Dialect::Interactions => "gcp.gemini",
        Dialect::Openai => "openai",
    }
}

/// The `traceparent` that continues the trace of a span; `None` if the span is not recorded.
pub fn traceparent(span: &Span) -> Option<TraceParent> {
    otlp::traceparent(span)
}

/// Makes a span a child of `parent`, if there is one.
fn with_parent(span: Span, parent: Option<&TraceParent>) -> Span {
    if let Some(parent) = parent {
        otlp::set_parent(&span, parent);
    }
    span
}

/// Whether a collector is configured.
fn is_wanted() -> bool {
    std::env::var_os(ENDPOINT).is_some_and(|endpoint| !endpoint.is_empty())
}

/// Writes a line to standard error, before logging has started.
fn report(what: impl fmt::Display) {
    use std::io::Write;
    // If standard error is closed, there is no other place to report it.
    let _ignored = writeln!(std::io::stderr(), "{ENDPOINT}: {what}");
}
