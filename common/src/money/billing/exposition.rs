//! The totals as metrics, in Prometheus' text format.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use sqlx::PgPool;
use storage::allowances::Cost;
use storage::billing::{Calls, Jobs, OpenJobs};
use storage::database::row::RowId;

/// The billing metrics of the whole service as Prometheus text, read from Postgres. `pool` must act
/// as `platen_reader`. `abandoned_cost_alert` is the cost of one tenant's abandoned calls in an
/// hour above which operators are alerted, in millionths of a US dollar. It is exported as a metric
/// of its own.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn metrics(pool: &PgPool, abandoned_cost_alert: i64) -> sqlx::Result<String> {
    let billing = super::read(pool).await?;
    let metrics = Metrics::default();
    metrics.add_jobs(&billing.jobs, &billing.open);
    metrics.add_calls(&billing.calls);
    metrics.add_abandoned(storage::allowances::cost(pool).await?, abandoned_cost_alert);
    metrics.add_storage(storage::stored_bytes::all(pool).await?);
    Ok(telemetry::encode(&metrics.registry))
}

/// The metrics of one scrape. They have a registry of their own, because no process counts them.
#[derive(Default)]
struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Registers a counter.
    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.registry
            .register(Box::new(counter.clone()))
            .expect("registered once");
        counter
    }

    /// Registers a gauge.
    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.registry
            .register(Box::new(gauge.clone()))
            .expect("registered once");
        gauge
    }

    /// Adds the metrics of jobs and their credits.
    fn add_jobs(&self, ended: &[Jobs], open: &[OpenJobs]) {
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
        let credits = credits.map(|(name, help)| self.counter(name, help, &["model"]));
        self.add_ended(ended, &credits);
        self.add_open(open);
        // The counters of a model are exported as 0 from its first job on. So Prometheus sees an
        // increase when the first job ends.
        for jobs in open {
            for counter in &credits {
                counter.with_label_values(&[jobs.model.as_str()]);
            }
        }
    }

    /// Adds the jobs that have ended, and their credits to the three counters.
    fn add_ended(&self, ended: &[Jobs], [captured, released, refunded]: &[IntCounterVec; 3]) {
        let count = self.counter(
            "platen_jobs_total",
            "Jobs that have ended.",
            &["model", "state", "outcome"],
        );
        for jobs in ended {
            let labels = [jobs.model.as_str(), &jobs.state, &jobs.outcome];
            add(&count, &labels, "n", jobs.count);
            for (counter, column, credits) in [
                (captured, "captured", jobs.captured),
                (released, "released", jobs.released),
                (refunded, "refunded", jobs.refunded),
            ] {
                add(counter, &labels[..1], column, credits);
            }
        }
    }

    /// Adds the jobs that have not ended.
    fn add_open(&self, open: &[OpenJobs]) {
        let count = self.gauge(
            "platen_jobs_open",
            "Jobs that have not ended.",
            &["model", "state"],
        );
        let oldest = self.gauge(
            "platen_oldest_open_job_seconds",
            "Age of the oldest job that has not ended.",
            &["model"],
        );
        let due = self.gauge(
            "platen_queue_oldest_seconds",
            "Seconds the job has waited that is queued, due, and has waited longest; 0 where none waits.",
            &["model"],
        );
        let held = self.gauge(
            "platen_credits_held",
            "Credits held for open jobs.",
            &["model"],
        );
        for jobs in open {
            let model = jobs.model.as_str();
            count.with_label_values(&[model, "queued"]).set(jobs.queued);
            count
                .with_label_values(&[model, "running"])
                .set(jobs.running);
            held.with_label_values(&[model]).set(jobs.held);
            #[expect(clippy::cast_possible_truncation, reason = "seconds fit")]
            oldest
                .with_label_values(&[model])
                .set(jobs.oldest_seconds as i64);
            #[expect(clippy::cast_possible_truncation, reason = "seconds fit")]
            due.with_label_values(&[model])
                .set(jobs.queued_seconds as i64);
        }
    }

    /// Adds the calls that have ended, and their cost.
    fn add_calls(&self, ended: &[Calls]) {
        let count = self.counter(
            "platen_provider_calls_total",
            "Calls to providers by how they ended; `unknown` is possibly billed to us.",
            &["provider", "model", "outcome"],
        );
        let cost = self.counter(
            "platen_provider_cost_usd_micros_total",
            "What calls cost us, in millionths of a US dollar; of `unknown`, what they may have cost.",
            &["provider", "model", "outcome"],
        );
        for calls in ended {
            let labels = [calls.provider.as_str(), &calls.model, &calls.outcome];
            add(&count, &labels, "n", calls.count);
            add(&cost, &labels, "cost_micros", calls.cost_micros);
        }
    }

    /// Adds the cost of abandoned calls, and the limit above which operators are alerted. No label
    /// names a tenant, because there may be any number of them. The runbook has the query that
    /// names them.
    fn add_abandoned(&self, cost: Cost, limit: i64) {
        let abandoned = self.gauge(
            "platen_abandoned_cost_usd_micros",
            "What calls that their owners abandoned in the last hour cost us, in millionths of a US dollar: of all tenants, and of the one with the most.",
            &["of"],
        );
        abandoned.with_label_values(&["all"]).set(cost.all);
        abandoned
            .with_label_values(&["one_tenant"])
            .set(cost.one_tenant);
        self.gauge(
            "platen_abandoned_cost_limit_usd_micros",
            "What one tenant may abandon in an hour before operators are told (PLATEN_ABANDONED_COST_USD).",
            &[],
        )
        .with_label_values(&[] as &[&str])
        .set(limit);
    }

    /// Adds the bytes that all tenants store.
    fn add_storage(&self, bytes: i64) {
        self.gauge(
            "platen_storage_bytes",
            "What files that rows name take in the bucket, of all tenants.",
            &[],
        )
        .with_label_values(&[] as &[&str])
        .set(bytes);
    }
}

/// Adds a sum of the column `column` to a counter. A negative sum is an error in the data (I15): it
/// is logged and left out.
fn add(counter: &IntCounterVec, labels: &[&str], column: &'static str, sum: i64) {
    match RowId::new("billing", labels.join("/")).convert(column, sum) {
        Ok(sum) => counter.with_label_values(labels).inc_by(sum),
        Err(error) => tracing::error!(%error, "A sum of billing is left out of the metrics"),
    }
}
