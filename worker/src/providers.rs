//! The models' makers. A provider is a file here and a line in [`Providers::new`].
//!
//! A provider turns a request into its wire form and the answer into a picture or a classified failure. It
//! sees neither job nor ledger; the worker owns time, retries and storage.

#[cfg(test)]
mod golden;
mod google;
mod http;

pub mod gemini;
pub mod generate_content;
pub mod interactions;
pub mod openai;
pub mod vertex;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use common::catalog::{self, Catalog, Lane, Model, Tokens};
use common::config::{self, Config};
use common::generation::image::{AspectRatio, InputRole, MediaType, Size};
use common::id::{CallId, JobId};
use common::memory::{Memory, MemoryPermit};
use common::outcome::table::Dialect;
use common::outcome::{Class, Failure};
use futures::future::{BoxFuture, FutureExt};
use secrecy::SecretString;
use serde_json::Value;

/// Everything a provider needs to make one picture. Holds the prompt, so it is never printed.
pub struct PictureRequest<'a> {
    pub model: &'a Model,
    pub lane: &'a Lane,
    pub prompt: &'a str,
    pub art_direction: Option<&'a str>,
    pub inputs: Vec<InputPicture>,
    pub aspect_ratio: AspectRatio,
    pub size: Size,
    /// Only for a model that takes one.
    pub seed: Option<i32>,
    /// A level of thinking the model knows, where it should not choose itself.
    pub thinking: Option<&'a str>,
    /// For the provider's invoice, where it can carry labels.
    pub job: JobId,
    pub call: CallId,
    /// How long the provider may take, sending and reading included.
    pub time: Duration,
    /// What the inputs take in memory, until they are sent.
    pub room: Option<MemoryPermit>,
}

impl PictureRequest<'_> {
    /// What is left of it once its body is written.
    fn written(self) -> (Duration, Option<MemoryPermit>) {
        (self.time, self.room)
    }
}

/// A picture the tenant gave us.
#[derive(Clone)]
pub struct InputPicture {
    pub bytes: Bytes,
    pub media_type: MediaType,
    pub role: InputRole,
}

impl InputPicture {
    /// Tells the model which picture is which.
    pub(crate) fn caption(&self) -> &'static str {
        match self.role {
            InputRole::Product => "Product photo:",
            InputRole::ModelReference => "Reference of the person to show:",
            InputRole::Style => "Style reference:",
            InputRole::Source => "Picture to change:",
        }
    }
}

/// What a provider says to a request, or to a question about one.
#[derive(Debug)]
pub enum Reply {
    /// It is done, well or badly.
    Answered(Answer),
    /// It works in the background and can be asked under this handle.
    Working(String),
}

/// How a call ended.
#[derive(Debug)]
pub struct Answer {
    /// The picture's file, or how the call ended without one.
    pub picture: Result<Bytes, Failure>,
    /// The provider's id for this answer.
    pub provider_request_id: Option<String>,
    /// What the provider metered, as it says it.
    pub usage: Option<Value>,
    /// The same, as far as it may cost besides the picture.
    pub tokens: Tokens,
}

impl Answer {
    /// An answer with nothing but a picture, or nothing but how it failed.
    pub fn bare(picture: Result<Bytes, Failure>) -> Self {
        Self {
            picture,
            provider_request_id: None,
            usage: None,
            tokens: Tokens::default(),
        }
    }

    pub fn failed(failure: Failure) -> Self {
        Self::bare(Err(failure))
    }

    pub fn class(&self) -> Class {
        self.picture
            .as_ref()
            .map_or_else(|failure| failure.class, |_| Class::Ok)
    }
}

/// Someone who runs models.
pub trait Provider: Send + Sync {
    /// Asks for one picture: one paid call. Takes as long as the request allows, and as long as the answer waits for room;
    /// never tries again.
    fn submit<'a>(&'a self, request: PictureRequest<'a>) -> BoxFuture<'a, Reply>;

    /// Asks how the work under a handle stands, within `time`. A failure is the question's own: nothing is known by it.
    fn poll<'a>(
        &'a self,
        _lane: &'a Lane,
        _operation: &'a str,
        _time: Duration,
    ) -> BoxFuture<'a, Result<Reply, Failure>> {
        async {
            Err(Failure::new(
                Class::Internal,
                "this provider leaves no handles",
            ))
        }
        .boxed()
    }
}

/// Every provider this process can call, by the name the catalogue uses.
#[derive(Clone)]
pub struct Providers {
    by_name: Arc<BTreeMap<String, Box<dyn Provider>>>,
    synthetic: bool,
}

impl Providers {
    /// Connects to everyone the catalogue names. Answers are read as far as there is room in `memory`.
    pub fn new(catalog: &Catalog, config: &Config, memory: &Memory) -> anyhow::Result<Self> {
        let mut by_name = BTreeMap::new();
        for described in catalog.providers() {
            let account = ProviderSettings {
                provider: described,
                project: config.providers.google_project.as_deref(),
                fake: config.providers.fake.as_deref(),
                idle: config.timing.idle,
                memory,
            };
            let provider: Box<dyn Provider> = match described.dialect {
                Dialect::Vertex => Box::new(vertex::Vertex::new(&account)?),
                Dialect::Gemini => Box::new(gemini::Gemini::new(&account)?),
                Dialect::Interactions => Box::new(interactions::Interactions::new(&account)?),
                Dialect::Openai => Box::new(openai::OpenAi::new(&account)?),
            };
            by_name.insert(described.name.clone(), provider);
        }
        Ok(Self {
            by_name: Arc::new(by_name),
            synthetic: config.providers.fake.is_some(),
        })
    }

    pub fn get(&self, name: &str) -> Option<&dyn Provider> {
        self.by_name.get(name).map(AsRef::as_ref)
    }

    /// Whether pictures are synthetic: fakes that call no AI model.
    pub fn synthetic(&self) -> bool {
        self.synthetic
    }
}

/// Under which address and as whom a provider is called.
pub struct ProviderSettings<'a> {
    pub provider: &'a catalog::Provider,
    pub project: Option<&'a str>,
    /// Base URL of the fake that plays the provider.
    pub fake: Option<&'a str>,
    pub idle: Duration,
    pub memory: &'a Memory,
}

impl ProviderSettings<'_> {
    /// The address, where it is not the dialect's own.
    fn base_url(&self) -> Option<String> {
        let url = self.fake.or(self.provider.base_url.as_deref())?;
        Some(url.trim_end_matches('/').to_owned())
    }

    /// The key, from the variable the catalogue names, else from the dialect's own. A server of one's own never gets a
    /// key that was not meant for it.
    fn key(&self, by_default: &str) -> anyhow::Result<Option<SecretString>> {
        if self.fake.is_some() {
            return Ok(Some(SecretString::from("fake")));
        }
        if self.provider.base_url.is_some() && self.provider.api_key.is_none() {
            return Ok(None);
        }
        Ok(config::secret(
            self.provider.api_key.as_deref().unwrap_or(by_default),
        )?)
    }

    fn needed_key(&self, by_default: &str) -> anyhow::Result<SecretString> {
        self.key(by_default)?.with_context(|| {
            let name = self.provider.api_key.as_deref().unwrap_or(by_default);
            format!(
                "{name} is missing: the key of provider {}, which PLATEN_PROVIDERS or the catalogue names",
                self.provider.name
            )
        })
    }
}
