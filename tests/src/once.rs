//! Whether every submit became one job, and every picture was asked for once: the provider's own count beside ours.

use std::collections::BTreeMap;

use common::id::JobId;
use fakes::Journal;
use sqlx::PgPool;
use uuid::Uuid;

use crate::clients::{Accepted, Offered};

/// Prints what was counted, and says what is wrong. All jobs must have ended, and none may have been left by a worker.
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
    let mut called: BTreeMap<String, i64> = BTreeMap::new();
    let calls = journal.calls();
    for call in &calls {
        let job = call.labels.get("job").cloned().unwrap_or_default();
        *called.entry(job).or_default() += 1;
    }
    let handed_back = jobs.iter().filter(|job| job.2 > 1).count();
    println!(
        "  {} submits were accepted, {again} of them not at once",
        accepted.len()
    );
    println!(
        "  {} jobs, {handed_back} of them handed back by a stopping worker",
        jobs.len()
    );
    println!("  {} calls, as the provider counts", calls.len());

    if jobs.len() != accepted.len() {
        violations.push(format!(
            "{} submits made {} jobs",
            accepted.len(),
            jobs.len()
        ));
    }
    for (id, state, _, crashes, outputs, journaled) in jobs {
        let id = JobId(id).to_string();
        let made = called.get(&id).copied().unwrap_or_default();
        if state != "succeeded" {
            violations.push(format!("{id} is {state}"));
        }
        if crashes > 0 {
            violations.push(format!("{id} was left by {crashes} workers"));
        }
        if made != i64::from(outputs) || journaled != made {
            violations.push(format!(
                "{id} asked for {outputs} pictures, the provider was called {made} times, the journal has {journaled} calls"
            ));
        }
    }
    violations
}

/// The submits that were not accepted, a line each.
pub fn lost(offered: &Offered) -> Vec<String> {
    let lost = offered.iter().filter_map(|offered| offered.as_ref().err());
    lost.map(|error| format!("a submit was lost: {error:#}"))
        .collect()
}
