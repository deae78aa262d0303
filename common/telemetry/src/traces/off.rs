//! Replaces `otlp.rs` in programs built without the feature `otel`: records nothing.

use tracing::Span;
use tracing_subscriber::layer::Identity;

use domain::traceparent::TraceParent;

/// Stands in for the exporter of `otlp.rs`, and does nothing.
#[derive(Default)]
pub struct TraceExporter;

pub(crate) fn layer() -> Option<(Identity, TraceExporter)> {
    if super::is_wanted() {
        super::report("no traces are sent: this program was built without the feature `otel`");
    }
    None
}

pub(super) fn set_parent(_span: &Span, _parent: &TraceParent) {}

pub(super) fn traceparent(_span: &Span) -> Option<TraceParent> {
    None
}
