//! One output of a job: taken over from an earlier attempt, or bought by one journaled call.

use std::time::{Duration, Instant};

use anyhow::Context;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use common::artifact::{Artifact, Role, rendition_key};
use common::bucket::{BucketError, Stored};
use common::call::store::NewCall;
use common::call::{self, Ending, Journaled, Original, original_key};
use common::catalog::Model;
use common::database;
use common::generation::image::{ImageRequest, inspect, pixels};
use common::id::{ArtifactId, CallId};
use common::job::Claimed;
use common::outcome::{Class, Decision, Failure};
use common::telemetry;

use crate::app::App;
use crate::imaging::{ImagingError, Rendition};
use crate::providers::{Answer, InputPicture, PictureRequest, Provider};

/// What all outputs of one attempt share.
pub(super) struct Attempt<'a> {
    pub app: &'a App,
    pub claimed: &'a Claimed,
    pub request: &'a ImageRequest,
    pub model: &'a Model,
    pub provider: &'a dyn Provider,
    pub inputs: &'a [InputPicture],
    /// Every call earlier attempts made, oldest first.
    pub journal: &'a [Journaled],
}

/// What became of an output.
pub(super) enum Made {
    /// Original and rendition, stored.
    Picture(Box<[Artifact; 2]>),
    Missing {
        failure: Failure,
        again: bool,
    },
}

impl Attempt<'_> {
    /// Makes one output. An error is our own trouble.
    pub(super) async fn output(&self, output_idx: i32) -> anyhow::Result<Made> {
        let earlier = || {
            self.journal
                .iter()
                .filter(|call| call.output_idx == output_idx)
        };
        if let Some(original) = earlier().find_map(|call| call.original.as_ref()) {
            let bytes = self
                .app
                .bucket
                .get(&original.object_key)
                .await?
                .context("an original named by its call is not in the bucket")?;
            let rendition = self.develop(bytes).await.map_err(|failure| {
                anyhow::anyhow!(
                    "an original that was developed before is no picture: {}",
                    failure.detail
                )
            })?;
            return self.store(output_idx, original.clone(), rendition).await;
        }
        for call in earlier().filter(|call| call.outcome.is_none()) {
            if let Some(made) = self.take_over(output_idx, call.id).await? {
                return Ok(made);
            }
        }
        let refused = |call: &&Journaled| {
            call.outcome
                .is_some_and(|class| class.decision() == Decision::GiveUp)
        };
        if let Some((class, call)) = earlier()
            .filter(refused)
            .find_map(|call| Some((call.outcome?, call)))
        {
            let failure = Failure::new(class, call.detail.clone().unwrap_or_default());
            return Ok(Made::Missing {
                failure,
                again: false,
            });
        }
        let last = earlier().rev().find_map(|call| call.outcome);
        self.buy(output_idx, last).await
    }

    /// A call whose worker died: if its original reached the bucket, it is ours, whoever bought it.
    async fn take_over(&self, output_idx: i32, call: CallId) -> anyhow::Result<Option<Made>> {
        let key = original_key(self.claimed.tenant, call);
        let Some(bytes) = self.app.bucket.get(&key).await? else {
            return Ok(None);
        };
        tracing::info!(call.id = %call, "Taking over a stored original");
        let answer = Answer {
            picture: Ok(bytes),
            provider_request_id: None,
            usage: None,
        };
        self.finish(output_idx, call, answer).await.map(Some)
    }

    /// One paid call: journaled, made, ended.
    async fn buy(&self, output_idx: i32, last: Option<Class>) -> anyhow::Result<Made> {
        let id = CallId::new();
        let call = NewCall {
            id,
            tenant: self.claimed.tenant,
            job: self.claimed.id,
            fence: self.claimed.fence,
            output_idx,
            provider: &self.model.provider,
            model: &self.model.id,
        };
        let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
        let begun = call::store::begin(&mut transaction, &call).await?;
        let calls_left = call::store::calls_left(&mut transaction, self.claimed.id).await?;
        transaction.commit().await?;
        if !begun && calls_left {
            anyhow::bail!("no call may begin: the lease or the deadline has passed");
        }
        if !begun {
            let class = last.unwrap_or(Class::Unknown);
            let failure = Failure::new(class, "no further call is allowed");
            return Ok(Made::Missing {
                failure,
                again: false,
            });
        }
        let answer = self.call(id).await;
        self.finish(output_idx, id, answer).await
    }

    /// The provider's answer, within the model's time.
    async fn call(&self, call: CallId) -> Answer {
        let request = PictureRequest {
            model: self.model,
            prompt: &self.request.prompt,
            art_direction: self.request.art_direction.as_deref(),
            inputs: self.inputs,
            aspect_ratio: self.request.aspect_ratio,
            size: self.request.size,
            seed: self.request.seed,
            job: self.claimed.id,
            call,
        };
        let started = Instant::now();
        let _in_flight = InFlight::new(&self.model.id);
        let answer = tokio::time::timeout(self.model.timeout, self.provider.submit(&request))
            .await
            .unwrap_or_else(|_| {
                Answer::failed(Failure::new(
                    Class::Unknown,
                    format!("no answer within {} s", self.model.timeout.as_secs()),
                ))
            });
        let outcome = answer
            .picture
            .as_ref()
            .map_or_else(|failure| failure.class, |_| Class::Ok);
        telemetry::CALL_SECONDS
            .with_label_values(&[&self.model.id, outcome.as_str()])
            .observe(started.elapsed().as_secs_f64());
        answer
    }

    /// Stores the original under the call's own key, develops it, and ends the call. A file that is no picture
    /// ends it as a fault and is not named, so the next attempt buys another.
    async fn finish(&self, output_idx: i32, call: CallId, answer: Answer) -> anyhow::Result<Made> {
        let Answer {
            picture,
            provider_request_id,
            usage,
        } = answer;
        let developed = match picture {
            Ok(bytes) => self.keep(call, bytes).await,
            Err(failure) => Err(failure),
        };
        let (outcome, detail) = developed.as_ref().map_or_else(
            |failure| (failure.class, Some(failure.detail.as_str())),
            |_| (Class::Ok, None),
        );
        let ending = Ending {
            outcome,
            detail,
            provider_request_id: provider_request_id.as_deref(),
            usage: usage.as_ref(),
            cost_micros: developed
                .as_ref()
                .ok()
                .and_then(|_| self.model.cost_micros(self.request.size)),
            original: developed.as_ref().ok().map(|(original, _)| original),
        };
        let end = || async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            // Ended by another attempt already: what it wrote stands.
            let _ended = call::store::end(&mut transaction, call, self.claimed.id, &ending).await?;
            let calls_left = call::store::calls_left(&mut transaction, self.claimed.id).await?;
            transaction.commit().await?;
            Ok::<bool, sqlx::Error>(calls_left)
        };
        let calls_left = end.retry(store_delays()).await?;
        match developed {
            Ok((original, rendition)) => self.store(output_idx, original, rendition).await,
            Err(failure) => {
                let again = calls_left && failure.class.decision() == Decision::Retry;
                Ok(Made::Missing { failure, again })
            }
        }
    }

    /// Stores and develops at once: either alone may fail.
    async fn keep(&self, call: CallId, bytes: Bytes) -> Result<(Original, Rendition), Failure> {
        let Some((media_type, pixels)) = inspect(&bytes) else {
            let says = format!("{} bytes that are no picture", bytes.len());
            return Err(Failure::new(Class::ProviderFault, says));
        };
        let object_key = original_key(self.claimed.tenant, call);
        let (stored, rendition) =
            tokio::join!(self.put(&object_key, bytes.clone()), self.develop(bytes));
        let Stored { sha256, bytes } = stored.map_err(|error| {
            Failure::new(
                Class::Internal,
                format!("the original could not be stored: {error}"),
            )
        })?;
        let original = Original {
            object_key,
            sha256,
            bytes,
            media_type,
            pixels,
        };
        Ok((original, rendition?))
    }

    /// Brings an original to exactly what was asked for. An original that cannot be is the provider's fault.
    async fn develop(&self, bytes: Bytes) -> Result<Rendition, Failure> {
        let target = pixels(self.request.aspect_ratio, self.request.size);
        let rendition = self
            .app
            .darkroom
            .render(bytes, target, self.request.format)
            .await;
        rendition.map_err(|error| {
            let class = match error {
                ImagingError::ShuttingDown => Class::Internal,
                _ => Class::ProviderFault,
            };
            Failure::new(class, error.to_string())
        })
    }

    /// Stores the rendition under this attempt's key.
    async fn store(
        &self,
        output_idx: i32,
        original: Original,
        rendition: Rendition,
    ) -> anyhow::Result<Made> {
        let Claimed {
            id: job,
            tenant,
            fence,
            ..
        } = *self.claimed;
        let object_key = rendition_key(tenant, job, fence, output_idx, self.request.format);
        let stored = self.put(&object_key, rendition.bytes).await?;
        let synthetic = self.provider.synthetic();
        let artifact = |role, object_key, stored: Stored, media_type, pixels| Artifact {
            id: ArtifactId::new(),
            job,
            output_idx,
            role,
            object_key,
            sha256: stored.sha256,
            bytes: stored.bytes,
            media_type,
            pixels,
            synthetic,
            created_at: None,
        };
        let as_stored = Stored {
            sha256: original.sha256,
            bytes: original.bytes,
        };
        Ok(Made::Picture(Box::new([
            artifact(
                Role::Rendition,
                object_key,
                stored,
                self.request.format.media_type(),
                pixels(self.request.aspect_ratio, self.request.size),
            ),
            artifact(
                Role::Original,
                original.object_key,
                as_stored,
                original.media_type,
                original.pixels,
            ),
        ])))
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<Stored, BucketError> {
        (|| self.app.bucket.put_new(key, bytes.clone()))
            .retry(store_delays())
            .when(|error| matches!(error, BucketError::Store(_)))
            .await
    }
}

/// A call in flight. Falls by itself: the attempt is dropped when its lease is lost.
struct InFlight(prometheus::IntGauge);

impl InFlight {
    fn new(model: &str) -> Self {
        let gauge = telemetry::CALLS_IN_FLIGHT.with_label_values(&[model]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// In-process retries, towards our own stores only.
fn store_delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .with_max_times(4)
}
