//! Totals of all jobs and calls of the service, by model and outcome, for billing, margins and
//! dashboards.
//!
//! Database triggers write the totals (`0012_billing_rollup.sql`). No process counts anything
//! itself, so replicas count nothing twice and restarts lose nothing. In one snapshot, the totals
//! always equal the sums of the rows; `platen verify` checks that (invariant I15).
//! [`storage::billing::fold`] merges the lines that the triggers write into totals. Folding affects
//! only how long a read takes, so it may run anywhere, at any time, or never.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use sqlx::PgPool;
use storage::billing::{Calls, Jobs, OpenJobs};
use storage::database::row::RowId;

/// All totals at one moment.
#[derive(Clone, Debug, Default)]
pub struct Billing {
    /// Jobs that have ended.
    pub jobs: Vec<Jobs>,
    /// Jobs that have not ended.
    pub open: Vec<OpenJobs>,
    /// Calls that have ended.
    pub calls: Vec<Calls>,
}

/// Reads all totals in one snapshot. `pool` must be allowed to read every tenant's rows. The work
/// grows with the number of models and of lines that are not folded yet, not with the number of
/// jobs.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn read(pool: &PgPool) -> sqlx::Result<Billing> {
    // One snapshot for all three reads: a job that ends in between would be counted twice or not at
    // all.
    let mut snapshot = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let billing = Billing {
        jobs: storage::billing::jobs(&mut snapshot).await?,
        open: storage::billing::open(&mut snapshot).await?,
        calls: storage::billing::calls(&mut snapshot).await?,
    };
    snapshot.commit().await?;
    Ok(billing)
}

/// Reads the service's billing metrics from Postgres and returns them as Prometheus text. `pool`
/// must be allowed to read every tenant's rows. `abandoned_cost` is the limit above which operators
/// are alerted, in millionths of a US dollar an hour.
///
/// # Errors
///
/// Returns an error if Postgres fails.
pub async fn metrics(pool: &PgPool, abandoned_cost: i64) -> sqlx::Result<String> {
    let registry = Registry::new();
    let counter = |name, help, labels: &[&str]| {
        let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric");
        registry
            .register(Box::new(counter.clone()))
            .expect("registered once");
        counter
    };
    let gauge = |name, help, labels: &[&str]| {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric");
        registry
            .register(Box::new(gauge.clone()))
            .expect("registered once");
        gauge
    };
    let ended = counter(
        "platen_jobs_total",
        "Jobs that have ended.",
        &["model", "state", "outcome"],
    );
    let open = gauge(
        "platen_jobs_open",
        "Jobs that have not ended.",
        &["model", "state"],
    );
    let oldest = gauge(
        "platen_oldest_open_job_seconds",
        "Age of the oldest job that has not ended.",
        &["model"],
    );
    let due = gauge(
        "platen_queue_oldest_seconds",
        "Seconds the job has waited that is due, not started, and has waited longest; 0 where none waits.",
        &["model"],
    );
    let held = gauge(
        "platen_credits_held",
        "Credits held for open jobs.",
        &["model"],
    );
    let credits = [
        ("platen_credits_captured_total", "Credits charged."),
        (
            "platen_credits_released_total",
            "Credits given back at a job's end.",
        ),
        (
            "platen_credits_refunded_total",
            "Credits given back after a job's end.",
        ),
    ];
    let [captured, released, refunded] =
        credits.map(|(name, help)| counter(name, help, &["model"]));
    let calls = counter(
        "platen_provider_calls_total",
        "Calls to providers by how they ended; `unknown` is possibly billed to us.",
        &["provider", "model", "outcome"],
    );
    let cost = counter(
        "platen_provider_cost_usd_micros_total",
        "What calls cost us, in millionths of a US dollar; of `unknown`, what they may have cost.",
        &["provider", "model", "outcome"],
    );

    let billing = read(pool).await?;
    for jobs in &billing.jobs {
        let labels = [jobs.model.as_str(), &jobs.state, &jobs.outcome];
        add(&ended, &labels, "n", jobs.count);
        for (counter, column, credits) in [
            (&captured, "captured", jobs.captured),
            (&released, "released", jobs.released),
            (&refunded, "refunded", jobs.refunded),
        ] {
            add(counter, &labels[..1], column, credits);
        }
    }
    for jobs in &billing.open {
        let model = jobs.model.as_str();
        open.with_label_values(&[model, "queued"]).set(jobs.queued);
        open.with_label_values(&[model, "running"])
            .set(jobs.running);
        held.with_label_values(&[model]).set(jobs.held);
        #[expect(clippy::cast_possible_truncation, reason = "seconds fit")]
        oldest
            .with_label_values(&[model])
            .set(jobs.oldest_seconds as i64);
        #[expect(clippy::cast_possible_truncation, reason = "seconds fit")]
        due.with_label_values(&[model])
            .set(jobs.queued_seconds as i64);
        // These counters are exported from the first open job on, so that the first ended job is
        // visible as a change.
        for counter in [&captured, &released, &refunded] {
            counter.with_label_values(&[model]);
        }
    }
    for ended in &billing.calls {
        let labels = [ended.provider.as_str(), &ended.model, &ended.outcome];
        add(&calls, &labels, "n", ended.count);
        add(&cost, &labels, "cost_micros", ended.cost_micros);
    }
    // No label says which tenant: there may be any number of them. The runbook has the query that names them.
    let abandoned = gauge(
        "platen_abandoned_cost_usd_micros",
        "What calls that their owners abandoned in the last hour cost us, in millionths of a US dollar: of all tenants, and of the one with the most.",
        &["of"],
    );
    let cost = storage::allowances::cost(pool).await?;
    abandoned.with_label_values(&["all"]).set(cost.all);
    abandoned
        .with_label_values(&["one_tenant"])
        .set(cost.one_tenant);
    gauge(
        "platen_abandoned_cost_limit_usd_micros",
        "What one tenant may abandon in an hour before operators are told (PLATEN_ABANDONED_COST_USD).",
        &[],
    )
    .with_label_values(&[] as &[&str])
    .set(abandoned_cost);
    gauge(
        "platen_storage_bytes",
        "What files that rows name take in the bucket, of all tenants.",
        &[],
    )
    .with_label_values(&[] as &[&str])
    .set(storage::stored_bytes::all(pool).await?);
    Ok(telemetry::encode(&registry))
}

/// Adds a sum to a counter. A negative sum means that the totals do not equal the rows (invariant
/// I15). It is logged and left out.
fn add(counter: &IntCounterVec, labels: &[&str], column: &'static str, sum: i64) {
    match RowId::new("billing", labels.join("/")).convert(column, sum) {
        Ok(sum) => counter.with_label_values(labels).inc_by(sum),
        Err(error) => tracing::error!(%error, "A sum of billing is left out of the metrics"),
    }
}
