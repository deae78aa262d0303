//! What all outputs of one attempt share, and how an output may end.

use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use domain::artifact::Artifact;
use domain::call::JournaledCall;
use domain::catalog::{Lane, Model};
use domain::generation::image::ImageRequest;
use domain::id::CallId;
use domain::job::Claimed;
use domain::outcome::{Class, Failure};

use super::lane_limiter::LaneLimiter;
use crate::app::App;
use crate::leases::HeldLease;
use crate::providers::Provider;

/// How long a job that found the bucket unavailable waits for its next attempt.
pub(super) const BUCKET_RETRY_DELAY: Duration = Duration::from_secs(1);

/// One attempt of a job, with everything that its outputs share.
pub(super) struct Attempt<'a> {
    pub app: &'a App,
    pub claimed: &'a Claimed,
    pub lease: &'a HeldLease,
    /// When the job expires, on this worker's clock.
    pub deadline: Instant,
    pub request: &'a ImageRequest,
    pub model: &'a Model,
    /// Every call of earlier attempts, oldest first.
    pub journal: &'a [JournaledCall],
    /// How many calls the job may still make, for all outputs together. This count only saves
    /// useless requests to a lane. When a call is journaled, the count in the database decides.
    pub calls_left: AtomicI32,
}

/// How one output of the attempt ended.
pub(super) enum OutputResult {
    /// Rendition, thumbnail and original are stored.
    Stored(Box<[Artifact; 3]>),
    /// Nothing has failed, but the attempt cannot go on: a provider still works on the image, no
    /// lane allows a call, the bucket is unavailable, another attempt has ended the call, or this
    /// worker stops. Try again after this long.
    Pending(Duration),
    /// There is no image.
    Missing {
        failure: Failure,
        /// Whether another attempt may make the image.
        may_retry: bool,
    },
}

impl OutputResult {
    /// This worker stops before the output is done. Another worker goes on at once.
    pub(super) const HANDED_OVER: Self = Self::Pending(Duration::ZERO);

    /// Something failed on our side. Another attempt may succeed.
    pub(super) fn internal_failure(error: &anyhow::Error) -> Self {
        Self::Missing {
            failure: Failure::new(Class::Internal, format!("{error:#}")),
            may_retry: true,
        }
    }

    /// The job may make no further call. The last failure, if there is one, says why the output is
    /// missing.
    pub(super) fn no_call_left(last: Option<&Failure>) -> Self {
        let no_call_allowed = || Failure::new(Class::Unknown, "no further call is allowed");
        Self::given_up(last.cloned().unwrap_or_else(no_call_allowed))
    }

    /// The output is missing, and no attempt will try again.
    pub(super) fn given_up(failure: Failure) -> Self {
        Self::Missing {
            failure,
            may_retry: false,
        }
    }
}

/// One call to a provider: its id in the journal, the output that it is for, and where it is sent.
#[derive(Clone, Copy)]
pub(super) struct ProviderCall<'a> {
    pub id: CallId,
    pub output_idx: i32,
    pub lane: &'a Lane,
    pub model: &'a Model,
    pub provider: &'a dyn Provider,
}

impl Attempt<'_> {
    /// Acquires and releases lanes for the calls of this job.
    pub(super) fn limiter(&self) -> LaneLimiter<'_> {
        LaneLimiter {
            app: self.app,
            tenant: self.claimed.tenant,
            model: self.model,
        }
    }

    /// The call `id` on `lane`. Returns `None` if the lane's model or provider is no longer in the
    /// catalogue.
    pub(super) fn call<'b>(
        &'b self,
        lane: &'b Lane,
        id: CallId,
        output_idx: i32,
    ) -> Option<ProviderCall<'b>> {
        Some(ProviderCall {
            id,
            output_idx,
            lane,
            model: self.app.catalog.get(&lane.model)?,
            provider: self.app.providers.get(&lane.provider)?,
        })
    }

    /// Adds the successor of a retired model to the failure, for the tenant to read.
    pub(super) fn name_successor(&self, failure: Failure) -> Failure {
        match &self.model.successor {
            Some(successor) if failure.class == Class::ModelRetired => {
                let retired = &self.model.id;
                failure.because(format!(
                    "The provider no longer offers {retired}. Use {successor} instead."
                ))
            }
            _ => failure,
        }
    }
}

/// The delays between tries of one request to our own database, inside one attempt. A call to a
/// provider is never repeated like this.
pub(super) fn database_retry_delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .with_max_times(4)
}
