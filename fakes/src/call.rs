//! A call that asks for pictures, from the request to the reply: the order of things, which every vendor shares.
//!
//! First the journal, then the credentials, the admission limit, the request, its fault, the wait, the reply. What a
//! request and a reply look like is the vendor's; see `openai` for one.

use super::{
    connection::Connection,
    fault::Fault,
    faults::{self, Fate, Refusal},
    journal::{Entry, Received},
    reply::{Manner, Reply},
    server::Service,
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

/// Somebody whose protocol the fake speaks.
pub(super) trait Vendor: fmt::Debug + Send + Sync {
    /// Whether a path is one of this vendor's.
    fn serves(&self, method: &Method, path: &str) -> bool;

    /// Answers a request on such a path.
    fn answer(
        self: Arc<Self>,
        service: Service,
        incoming: Incoming,
    ) -> BoxFuture<'static, Response>;
}

/// A request as it comes in.
pub(super) struct Incoming {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) raw: Bytes,
    pub(super) connection: Connection,
}

/// The errors of a protocol, as far as every vendor has them.
pub(super) trait Errors: Send + Sync {
    /// The error the vendor sends with this HTTP status; for a 429 perhaps with a hint how long to wait.
    fn of_status(&self, code: u16, hint: Option<Duration>) -> Reply;

    /// 429 beyond the admission limit, which lets in again after `wait`.
    fn busy(&self, wait: Duration) -> Reply {
        self.of_status(429, Some(wait))
    }

    /// 429 that waiting does not help against.
    fn no_quota(&self) -> Reply;

    /// 400 that says what is wrong with the request.
    fn invalid(&self, sentence: String) -> Reply;
}

/// A call that asks for pictures, in one vendor's protocol.
pub(super) trait Creation: Errors + 'static {
    /// A valid request.
    type Ask: Send + 'static;

    /// The vendor's name in the journal.
    fn vendor(&self) -> &'static str;

    /// Whether the credentials will do.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Reply>;

    /// Checks the request as the vendor checks it. Work for a processor.
    fn read(&self) -> Result<Self::Ask, Reply>;

    /// The user's words, where faults are marked.
    fn prompt(ask: &Self::Ask) -> &str;

    /// Whether a fault makes sense for this vendor.
    fn plays(&self, fault: &Fault) -> bool {
        fault.of_any_vendor()
    }

    /// How this vendor refuses.
    fn refusal(&self, refusal: Refusal) -> Fault;

    /// Whether the caller waits for the picture, or is told at once where to ask for it.
    fn waits(_: &Self::Ask) -> bool {
        true
    }

    /// The reply to a valid request, good or as its fate has it. Work for a processor.
    fn answer(&self, ask: Self::Ask, fate: Fate) -> Reply;
}

/// Takes a call from the request to the reply.
pub(super) async fn create(
    service: &Service,
    incoming: Incoming,
    entry: Entry,
    creation: impl Creation,
) -> Response {
    let number = service.journal.open(Received {
        vendor: creation.vendor(),
        creates: true,
        method: incoming.method.to_string(),
        path: incoming.path.clone(),
        entry,
        raw: incoming.raw.clone(),
    });
    let reply = conduct(service, &incoming, Arc::new(creation)).await;
    finish(service, number, reply)
}

/// Takes any other call of a vendor's to its reply.
pub(super) async fn attend(
    service: &Service,
    incoming: &Incoming,
    vendor: &'static str,
    reply: impl Future<Output = Reply>,
) -> Response {
    let number = service.journal.open(Received {
        vendor,
        creates: false,
        method: incoming.method.to_string(),
        path: incoming.path.clone(),
        entry: Entry::default(),
        raw: incoming.raw.clone(),
    });
    finish(service, number, reply.await)
}

fn finish(service: &Service, number: u64, reply: Reply) -> Response {
    service
        .journal
        .close(number, reply.status, &reply.outcome, reply.picture.clone());
    reply.into_response(service.stopping.clone())
}

async fn conduct<C: Creation>(service: &Service, incoming: &Incoming, creation: Arc<C>) -> Reply {
    if let Err(reply) = creation.authorize(&incoming.headers) {
        return reply;
    }
    if let Err(wait) = service.faults.enter() {
        return creation.busy(wait).told("throttle");
    }
    let reader = Arc::clone(&creation);
    let ask = match blocking(move || reader.read()).await {
        Ok(ask) => ask,
        Err(reply) => return reply,
    };
    let fate = match draw_lot(service, &*creation, C::prompt(&ask)) {
        Ok(fate) => fate,
        Err(sentence) => return creation.invalid(sentence),
    };

    let fault = fate.fault.clone();
    let waits = C::waits(&ask);
    let delay = fate.delay;
    let answerer = Arc::clone(&creation);
    let good = async {
        if waits && fault == Some(Fault::Never) {
            std::future::pending::<()>().await;
        }
        blocking(move || answerer.answer(ask, fate)).await
    };
    let delayed = async {
        if waits {
            tokio::time::sleep(delay).await;
        }
        meet(
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
        () = service.stopping.cancelled() => return creation.of_status(503, None),
    };
    match fault {
        Some(fault) => reply.told(fault.to_string()),
        None => reply,
    }
}

/// What befalls a call, or what is wrong with the faults it asks for.
fn draw_lot<C: Creation>(service: &Service, creation: &C, prompt: &str) -> Result<Fate, String> {
    let foreign = |fault: &Fault| {
        let vendor = creation.vendor();
        format!("The fake cannot play the fault '{fault}' as {vendor}.")
    };
    let markers = faults::markers(prompt).map_err(|error| error.to_string())?;
    if let Some(marker) = markers.iter().find(|marker| !creation.plays(&marker.fault)) {
        return Err(foreign(&marker.fault));
    }
    let fate = (service.faults).fate(prompt, markers, |refusal| creation.refusal(refusal));
    let polls = fate.polls.iter().map(|marker| &marker.fault);
    match (polls.chain(&fate.fault)).find(|fault| !creation.plays(fault)) {
        Some(fault) => Err(foreign(fault)),
        None => Ok(fate),
    }
}

/// The good reply, or what a fault of the connection or the status makes of it.
pub(super) async fn meet(
    service: &Service,
    connection: &Connection,
    errors: &impl Errors,
    fault: Option<&Fault>,
    good: impl Future<Output = Reply>,
) -> Reply {
    match fault {
        Some(Fault::Status(502)) => Reply::page(502),
        Some(Fault::Status(code)) => errors.of_status(*code, None),
        Some(Fault::Throttle(seconds)) => {
            errors.of_status(429, Some(Duration::from_secs((*seconds).into())))
        }
        Some(Fault::NoQuota) => errors.no_quota(),
        Some(Fault::NotJson) => Reply::page(200),
        Some(Fault::Trickle) => Reply::page(200).sent(Manner::Trickling),
        Some(Fault::Oversized) => Reply::page(200).sent(Manner::Oversized),
        Some(Fault::Cut) => good.await.sent(Manner::Cut),
        Some(Fault::Stall) => good.await.sent(Manner::Stalled),
        Some(Fault::Reset) => {
            connection.reset();
            Reply::page(503)
        }
        Some(Fault::Hang) => {
            service.stopping.cancelled().await;
            errors.of_status(503, None)
        }
        _ => good.await,
    }
}

/// The token of an `Authorization: Bearer` header, if there is one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim();
    (!token.is_empty()).then_some(token)
}

/// Reading and drawing are work for a processor: not for the threads that serve sockets.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading and drawing do not panic, and the runtime outlives its server")
}

/// Sixteen bytes unlike any others: also after the fake has been started again.
pub(super) fn unique() -> [u8; 16] {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let number = DRAWN.fetch_add(1, Ordering::Relaxed);
    let digest = Sha256::new()
        .chain_update(now().unix_timestamp_nanos().to_be_bytes())
        .chain_update(number.to_be_bytes())
        .finalize();
    *digest.first_chunk().expect("a digest is longer")
}

/// The vendor's own clock; nobody's deadline hangs on it.
#[expect(
    clippy::disallowed_methods,
    reason = "the vendor has a clock of its own"
)]
pub(super) fn now() -> time::OffsetDateTime {
    std::time::SystemTime::now().into()
}
