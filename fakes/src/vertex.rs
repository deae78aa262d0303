//! Google Vertex AI, image generation: `…/publishers/google/models/{model}:generateContent`.
//!
//! Paths, JSON, limits, pixel sizes and errors are Google's; only the picture is not, and it says so. It is drawn from
//! the prompt and the photos of the request, so a person sees that both went in, and it is the same whenever the request
//! is. Under `/__fake/` the fake has what Google has not: its faults and its journal.
//!
//! Read next: `call` for one call from path to reply, `request` for what is accepted, `answer` for what is said,
//! `picture` for what is drawn, `fault` for what can go wrong.

mod answer;
mod call;
mod catalog;
mod controls;
mod fault;
mod faults;
mod journal;
mod picture;
mod reply;
mod request;
mod schema;
mod wire;

pub use fault::{Fault, UnknownFault};
pub use faults::{Faults, Latency, REFUSED_WORDS, Switches};
pub use journal::{Call, Journal};

use anyhow::Context;
use axum::{Router, extract::DefaultBodyLimit, routing::get};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Fourteen pictures of 7 MB as base64, and room for words.
const MOST_BODY_BYTES: usize = 150 * 1024 * 1024;

/// How to start the fake.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// What calls meet from the start.
    pub switches: Switches,
}

/// A running fake. Dropping it stops it.
#[derive(Debug)]
pub struct Vertex {
    address: SocketAddr,
    service: Service,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Vertex {
    /// Binds 127.0.0.1 and serves from now on.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
            .await
            .with_context(|| format!("binding the fake Vertex AI to port {}", options.port))?;
        let address = listener.local_addr()?;
        let service = Service {
            journal: Journal::new(),
            faults: Faults::default(),
            stopping: CancellationToken::new(),
        };
        service.faults.set(options.switches);
        let tasks = TaskTracker::new();
        let app = service.clone().router();
        let stopping = service.stopping.clone();
        tasks.spawn(async move {
            let server =
                axum::serve(listener, app).with_graceful_shutdown(stopping.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "The fake Vertex AI stopped by itself");
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

    /// `http://127.0.0.1:<port>`, in place of `https://aiplatform.googleapis.com`.
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

#[derive(Clone, Debug)]
struct Service {
    journal: Journal,
    faults: Faults,
    stopping: CancellationToken,
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
            // Google's paths end in `{model}:{verb}`, which is no path segment a router could match.
            .fallback(call::call)
            .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
            .with_state(self)
    }
}
