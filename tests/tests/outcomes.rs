//! Every row of the outcome table, for every provider that can give such an answer: `make outcomes`.
//!
//! The rows come from the code, the answers from the fakes, which take the rows' own words. Each row has a model of
//! its own, so that no row's trouble closes the lane of another, and all of them are walked at once.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use domain::outcome::table::{Dialect, Rule, TABLE};
use domain::outcome::{Class, Retries};
use futures::stream::{self, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Row as _;
use tests::{Options, Pipeline};

/// Paid calls a job of one output may make.
const MAX_CALLS: usize = 3;
/// Rows walked at the same time: two processors draw, serve and settle for all of them.
const AT_ONCE: usize = 12;
/// After the last answer nothing may take longer than this.
const PROMPTLY: f64 = 1.0;

/// A row as one provider gives it.
struct Walk {
    dialect: Dialect,
    row: &'static Rule,
    model: String,
}

impl Walk {
    /// The word the fake takes. A row for all others gets one that nobody listed.
    fn word(&self) -> String {
        match self.row.answer_signal {
            "status:4*" => "status:418".to_owned(),
            "status:5*" => "status:599".to_owned(),
            "status:*" => "status:302".to_owned(),
            sign => sign.replace('*', "FROM_THE_FUTURE"),
        }
    }

    fn prompt(&self) -> String {
        let told = match self.row.answer_signal {
            "ok" => String::new(),
            // What counts for nothing would go on for as long as the job has time.
            _ if !self.row.class.contract().counts => format!("[[fault:{}*2]]", self.word()),
            _ => format!("[[fault:{}]]", self.word()),
        };
        format!("a bottle for {} {told}", self.model)
    }

    /// How many calls the contract says, and how the job ends.
    fn expected(&self) -> (usize, Class) {
        let contract = self.row.class.contract();
        match contract.retries {
            _ if self.row.class == Class::Ok => (1, Class::Ok),
            _ if !contract.counts => (3, Class::Ok),
            Retries::Never => (1, self.row.class),
            Retries::Once => (2, self.row.class),
            Retries::WhilePossible => (MAX_CALLS, self.row.class),
        }
    }
}

/// Everything but what no server can answer: that is walked apart.
fn walks() -> Vec<Walk> {
    let producible = TABLE.iter().filter(|row| row.answer_signal != "connect");
    producible
        .flat_map(|row| row.dialects.iter().map(move |&dialect| (dialect, row)))
        .enumerate()
        .map(|(number, (dialect, row))| Walk {
            dialect,
            row,
            model: format!("row-{number}-{}", dialect.as_str()),
        })
        .collect()
}

/// The name of a model the dialect's fake knows.
fn known(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Vertex | Dialect::Gemini | Dialect::Interactions => "gemini-nano-banana-2.1",
        Dialect::Openai => "gpt-image-2",
    }
}

/// A catalogue with a model for each row, quick to give up waiting.
fn catalogue(walks: &[Walk]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for &dialect in Dialect::ALL {
        let name = dialect.as_str();
        let mut text = format!("provider = \"{name}\"\ndialect = \"{name}\"\n");
        for walk in walks.iter().filter(|walk| walk.dialect == dialect) {
            write!(
                text,
                r#"
[models.{}]
name = "{}"
title = "A row"
kind = "image"
location = "global"
sizes = ["1K", "2K"]
ratios = ["1:1"]
max_inputs = 1
timeout_seconds = 4
announced = 2026-01-01
successor = "{}"
thinking = ["MINIMAL", "HIGH"]
seed = {}
cost_usd_micros = {{ 1K = 30_000, 2K = 50_000 }}
price = [{{ from = 2026-01-01, credits = {{ 1K = 6, 2K = 9 }} }}]
"#,
                walk.model,
                known(dialect),
                walk.model,
                dialect != Dialect::Openai,
            )
            .unwrap();
        }
        std::fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::print_stdout,
    reason = "`make outcomes` prints the rows it walked"
)]
async fn every_row_ends_as_documented() {
    let walks = walks();
    let folder = catalogue(&walks);
    let pipeline = Pipeline::start_with(Options {
        credits: 10_000,
        slots: AT_ONCE,
        // Everybody at once is busy here: a lease must not run out by that.
        lease: Duration::from_secs(15),
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    let switches = fakes::Switches {
        plain: true,
        ..fakes::Switches::default()
    };
    pipeline.fake.faults().set(switches);
    let rows_walked = stream::iter(&walks).map(|walk| walk_row(&pipeline, walk));
    let ended: Vec<_> = rows_walked.buffered(AT_ONCE).collect().await;
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (walk, found) in walks.iter().zip(ended) {
        let dialect = walk.dialect.as_str();
        *rows.entry(dialect).or_default() += 1;
        match found {
            Ok(line) => println!("{line}"),
            Err(problem) => wrong.push(format!("{dialect} {}: {problem}", walk.row.answer_signal)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} rows differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    println!("{} rows of the outcome table walked: {rows:?}", walks.len());
    pipeline.close().await;
}

/// Submits one job and compares all that came of it with what the row says.
async fn walk_row(pipeline: &Pipeline, walk: &Walk) -> Result<String, String> {
    let body = json!({"model": walk.model, "prompt": walk.prompt(), "size": "1K"});
    let id = pipeline.submit(&body).await;
    let job = pipeline.ended_within(&id, Duration::from_mins(2)).await;
    let (calls, class) = walk.expected();
    let mut wrong = Vec::new();
    let mut differs = |what: &str, expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
        wrong.push(format!("{what}: documented {expected:?}, found {found:?}"));
    };

    let found = job["outcome"]["class"].as_str().unwrap_or_default();
    if found != class.as_str() {
        differs("class", &class.as_str(), &found);
    }
    let (state, captured) = match class {
        Class::Ok => ("succeeded", 6),
        _ => ("failed", 0),
    };
    let cost = &job["cost"];
    let money = (
        job["state"].as_str().unwrap_or_default(),
        cost["captured"].as_i64().unwrap_or(-1),
        cost["released"].as_i64().unwrap_or(-1),
    );
    if money != (state, captured, 6 - captured) {
        differs("end", &(state, captured, 6 - captured), &money);
    }
    let words = job["outcome"]["reason"].as_str().unwrap_or_default();
    let documented = match class {
        Class::ModelRetired => format!("The provider no longer offers {}. Use ", walk.model),
        class => class.customer_message().to_owned(),
    };
    if !words.starts_with(&documented) || (captured == 0) != words.ends_with("Nothing was charged.")
    {
        differs("words", &documented, &words);
    }

    let journaled = sqlx::query(
        "SELECT outcome, counted, extract(epoch FROM (SELECT finished_at FROM jobs WHERE id = job_id) - ended_at)::float8 AS rest
         FROM calls WHERE job_id = $1 ORDER BY id",
    )
    .bind(id.parse::<domain::id::JobId>().unwrap().0)
    .fetch_all(&pipeline.reader)
    .await
    .unwrap();
    let outcomes: Vec<String> = journaled.iter().map(|call| call.get("outcome")).collect();
    let mut as_documented = vec![walk.row.class.as_str(); calls];
    if class != walk.row.class {
        as_documented[calls - 1] = class.as_str();
    }
    if outcomes != as_documented {
        differs("calls", &as_documented, &outcomes);
    }
    let asked = pipeline.fake.journal().calls();
    let asked = asked
        .iter()
        .filter(|call| call.creates && call.body.to_string().contains(&format!("{} ", walk.model)))
        .count();
    if asked != calls {
        differs("calls that reached the provider", &calls, &asked);
    }
    let counted = journaled.iter().filter(|call| call.get("counted")).count();
    let counting = if walk.row.class.contract().counts {
        calls
    } else {
        1
    };
    if counted != counting {
        differs("calls that count", &counting, &counted);
    }
    let rest: f64 = journaled.last().map_or(f64::MAX, |call| call.get("rest"));
    if rest > PROMPTLY {
        differs(
            "seconds from the last answer to the release",
            &PROMPTLY,
            &rest,
        );
    }
    if wrong.is_empty() {
        let (dialect, sign) = (walk.dialect.as_str(), walk.row.answer_signal);
        let class = walk.row.class.as_str();
        Ok(format!(
            "{dialect:<13} {sign:<34} {class:<17} calls {calls}  {state:<9} charged {captured}  settled after {:>4.0} ms",
            rest * 1_000.0
        ))
    } else {
        Err(wrong.join("; "))
    }
}

/// What nobody answers at all.
#[tokio::test]
async fn a_provider_that_cannot_be_reached_costs_nothing_and_counts_for_nothing() {
    let pipeline = Pipeline::start_with(Options {
        vendors: Some("http://127.0.0.1:1".to_owned()),
        ..Options::default()
    })
    .await;
    for model in [
        "gemini-nano-banana-2.1",
        "gemini-nano-banana-2.1-developer",
        "gemini-nano-banana-2.1-background",
        "gpt-image-2",
    ] {
        let body = json!({"model": model, "prompt": "a bottle"});
        let request = pipeline.request(Method::POST, "/v1/jobs");
        let request = request.header("Cancel-After", "2s").json(&body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let job: Value = response.json().await.unwrap();
        let job = pipeline.ended(job["id"].as_str().unwrap()).await;
        let class = job["outcome"]["class"].as_str().unwrap();
        assert!(matches!(class, "unreachable" | "expired"), "{job}");
        assert_eq!(job["cost"]["released"], job["cost"]["held"]);
    }
    let calls: Vec<(String, bool)> = sqlx::query_as("SELECT DISTINCT outcome, counted FROM calls")
        .fetch_all(&pipeline.reader)
        .await
        .unwrap();
    assert_eq!(calls, [("unreachable".to_owned(), false)]);
    assert_eq!(pipeline.fake.journal().count(), 0);
    pipeline.close().await;
}
