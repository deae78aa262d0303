//! Compares `/metrics/billing` of an api with the rows and the ledger. No job may be open.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use domain::id::CallId;
use fakes::{Call, Journal};
use sqlx::PgPool;
use uuid::Uuid;

/// The differences, one line each.
pub async fn differences(rows: &PgPool, api: SocketAddr) -> anyhow::Result<Vec<String>> {
    let expected: Vec<(String, i64)> = sqlx::query_as(SERIES).fetch_all(rows).await?;
    let text = reqwest::get(format!("http://{api}/metrics/billing"))
        .await?
        .text()
        .await?;
    let told: BTreeMap<&str, i64> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name, value.parse().ok()?))
        })
        .collect();
    let mut differences = Vec::new();
    for (name, value) in &expected {
        let said = told.get(name.as_str());
        if said != Some(value) {
            differences.push(format!(
                "{api} says {said:?} of {name}, the rows say {value}"
            ));
        }
    }
    let kinds = |names: &mut dyn Iterator<Item = &str>| {
        names
            .filter(|name| name.starts_with("platen_jobs_total"))
            .count()
    };
    let (said, wanted) = (
        kinds(&mut told.keys().copied()),
        kinds(&mut expected.iter().map(|(name, _)| name.as_str())),
    );
    if said != wanted {
        differences.push(format!(
            "{api} tells of {said} kinds of ends, the rows of {wanted}"
        ));
    }
    let totals: Vec<(String, i64)> = sqlx::query_as(TOTALS).fetch_all(rows).await?;
    for (metric, value) in totals {
        let said: i64 = told
            .iter()
            .filter(|(name, _)| name.starts_with(&metric))
            .map(|(_, value)| value)
            .sum();
        if said != value {
            differences.push(format!(
                "{api} says {said} of {metric} in all, the ledger says {value}"
            ));
        }
    }
    let (captured, delivered): (i64, i64) = sqlx::query_as(CAPTURED).fetch_one(rows).await?;
    if captured != delivered {
        differences.push(format!(
            "{captured} were captured, what was delivered costs {delivered}"
        ));
    }
    Ok(differences)
}

/// The requests for images in the journal of the provider that have no row of a call, one line each.
pub async fn unrecorded(rows: &PgPool, journal: &Journal) -> anyhow::Result<Vec<String>> {
    let known: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM calls")
        .fetch_all(rows)
        .await?;
    let known: HashSet<Uuid> = known.into_iter().collect();
    let requests = journal.calls();
    let requests = requests.iter().filter(|request| request.creates);
    let unknown =
        requests.filter(|request| !labelled(request).is_some_and(|call| known.contains(&call)));
    Ok(unknown
        .map(|request| format!("request {}: {:?}", request.number, request.labels))
        .collect())
}

/// The call that a request belongs to, read from its label.
pub fn labelled(request: &Call) -> Option<Uuid> {
    let label = request.labels.get("call")?;
    label.parse::<CallId>().map(|id| id.0).ok()
}

/// The expected value of each series, computed from rows.
const SERIES: &str = r#"
    SELECT format('platen_jobs_total{model="%s",outcome="%s",state="%s"}', model, outcome, state), count(*) FROM jobs GROUP BY model, outcome, state
    UNION ALL SELECT format('platen_credits_captured_total{model="%s"}', model), sum(captured)::bigint FROM jobs GROUP BY model
    UNION ALL SELECT format('platen_credits_released_total{model="%s"}', model), sum(released)::bigint FROM jobs GROUP BY model
    UNION ALL SELECT format('platen_provider_calls_total{model="%s",outcome="%s",provider="%s"}', model, outcome, provider), count(*) FROM calls GROUP BY model, outcome, provider
    UNION ALL SELECT format('platen_provider_cost_usd_micros_total{model="%s",outcome="%s",provider="%s"}', model, outcome, provider), sum(cost_micros)::bigint
      FROM calls GROUP BY model, outcome, provider"#;

/// The expected totals of all models, computed from the ledger.
const TOTALS: &str = "
    SELECT 'platen_credits_captured_total', coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0)::bigint FROM transfers
    UNION ALL SELECT 'platen_credits_released_total', coalesce(sum(amount) FILTER (WHERE kind = 'release'), 0)::bigint FROM transfers
    UNION ALL SELECT 'platen_credits_refunded_total', coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint FROM transfers
    UNION ALL SELECT 'platen_credits_held', coalesce(sum(held), 0)::bigint FROM wallets";

/// The captured credits, and the price of all images that were delivered.
const CAPTURED: &str = "
    SELECT (SELECT coalesce(sum(amount), 0)::bigint FROM transfers WHERE kind = 'capture'),
           (SELECT coalesce(sum(unit_price), 0)::bigint FROM jobs JOIN artifacts ON job_id = jobs.id WHERE role = 'rendition')";
