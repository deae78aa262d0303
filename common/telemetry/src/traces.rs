//! Traces: one tree from the client's `traceparent` over the request and every attempt to each call of a model.
//!
//! What a span is called and says stands here and nowhere else: OpenTelemetry's conventions for generative AI still move
//! (opentelemetry.io/docs/specs/semconv, "Generative AI"; of November 2026, status development). Prompts and keys are in none of them.
//! Without the feature `otel`, or `OTEL_EXPORTER_OTLP_ENDPOINT`, all of these spans are off; the client's `traceparent` is
//! kept all the same.

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
/// Sends what is recorded until it is dropped, and what is left then.
pub use otlp::Exporting;
pub(super) use otlp::layer;

/// What all spans of this file are marked with: they are for traces, and in no line of the log.
pub(super) const TARGET: &str = "trace";

/// The variable that says where spans are sent.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// A request to the api, as a part of its client's trace.
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
    continued(span, parent)
}

/// How a request was answered.
pub fn record_status(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// One attempt at a job, as a part of the trace that it was submitted in.
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
    continued(span, parent)
}

/// One call of a model. Its parent is whatever span it is made in.
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

/// What came of a call: its class, and what the provider said of itself.
pub fn record_call(span: &Span, class: Class, response: Option<&str>, tokens: Option<Tokens>) {
    if let Some(response) = response {
        span.record("gen_ai.response.id", response);
    }
    if let Some(Tokens { input, thought }) = tokens {
        span.record("gen_ai.usage.input_tokens", input);
        // Thoughts and text; a picture is not counted in tokens here.
        span.record("gen_ai.usage.output_tokens", thought);
    }
    if class != Class::Ok {
        span.record("error.type", class.as_str());
        span.record("otel.status_code", "ERROR");
    }
}

/// As the conventions call who runs the model.
fn vendor(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Vertex => "gcp.vertex_ai",
        Dialect::Gemini | Dialect::Interactions => "gcp.gemini",
        Dialect::Openai => "openai",
    }
}

/// What goes on with a span: its own place in the trace, where it is recorded.
pub fn current(span: &Span) -> Option<TraceParent> {
    otlp::place(span)
}

fn continued(span: Span, parent: Option<&TraceParent>) -> Span {
    if let Some(parent) = parent {
        otlp::set_parent(&span, parent);
    }
    span
}

/// Whether somebody says where spans are to be sent.
fn is_wanted() -> bool {
    std::env::var_os(ENDPOINT).is_some_and(|endpoint| !endpoint.is_empty())
}

/// A line for people before logging has begun.
fn say(what: impl fmt::Display) {
    use std::io::Write;
    // Who has closed standard error does not want to know.
    let _unheard = writeln!(std::io::stderr(), "{ENDPOINT}: {what}");
}
