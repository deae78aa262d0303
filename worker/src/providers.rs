//! The models' makers. A provider is a file here and a line in [`Providers::new`].
//!
//! A provider turns a request into its wire form and the answer into a picture or a classified failure. It
//! sees neither job nor ledger; the worker owns time, retries and storage.

pub mod vertex;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::catalog::Model;
use common::config::Vertex;
use common::generation::image::{AspectRatio, MediaType, Role, Size};
use common::id::{CallId, JobId};
use common::outcome::Failure;
use futures::future::BoxFuture;
use serde_json::Value;

/// Everything a provider needs to make one picture. Holds the prompt, so it is never printed.
#[derive(Clone)]
pub struct PictureRequest<'a> {
    pub model: &'a Model,
    pub prompt: &'a str,
    pub art_direction: Option<&'a str>,
    pub inputs: &'a [InputPicture],
    pub aspect_ratio: AspectRatio,
    pub size: Size,
    pub seed: Option<i32>,
    /// For the provider's invoice, where it can carry labels.
    pub job: JobId,
    pub call: CallId,
}

/// A picture the tenant gave us.
#[derive(Clone)]
pub struct InputPicture {
    pub bytes: Bytes,
    pub media_type: MediaType,
    pub role: Role,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The picture's file, or how the call ended without one.
    pub picture: Result<Bytes, Failure>,
    /// The provider's id for this answer.
    pub provider_request_id: Option<String>,
    /// What the provider metered, as it says it.
    pub usage: Option<Value>,
}

impl Answer {
    /// An answer that told nothing but how it failed.
    pub fn failed(failure: Failure) -> Self {
        Self {
            picture: Err(failure),
            provider_request_id: None,
            usage: None,
        }
    }
}

/// Someone who runs models.
pub trait Provider: Send + Sync {
    /// Makes one picture: one paid call. Never waits longer than the transport does, never tries again.
    fn submit<'a>(&'a self, request: &'a PictureRequest<'a>) -> BoxFuture<'a, Answer>;

    /// Whether its pictures are synthetic: a fake that calls no AI model.
    fn synthetic(&self) -> bool;
}

/// Every provider this process can call, by the name the catalogue uses.
#[derive(Clone)]
pub struct Providers(Arc<BTreeMap<&'static str, Box<dyn Provider>>>);

impl Providers {
    /// Connects to the providers that are configured.
    pub fn new(vertex: &Vertex) -> anyhow::Result<Self> {
        let vertex: Box<dyn Provider> = Box::new(vertex::VertexAi::new(vertex)?);
        Ok(Self(Arc::new(BTreeMap::from([("vertex", vertex)]))))
    }

    pub fn get(&self, name: &str) -> Option<&dyn Provider> {
        self.0.get(name).map(AsRef::as_ref)
    }
}
