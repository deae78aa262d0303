//! Sends spans to a collector by OTLP over HTTP (opentelemetry.io/docs/specs/otlp). The SDK itself
//! reads the `OTEL_…` variables for the endpoint, headers, sampler, resource and batches.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::Registry;

use domain::traceparent::TraceParent;

/// How long a collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends spans until the value is dropped. Dropping it sends the last spans.
#[must_use = "spans are sent until it is dropped"]
#[derive(Default)]
pub struct TraceExporter {
    provider: Option<SdkTracerProvider>,
}

/// The layer that records and sends spans; `None` if no collector is configured. Needs a Tokio
/// runtime.
pub(crate) fn layer() -> Option<(OpenTelemetryLayer<Registry, Tracer>, TraceExporter)> {
    if !super::is_wanted() {
        return None;
    }
    let exporter = match exporter() {
        Ok(exporter) => exporter,
        Err(error) => {
            super::report(format_args!("no traces are sent: {error}"));
            return None;
        }
    };
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    // If the operator has set a service name, the SDK has read it already.
    let resource = if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource.with_service_name("platen")
    } else {
        resource
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("platen"))
        .with_location(false)
        .with_threads(false)
        .with_target(false);
    Some((
        layer,
        TraceExporter {
            provider: Some(provider),
        },
    ))
}

/// The exporter to the collector.
///
/// # Errors
/// Returns an error outside a Tokio runtime, or if the configuration is not valid.
fn exporter() -> Result<SpanExporter, Box<dyn Error>> {
    let client = Client {
        http: reqwest::Client::builder().timeout(EXPORT_TIMEOUT).build()?,
        runtime: Handle::try_current()?,
    };
    let exporter = SpanExporter::builder().with_http();
    Ok(exporter.with_http_client(client).build()?)
}

impl Drop for TraceExporter {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "The last traces could not be sent");
        }
    }
}

/// Makes a span a child of `parent`, which has the form `00-<trace id>-<span id>-<flags>`.
pub(super) fn set_parent(span: &Span, parent: &TraceParent) {
    let text = parent.as_str();
    let (trace, id, flags) = (&text[3..35], &text[36..52], &text[53..]);
    let (Ok(trace), Ok(id), Ok(flags)) = (
        TraceId::from_hex(trace),
        SpanId::from_hex(id),
        u8::from_str_radix(flags, 16),
    ) else {
        return;
    };
    let flags = TraceFlags::new(flags);
    let parent = SpanContext::new(trace, id, flags, true, TraceState::default());
    // This fails only if the span is not recorded.
    let _off = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// The `traceparent` that continues the trace of a span; `None` if the span is not recorded.
pub(super) fn traceparent(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let span_context = context.span().span_context().clone();
    span_context.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            span_context.trace_id(),
            span_context.span_id(),
            span_context.trace_flags().to_u8()
        )
        .parse()
        .ok()
    })?
}

/// An HTTP client for the SDK, on `reqwest` like all other HTTP clients of Platen. The SDK sends
/// batches from its own thread, which has no Tokio runtime, so requests run on ours.
struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'sent>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'a: 'sent,
        Self: 'sent,
    {
        let http = self.http.clone();
        let sending = self.runtime.spawn(async move {
            let answer = http
                .execute(request.try_into()?)
                .await?
                .error_for_status()?;
            let status = answer.status();
            let mut response = Response::new(answer.bytes().await?);
            *response.status_mut() = status;
            Ok(response)
        });
        Box::pin(async move { sending.await? })
    }
}
