//! The HTTP server, which has one address for all vendors.

use super::{
    call::{IncomingRequest, Vendor},
    connection::{Connection, Listener},
    controls,
    faults::{Faults, Switches},
    generate_content::GenerateContent,
    identity::IdentityProvider,
    interactions::Interactions,
    journal::Journal,
    metadata,
    openai::OpenAi,
    reply,
    service::Service,
};
use anyhow::Context;
use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, FromRef, State},
    http::{HeaderMap, Method, Uri},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// All vendors that the fake plays.
fn vendors(identity: &IdentityProvider) -> Vec<Arc<dyn Vendor>> {
    vec![
        Arc::new(identity.clone()),
        Arc::new(GenerateContent),
        Arc::<Interactions>::default(),
        Arc::<OpenAi>::default(),
    ]
}

/// The longest request, in bytes: fourteen images of 7 MB in base64, and text.
const MAX_BODY_BYTES: usize = 150 * 1024 * 1024;

/// How to start the fake.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address that the fake listens on. Default: 127.0.0.1. Containers reach this machine by another address.
    pub host: IpAddr,
    /// The port that the fake listens on. 0, the default, takes a free port.
    pub port: u16,
    /// The switches at the start.
    pub switches: Switches,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            switches: Switches::default(),
        }
    }
}

/// A running fake. Dropping this value stops the fake.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    service: Service,
    identity: IdentityProvider,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Fake {
    /// Binds the port and starts to serve.
    ///
    /// # Errors
    /// Returns an error if the port cannot be bound.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((options.host, options.port))
            .await
            .with_context(|| format!("binding the fake vendors to port {}", options.port))?;
        let address = listener.local_addr()?;
        let service = Service {
            journal: Journal::new(),
            faults: Faults::default(),
            stop_signal: CancellationToken::new(),
        };
        service.faults.set(options.switches);
        let tasks = TaskTracker::new();
        let identity = IdentityProvider::new(service.journal.clone());
        let state = ServerState {
            service: service.clone(),
            vendors: vendors(&identity).into(),
            identity: identity.clone(),
        };
        let app = state
            .router()
            .into_make_service_with_connect_info::<Connection>();
        let stop_signal = service.stop_signal.clone();
        tasks.spawn(async move {
            let server = axum::serve(Listener(listener), app)
                .with_graceful_shutdown(stop_signal.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "The fake vendors stopped unexpectedly");
            }
        });
        tasks.close();
        let stop = service.stop_signal.clone().drop_guard();
        Ok(Self {
            address,
            service,
            identity,
            tasks,
            stop,
        })
    }

    /// The address that the fake listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL `http://<address>:<port>`, which replaces the vendor's own base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The calls that the fake has received.
    pub fn journal(&self) -> Journal {
        self.service.journal.clone()
    }

    /// The faults that the fake plays.
    pub fn faults(&self) -> Faults {
        self.service.faults.clone()
    }

    /// The identity provider that the fake plays.
    pub fn identity(&self) -> IdentityProvider {
        self.identity.clone()
    }

    /// Stops the fake. It takes no more calls and ends calls that hang or wait. This function returns when all other
    /// calls are answered.
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

/// The state of the router.
#[derive(Clone)]
struct ServerState {
    service: Service,
    identity: IdentityProvider,
    vendors: Arc<[Arc<dyn Vendor>]>,
}

impl FromRef<ServerState> for Service {
    fn from_ref(state: &ServerState) -> Self {
        state.service.clone()
    }
}

impl FromRef<ServerState> for IdentityProvider {
    fn from_ref(state: &ServerState) -> Self {
        state.identity.clone()
    }
}

impl ServerState {
    fn router(self) -> Router {
        Router::new()
            .route(
                "/__fake/faults",
                get(controls::get_faults).put(controls::put_faults),
            )
            .route(
                "/__fake/journal",
                get(controls::get_journal).delete(controls::clear_journal),
            )
            .route(
                "/__fake/identity",
                get(controls::get_identity).put(controls::put_identity),
            )
            .route(metadata::TOKEN, get(metadata::token))
            // Google's paths end in `{model}:{verb}`. The router cannot match a part of a segment.
            .fallback(call)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self)
    }
}

/// Answers every path that is not the fake's own. The path's vendor answers, or the answer is 404 if no vendor has the
/// path.
async fn call(
    State(state): State<ServerState>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    raw: Bytes,
) -> Response {
    let ServerState {
        service, vendors, ..
    } = state;
    let vendor = vendors
        .iter()
        .find(|vendor| vendor.serves(&method, uri.path()));
    let Some(vendor) = vendor.map(Arc::clone) else {
        return reply::no_such_page(uri.path());
    };
    let incoming = IncomingRequest {
        method,
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        raw,
        connection,
    };
    vendor.answer(service, incoming).await
}
