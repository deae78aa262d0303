//! A worker ends jobs that it holds.

use std::collections::HashMap;

use sqlx::PgPool;

use super::end::{JobEnd, plan, write};
use super::lock::check_lease;
use super::{Lease, SettlementError, SettlementResult};
use crate::failpoint::reach;
use crate::sets::run_in_sets;
use domain::artifact::{Artifact, ArtifactKind};
use domain::id::{JobId, TenantId};
use domain::job::Job;
use domain::ledger::Share;
use domain::outcome::{Class, Failure};
use storage::database;
use storage::database::row::RowId;
use storage::settlements::End;

/// Most jobs that are ended in one transaction. Other transactions of the tenant wait for the
/// wallet's lock meanwhile.
const MAX_SET_SIZE: usize = 100;

/// What a worker has made for a job that it holds.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The right to end the job.
    pub lease: Lease,
    /// The stored files. Each rendition among them is one delivered output. If there is none, the
    /// job fails.
    pub artifacts: Vec<Artifact>,
    /// Why outputs are missing. `None` if all were delivered.
    pub shortfall: Option<Failure>,
}

impl Delivery {
    /// Nothing was delivered: the job fails, and the whole hold is released.
    pub fn nothing(lease: Lease, failure: Failure) -> Self {
        Self {
            lease,
            artifacts: Vec::new(),
            shortfall: Some(failure),
        }
    }

    /// Everything that is written when the job ends. `shares` are the shares of its hold in
    /// burn-down order.
    fn plan(&self, job: &Job, shares: Vec<Share>) -> Result<End, SettlementError> {
        // Originals and thumbnails are extra files of the same output and are not charged.
        let is_output = |artifact: &&Artifact| artifact.kind == ArtifactKind::Rendition;
        let delivered = self.artifacts.iter().filter(is_output).count();
        let shortfall = self.shortfall.as_ref();
        let job_end = JobEnd {
            state: None,
            delivered: RowId::new("jobs", job.id).convert("n_delivered", delivered)?,
            outcome: shortfall.map_or(Class::Ok, |failure| failure.class),
            reason: shortfall
                .map_or_else(|| Class::Ok.customer_message(), Failure::customer_message),
        };
        plan(job, shares, job_end)
    }
}

/// Ends a job: captures the price of the delivered outputs and releases the rest of the hold.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. The worker may try again while it
/// holds the lease.
pub async fn deliver(
    pool: &PgPool,
    delivery: &Delivery,
) -> Result<SettlementResult, SettlementError> {
    let tenant = delivery.lease.tenant;
    let mut results = deliver_all(pool, tenant, std::slice::from_ref(delivery)).await;
    results.pop().expect("one result for each delivery")
}

/// Ends jobs of one tenant, each as [`deliver`] does, and returns a result for each, in their
/// order. Up to a hundred jobs share a transaction. A job whose lease is lost, or that cannot be
/// settled, does not disturb the others.
pub async fn deliver_all(
    pool: &PgPool,
    tenant: TenantId,
    deliveries: &[Delivery],
) -> Vec<Result<SettlementResult, SettlementError>> {
    let run = |set| Box::pin(deliver_set(pool, tenant, set)) as _;
    run_in_sets(deliveries, MAX_SET_SIZE, run).await
}

/// Ends the jobs of a set in one transaction. Returns a result for each, in their order.
async fn deliver_set(
    pool: &PgPool,
    tenant: TenantId,
    set: &[Delivery],
) -> Result<Vec<Result<SettlementResult, SettlementError>>, SettlementError> {
    let ids: Vec<JobId> = set.iter().map(|delivery| delivery.lease.job).collect();
    let mut transaction = database::begin_with_wallet(pool, tenant).await?;
    let jobs = storage::jobs::lock(&mut transaction, &ids).await?;
    let mut shares: HashMap<JobId, Vec<Share>> = HashMap::new();
    for (job, share) in storage::settlements::shares(&mut transaction, &ids).await? {
        shares.entry(job).or_default().push(share);
    }
    let (mut ends, mut artifacts) = (Vec::with_capacity(set.len()), Vec::new());
    let mut results = Vec::with_capacity(set.len());
    for delivery in set {
        let lease = delivery.lease;
        let job = jobs
            .iter()
            .find(|job| job.id == lease.job && job.tenant == tenant);
        results.push(match check_lease(job, lease) {
            Ok(job) => {
                let shares = shares.get(&job.id).cloned().unwrap_or_default();
                delivery.plan(job, shares).map(|end| {
                    let state = end.state;
                    ends.push(end);
                    artifacts.extend(delivery.artifacts.iter().map(|file| (lease.fence, file)));
                    SettlementResult::Ended(state)
                })
            }
            Err(lost) => Ok(lost),
        });
    }
    if !ends.is_empty() {
        if !artifacts.is_empty() {
            storage::artifacts::insert(&mut transaction, tenant, artifacts.into_iter()).await?;
        }
        write(&mut transaction, tenant, &ends).await?;
        reach("settlement:before_commit").await?;
        transaction.commit().await?;
        reach("settlement:after_commit").await?;
    }
    Ok(results)
}
