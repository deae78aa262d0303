//! A call that asks for images, from the request to the reply. All vendors share this order: journal, credentials,
//! admission limit, request, fault, delay, reply.
//!
//! The format of the request and the reply depends on the vendor: see `openai` for one.

use super::{
    connection::Connection,
    fault::Fault,
    faults::{self, CallPlan, Refusal},
    journal::{Entry, ReceivedCall},
    reply::{Delivery, Reply},
    service::Service,
};
use axum::{
    http::{HeaderMap, Method, header},
    response::Response,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A vendor whose protocol the fake speaks.
pub(super) trait Vendor: fmt::Debug + Send + Sync {
    /// Whether this vendor has this method and path.
    fn serves(&self, method: &Method, path: &str) -> bool;

    /// Answers a request for which [`Self::serves`] is true.
    fn answer(
        self: Arc<Self>,
        service: Service,
        incoming: IncomingRequest,
    ) -> BoxFuture<'static, Response>;
}

/// A request that was received.
pub(super) struct IncomingRequest {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// The body as it was received.
    pub(super) raw: Bytes,
    pub(super) connection: Connection,
}

/// The errors that every vendor has, in one vendor's format.
pub(super) trait Errors: Send + Sync {
    /// The error that the vendor sends with this HTTP status. `retry_after` says how long to wait after a 429.
    fn status_error(&self, code: u16, retry_after: Option<Duration>) -> Reply;

    /// 429 beyond the admission limit. The next call is admitted after `wait`.
    fn over_limit(&self, wait: Duration) -> Reply {
        self.status_error(429, Some(wait))
    }

    /// 429 because there is no quota at all, so that waiting does not help.
    fn no_quota(&self) -> Reply;

    /// 400 with a sentence that says what is wrong with the request.
    fn invalid(&self, sentence: String) -> Reply;
}

/// A call that asks for images, in one vendor's protocol.
pub(super) trait Creation: Errors + 'static {
    /// A valid request.
    type ImageRequest: Send + 'static;

    /// The vendor's name in the journal.
    fn vendor(&self) -> &'static str;

    /// Checks that the request has credentials of the right kind. Any value is accepted.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Reply>;

    /// Checks the request as the vendor checks it. This is CPU work, which runs off the async threads.
    fn read(&self) -> Result<Self::ImageRequest, Reply>;

    /// The prompt, which may carry fault markers.
    fn prompt(request: &Self::ImageRequest) -> &str;

    /// Whether this vendor can play a fault.
    fn supports(&self, fault: &Fault) -> bool {
        fault.is_common()
    }

    /// The fault that this vendor plays for a refusal.
    fn refusal(&self, refusal: Refusal) -> Fault;

    /// Whether the caller waits for the image. Otherwise the reply comes at once and says where to poll.
    fn is_synchronous(_: &Self::ImageRequest) -> bool {
        true
    }

    /// The reply to a valid request: good, or with the fault of its plan. This is CPU work, which runs off the async
    /// threads.
    fn answer(&self, request: Self::ImageRequest, plan: CallPlan) -> Reply;
}

/// Answers a call that asks for images.
pub(super) async fn create(
    service: &Service,
    incoming: IncomingRequest,
    entry: Entry,
    creation: impl Creation,
) -> Response {
    let number = service.journal.open(ReceivedCall {
        vendor: creation.vendor(),
        creates: true,
        method: incoming.method.to_string(),
        path: incoming.path.clone(),
        entry,
        raw: incoming.raw.clone(),
    });
    let reply = answer_creation(service, &incoming, Arc::new(creation)).await;
    finish(service, number, reply)
}

/// Answers any other call, such as a poll. The journal keeps it, but does not count it as a call that asks for images.
pub(super) async fn answer_other(
    service: &Service,
    incoming: &IncomingRequest,
    vendor: &'static str,
    reply: impl Future<Output = Reply>,
) -> Response {
    let number = service.journal.open(ReceivedCall {
        vendor,
        creates: false,
        method: incoming.method.to_string(),
        path: incoming.path.clone(),
        entry: Entry::default(),
        raw: incoming.raw.clone(),
    });
    finish(service, number, reply.await)
}

/// Records the reply to the call with this number in the journal, and makes the response.
fn finish(service: &Service, number: u64, reply: Reply) -> Response {
    service.journal.close(
        number,
        reply.status,
        &reply.outcome,
        reply.image_sha256.clone(),
    );
    reply.into_response(service.stop_signal.clone())
}

/// Checks, plans and answers a call that asks for images, in the order that this module describes.
async fn answer_creation<C: Creation>(
    service: &Service,
    incoming: &IncomingRequest,
    creation: Arc<C>,
) -> Reply {
    if let Err(reply) = creation.authorize(&incoming.headers) {
        return reply;
    }
    if let Err(wait) = service.faults.acquire_admission() {
        return creation.over_limit(wait).with_outcome("throttle");
    }
    let reader = Arc::clone(&creation);
    let request = match blocking(move || reader.read()).await {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    let plan = match plan_call(service, &*creation, C::prompt(&request)) {
        Ok(plan) => plan,
        Err(sentence) => return creation.invalid(sentence),
    };

    let fault = plan.fault.clone();
    let is_synchronous = C::is_synchronous(&request);
    let delay = plan.delay;
    let answerer = Arc::clone(&creation);
    let good = async {
        // In the background, the reply comes at once and only the work never ends.
        if is_synchronous && fault == Some(Fault::Never) {
            std::future::pending::<()>().await;
        }
        blocking(move || answerer.answer(request, plan)).await
    };
    let delayed = async {
        if is_synchronous {
            tokio::time::sleep(delay).await;
        }
        apply_fault(
            service,
            &incoming.connection,
            &*creation,
            fault.as_ref(),
            good,
        )
        .await
    };
    let reply = tokio::select! {
        reply = delayed => reply,
        () = service.stop_signal.cancelled() => return creation.status_error(503, None),
    };
    match fault {
        Some(fault) => reply.with_outcome(fault.to_string()),
        None => reply,
    }
}

/// Plans a call: its fault and delay. The error says that a marker of the prompt is unknown, or that this vendor cannot play a
/// fault that the prompt or the switches ask for.
fn plan_call<C: Creation>(
    service: &Service,
    creation: &C,
    prompt: &str,
) -> Result<CallPlan, String> {
    let unsupported = |fault: &Fault| {
        let vendor = creation.vendor();
        format!("The fake cannot play the fault '{fault}' as {vendor}.")
    };
    let markers = faults::markers(prompt).map_err(|error| error.to_string())?;
    // Before the plan, so that a call that is refused takes no fault from the queue of the switches.
    if let Some(marker) = markers
        .iter()
        .find(|marker| !creation.supports(&marker.fault))
    {
        return Err(unsupported(&marker.fault));
    }
    let plan = (service.faults).plan(prompt, markers, |refusal| creation.refusal(refusal));
    // The switches may have given the fault.
    let polls = plan.polls.iter().map(|marker| &marker.fault);
    match (polls.chain(&plan.fault)).find(|fault| !creation.supports(fault)) {
        Some(fault) => Err(unsupported(fault)),
        None => Ok(plan),
    }
}

/// Returns the good reply, changed by a fault of the connection or of the status. The vendor plays other faults itself.
pub(super) async fn apply_fault(
    service: &Service,
    connection: &Connection,
    errors: &impl Errors,
    fault: Option<&Fault>,
    good: impl Future<Output = Reply>,
) -> Reply {
    match fault {
        Some(Fault::Status(502)) => Reply::page(502),
        Some(Fault::Status(code)) => errors.status_error(*code, None),
        Some(Fault::Throttle(seconds)) => {
            errors.status_error(429, Some(Duration::from_secs((*seconds).into())))
        }
        Some(Fault::NoQuota) => errors.no_quota(),
        Some(Fault::NotJson) => Reply::page(200),
        Some(Fault::Trickle) => Reply::page(200).with_delivery(Delivery::Trickling),
        Some(Fault::Oversized) => Reply::page(200).with_delivery(Delivery::Oversized),
        Some(Fault::Cut) => good.await.with_delivery(Delivery::Cut),
        Some(Fault::Stall) => good.await.with_delivery(Delivery::Stalled),
        Some(Fault::Reset) => {
            connection.reset();
            // This reply is not sent, because its first write resets the connection.
            Reply::page(503)
        }
        Some(Fault::Hang) => {
            service.stop_signal.cancelled().await;
            errors.status_error(503, None)
        }
        _ => good.await,
    }
}

/// The token of an `Authorization: Bearer` header. Returns `None` if it is missing or empty.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim();
    (!token.is_empty()).then_some(token)
}

/// Runs CPU work off the async threads, which serve the connections.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading and drawing do not panic, and the runtime outlives its server")
}

/// Sixteen unique bytes. Because they depend on the clock, they differ from those of an earlier process.
pub(super) fn unique() -> [u8; 16] {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let digest = Sha256::new()
        .chain_update(now().unix_timestamp_nanos().to_be_bytes())
        .chain_update(number.to_be_bytes())
        .finalize();
    *digest.first_chunk().expect("a digest is longer")
}

/// The vendor's clock. No deadline of ours depends on it.
#[expect(
    clippy::disallowed_methods,
    reason = "the vendor has a clock of its own"
)]
pub(super) fn now() -> time::OffsetDateTime {
    std::time::SystemTime::now().into()
}
