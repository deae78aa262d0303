//! Compares our rows with the provider's own count: every submit must have become one job, and every image must have been
//! requested once.

use std::collections::BTreeMap;

use domain::id::JobId;
use fakes::Journal;
use sqlx::PgPool;
use uuid::Uuid;

use crate::clients::{Accepted, Offered};

/// How often the provider was called for each job.
pub fn calls_by_job(journal: &Journal) -> BTreeMap<String, i64> {
    let mut calls: BTreeMap<String, i64> = BTreeMap::new();
    for call in journal.calls() {
        let job = call.labels.get("job").cloned().unwrap_or_default();
        *calls.entry(job).or_default() += 1;
    }
    calls
}

/// Prints the counts, and returns the violations. All jobs must have succeeded, and no worker may have crashed.
pub async fn judge(reader: &PgPool, journal: &Journal, offered: &Offered) -> Vec<String> {
    let mut violations = lost(offered);
    let accepted: Vec<&Accepted> = offered.iter().flatten().collect();
    let again = accepted
        .iter()
        .filter(|accepted| accepted.tries > 1)
        .count();

    let jobs: Vec<(Uuid, String, i32, i32, i32, i64)> = sqlx::query_as(
        "SELECT id, state, fence, crash_count, n_requested, (SELECT count(*) FROM calls WHERE job_id = jobs.id) FROM jobs",
    )
    .fetch_all(reader)
    .await
    .unwrap();
    let called = calls_by_job(journal);
    let handed_back = jobs.iter().filter(|job| job.2 > 1).count();
    println!(
        "  {} submits were accepted, {again} of them not at once",
        accepted.len()
    );
    println!(
        "  {} jobs, {handed_back} of them handed back by a stopping worker",
        jobs.len()
    );
    println!(
        "  {} calls, as the provider counts",
        called.values().sum::<i64>()
    );

    if jobs.len() != accepted.len() {
        violations.push(format!(
            "{} submits made {} jobs",
            accepted.len(),
            jobs.len()
        ));
    }
    for (id, state, _, crashes, outputs, journaled) in jobs {
        let id = JobId(id).to_string();
        let calls = called.get(&id).copied().unwrap_or_default();
        if state != "succeeded" {
            violations.push(format!("{id} is {state}"));
        }
        if crashes > 0 {
            violations.push(format!("{id} was left by {crashes} workers"));
        }
        if calls != i64::from(outputs) || journaled != calls {
            violations.push(format!(
                "{id} asked for {outputs} images, the provider was called {calls} times, the journal has {journaled} calls"
            ));
        }
    }
    violations
}

/// The submits that were not accepted, one line each.
pub fn lost(offered: &Offered) -> Vec<String> {
    let lost = offered.iter().filter_map(|offered| offered.as_ref().err());
    lost.map(|error| format!("a submit was lost: {error:#}"))
        .collect()
}
