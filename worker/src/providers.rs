//! The clients of the model providers. A provider is a file here and a line in [`Providers::new`].
//!
//! A provider converts a request into its wire format, and the answer into an image or a classified
//! failure. It sees neither jobs nor the ledger; the worker owns time, retries and storage.

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
use common::config::{self, Config};
use common::memory::{Memory, MemoryPermit};
use domain::catalog::{self, Catalog, Lane, Model, Tokens};
use domain::generation::image::{AspectRatio, InputRole, MediaType, Size};
use domain::id::{CallId, JobId};
use domain::outcome::table::Dialect;
use domain::outcome::{Class, Failure};
use futures::future::{BoxFuture, FutureExt};
use secrecy::SecretString;
use serde_json::Value;

/// Takes the files out of an answer that comes in these chunks, as the clients of [`Providers`] do.
/// Returns the text, in which `"file\u0001N"` stands for file `N`, and the files. A string that is
/// not base64 is `None`. For tests.
pub fn extract_files<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Vec<Option<Vec<u8>>>) {
    http::extract_files(chunks)
}

/// Everything a provider needs for one call, which makes one image. The request holds the prompt,
/// so this type does not implement `Debug` and is never logged.
pub struct CallRequest<'a> {
    /// The model to call.
    pub model: &'a Model,
    /// The lane that was acquired for the call. The model is called in the lane's project and
    /// location.
    pub lane: &'a Lane,
    /// The tenant's prompt.
    pub prompt: &'a str,
    /// How the image should look, apart from what it shows. The text is sent where the provider
    /// takes system instructions.
    pub art_direction: Option<&'a str>,
    /// Images to work from, in the order the tenant gave.
    pub inputs: Vec<InputImage>,
    /// The aspect ratio of the result.
    pub aspect_ratio: AspectRatio,
    /// The size class of the result.
    pub size: Size,
    /// The seed. It is set only for a model that takes a seed.
    pub seed: Option<i32>,
    /// A thinking level of the model; `None` lets the model choose.
    pub thinking: Option<&'a str>,
    /// The job. It is a label on the provider's invoice, if the provider supports labels.
    pub job: JobId,
    /// The call. It is a label on the provider's invoice, if the provider supports labels.
    pub call: CallId,
    /// How long the provider may take, from sending the request to reading the answer.
    pub timeout: Duration,
    /// The memory that the inputs take. The permit is held until they are sent.
    pub permit: Option<MemoryPermit>,
}

impl CallRequest<'_> {
    /// Drops everything but the timeout and the memory permit. Call this once the body is written.
    fn into_timeout_and_permit(self) -> (Duration, Option<MemoryPermit>) {
        (self.timeout, self.permit)
    }
}

/// An input image of a job.
#[derive(Clone)]
pub struct InputImage {
    /// The file.
    pub bytes: Bytes,
    /// The file's media type.
    pub media_type: MediaType,
    /// What the image is to the request, such as the product or a style reference.
    pub role: InputRole,
}

impl InputImage {
    /// The line of text that tells the model what this image is for.
    pub(crate) fn caption(&self) -> &'static str {
        match self.role {
            InputRole::Product => "Product photo:",
            InputRole::ModelReference => "Reference of the person to show:",
            InputRole::Style => "Style reference:",
            InputRole::Source => "Picture to change:",
        }
    }
}

/// What a provider returns to a submitted call or to a poll.
#[derive(Debug)]
pub enum Reply {
    /// The call has ended, with an image or with a failure.
    Answered(Answer),
    /// The call goes on in the background. The string is the provider's id of this operation, with
    /// which any worker can poll it.
    Operation(String),
}

/// The provider's answer that ends a call.
#[derive(Debug)]
pub struct Answer {
    /// The image's file, or the reason why there is none.
    pub image: Result<Bytes, Failure>,
    /// The provider's id of this answer.
    pub provider_request_id: Option<String>,
    /// What the provider metered, in the provider's own format.
    pub usage: Option<Value>,
    /// The metered tokens that are billed besides the image.
    pub tokens: Tokens,
}

impl Answer {
    /// An answer with an image or a failure, and without an id or usage.
    pub fn without_usage(image: Result<Bytes, Failure>) -> Self {
        Self {
            image,
            provider_request_id: None,
            usage: None,
            tokens: Tokens::default(),
        }
    }

    /// An answer with a failure and nothing else.
    pub fn failed(failure: Failure) -> Self {
        Self::without_usage(Err(failure))
    }

    /// The class of the outcome.
    pub fn class(&self) -> Class {
        self.image
            .as_ref()
            .map_or_else(|failure| failure.class, |_| Class::Ok)
    }
}

/// The client of one provider.
pub trait Provider: Send + Sync {
    /// Makes one paid call and never repeats it. This takes at most the request's timeout, plus the
    /// wait for memory for the answer.
    fn submit<'a>(&'a self, request: CallRequest<'a>) -> BoxFuture<'a, Reply>;

    /// Asks for the state of an operation, within `timeout`. This default implementation is for
    /// providers that answer every call without an operation.
    ///
    /// # Errors
    ///
    /// Returns an error if the poll itself fails. Such an error says nothing about the operation.
    fn poll<'a>(
        &'a self,
        _lane: &'a Lane,
        _operation: &'a str,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<Reply, Failure>> {
        async {
            Err(Failure::new(
                Class::Internal,
                "this provider has no operations to poll",
            ))
        }
        .boxed()
    }
}

/// Every provider this process can call, by its name in the catalogue. Clones share the
/// connections.
#[derive(Clone)]
pub struct Providers {
    by_name: Arc<BTreeMap<String, Box<dyn Provider>>>,
    /// See [`Self::is_synthetic`].
    synthetic: bool,
}

impl Providers {
    /// Builds the client of every provider in the catalogue, and sends nothing yet. Answers are
    /// read only when `memory` has space for them.
    ///
    /// # Errors
    ///
    /// Returns an error if a provider's key, project or credentials are missing, or if its address
    /// is unusable.
    pub fn new(catalog: &Catalog, config: &Config, memory: &Memory) -> anyhow::Result<Self> {
        let mut by_name = BTreeMap::new();
        for entry in catalog.providers() {
            let settings = ProviderSettings {
                provider: entry,
                project: config.providers.google_project.as_deref(),
                fake: config.providers.fake.as_deref(),
                idle: config.timing.idle,
                memory,
            };
            let provider: Box<dyn Provider> = match entry.dialect {
                Dialect::Vertex => Box::new(vertex::Vertex::new(&settings)?),
                Dialect::Gemini => Box::new(gemini::Gemini::new(&settings)?),
                Dialect::Interactions => Box::new(interactions::Interactions::new(&settings)?),
                Dialect::Openai => Box::new(openai::OpenAi::new(&settings)?),
            };
            by_name.insert(entry.name.clone(), provider);
        }
        Ok(Self {
            by_name: Arc::new(by_name),
            synthetic: config.providers.fake.is_some(),
        })
    }

    /// The client of a provider. Returns `None` if the catalogue has no such provider.
    pub fn get(&self, name: &str) -> Option<&dyn Provider> {
        self.by_name.get(name).map(AsRef::as_ref)
    }

    /// Whether images are synthetic: they come from a fake, and no AI model is called.
    pub fn is_synthetic(&self) -> bool {
        self.synthetic
    }
}

/// The settings that a provider's client is built from.
pub struct ProviderSettings<'a> {
    /// The provider's entry in the catalogue.
    pub provider: &'a catalog::Provider,
    /// The Google Cloud project, for Vertex AI.
    pub project: Option<&'a str>,
    /// The base URL of the fake that replaces the provider.
    pub fake: Option<&'a str>,
    /// The longest pause in an answer while it is read.
    pub idle: Duration,
    /// The memory that answers are read into.
    pub memory: &'a Memory,
}

impl ProviderSettings<'_> {
    /// The base URL of the fake or of the catalogue. Returns `None` if the dialect's own base URL
    /// applies.
    fn base_url(&self) -> Option<String> {
        let url = self.fake.or(self.provider.base_url.as_deref())?;
        Some(url.trim_end_matches('/').to_owned())
    }

    /// The API key, from the variable that the catalogue names, else from `default_variable`. A
    /// self-hosted server gets a key only if the catalogue names a variable for it, and never the
    /// key that is meant for the vendor.
    fn key(&self, default_variable: &str) -> anyhow::Result<Option<SecretString>> {
        if self.fake.is_some() {
            return Ok(Some(SecretString::from("fake")));
        }
        if self.provider.base_url.is_some() && self.provider.api_key.is_none() {
            return Ok(None);
        }
        Ok(config::secret(
            self.provider.api_key.as_deref().unwrap_or(default_variable),
        )?)
    }

    /// The API key, or an error that names the missing variable.
    fn required_key(&self, default_variable: &str) -> anyhow::Result<SecretString> {
        self.key(default_variable)?.with_context(|| {
            let name = self
                .provider
                .api_key
                .as_deref()
                .unwrap_or(default_variable);
            format!(
                "{name} is missing: the key of provider {}, which PLATEN_PROVIDERS or the catalogue names",
                self.provider.name
            )
        })
    }
}
