//! The server: one address for every vendor.

use super::{
    call::{Incoming, Vendor},
    connection::{Connection, Listener},
    controls,
    faults::{Faults, Switches},
    generate_content::GenerateContent,
    interactions::Interactions,
    journal::Journal,
    metadata,
    openai::OpenAi,
    reply,
};
use anyhow::Context;
use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
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

/// Every vendor the fake plays.
fn vendors() -> Vec<Arc<dyn Vendor>> {
    vec![
        Arc::new(GenerateContent),
        Arc::<Interactions>::default(),
        Arc::<OpenAi>::default(),
    ]
}

/// Fourteen pictures of 7 MB as base64, and room for words.
const MOST_BODY_BYTES: usize = 150 * 1024 * 1024;

/// How to start the fake.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens: 127.0.0.1, unless it plays for containers, which reach this machine by another address.
    pub host: IpAddr,
    /// 0 takes a free one.
    pub port: u16,
    /// What calls meet from the start.
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

/// A running fake. Dropping it stops it.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    service: Service,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Fake {
    /// Binds its port and serves from now on.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((options.host, options.port))
            .await
            .with_context(|| format!("binding the fake vendors to port {}", options.port))?;
        let address = listener.local_addr()?;
        let service = Service {
            journal: Journal::new(),
            faults: Faults::default(),
            stopping: CancellationToken::new(),
            vendors: vendors().into(),
        };
        service.faults.set(options.switches);
        let tasks = TaskTracker::new();
        let app = (service.clone().router()).into_make_service_with_connect_info::<Connection>();
        let stopping = service.stopping.clone();
        tasks.spawn(async move {
            let server = axum::serve(Listener(listener), app)
                .with_graceful_shutdown(stopping.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "The fake vendors stopped by themselves");
            }
        });
        tasks.close();
        let stop = service.stopping.clone().drop_guard();
        Ok(Self {
            address,
            service,
            tasks,
            stop,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`, in place of the vendor's own address.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked.
    pub fn journal(&self) -> Journal {
        self.service.journal.clone()
    }

    /// What it should do wrong.
    pub fn faults(&self) -> Faults {
        self.service.faults.clone()
    }

    /// Stops taking calls, ends those that hang or wait, and returns when the others are answered.
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

/// What every call can reach.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) journal: Journal,
    pub(super) faults: Faults,
    pub(super) stopping: CancellationToken,
    vendors: Arc<[Arc<dyn Vendor>]>,
}

impl Service {
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
            .route(metadata::TOKEN, get(metadata::token))
            // Google's paths end in `{model}:{verb}`, which is no path segment a router could match.
            .fallback(call)
            .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
            .with_state(self)
    }
}

/// Every path that is not the fake's own: some vendor's, or nobody's.
async fn call(
    State(service): State<Service>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    raw: Bytes,
) -> Response {
    let vendor = (service.vendors.iter()).find(|vendor| vendor.serves(&method, uri.path()));
    let Some(vendor) = vendor.map(Arc::clone) else {
        return reply::no_such_page(uri.path());
    };
    let incoming = Incoming {
        method,
        path: uri.path().to_owned(),
        headers,
        raw,
        connection,
    };
    vendor.answer(service, incoming).await
}
