//! `make boards`: whether every panel of the dashboards shows something.
//!
//! An api and two workers are real processes under load in which some jobs fail and some wait; a real Prometheus scrapes them
//! as `dashboards/prometheus/prometheus.yml` would, once a second, and evaluates the shipped rules. Then every query of every panel and
//! variable is asked. Exits with 1 when one is an error, or has no answer though it should.
#![expect(clippy::print_stdout, reason = "prints what it found")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use cli::private::Tuning;
use common::config::Timing;
use fakes::{Fault, Switches};
use serde_json::{Value, json};
use tests::Options;
use tests::clients::Clients;
use tests::fleet::Role;
use tests::prometheus::Prometheus;
use tests::real::Real;
use tests::servers::TestServers;

const MODEL: &str = "gemini-nano-banana-2.1";
/// Panels that are empty while all is well, or before an hour is over.
const MAY_BE_EMPTY: [&str; 2] = ["Closed lanes", "Margin per model in the last hour"];

#[derive(Parser)]
struct Words {
    /// Seconds of load before the panels are asked; some look back from full minutes.
    #[arg(long, default_value_t = 75)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words { seconds } = Words::parse();
    let (folder, servers, named) = TestServers::own(Tuning::Durable).await;
    let options = Options {
        credits: 100_000_000,
        lease: Timing::default().lease,
        ..Options::default()
    };
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start_on(named, options, 200..=800).await;
    fake.faults().set(Switches {
        rate: 0.1,
        among: vec![
            "empty".parse::<Fault>().unwrap(),
            "unavailable".parse().unwrap(),
        ],
        ..fake.faults().get()
    });
    let apis = orders.start(Role::Api, 1).await.unwrap();
    let workers = orders.start(Role::Worker, 2).await.unwrap();
    let often = Duration::from_secs(1);
    let prometheus = Prometheus::start(folder.path(), often, &apis, &workers)
        .await
        .unwrap();

    let clients = Arc::new(Clients::new(&pipeline.key, vec![apis[0].address()]));
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        // Some are refused, and some ask for what is not there.
        let prompt = ["a bottle", "a bottle", "a bottle", "something forbidden"][number % 4];
        clients
            .submit(number, &json!({"model": MODEL, "prompt": prompt}))
            .await
            .unwrap();
        let _not_found = reqwest::get(format!("http://{}/v1/jobs", apis[0].address())).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{number} jobs in {seconds} s");

    let (mut asked, mut empty, mut broken) = (0, 0, 0);
    for path in boards() {
        let board: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        println!("{}", board["title"].as_str().unwrap());
        for (title, query) in queries(&board) {
            asked += 1;
            let answer = prometheus.ask(&query).await;
            let says = match answer.map(|series| series.len()) {
                Err(error) => {
                    broken += 1;
                    format!("BROKEN  {error}")
                }
                Ok(0) if MAY_BE_EMPTY.contains(&title.as_str()) => "empty, as it may be".to_owned(),
                Ok(0) => {
                    empty += 1;
                    format!("EMPTY   {query}")
                }
                Ok(series) => format!("{series} series"),
            };
            println!("  {title:58}  {says}");
        }
    }
    let (rules, bad) = prometheus.rules().await.unwrap();
    for bad in &bad {
        println!("  RULE    {bad}");
    }
    println!(
        "{asked} queries: {empty} empty, {broken} broken; {rules} rules, {} of them with an error",
        bad.len()
    );
    drop(prometheus);
    assert!(
        pipeline.drained(Duration::from_mins(1)).await,
        "jobs are open"
    );
    drop((apis, workers));
    pipeline.close().await;
    servers.stop().await;
    if empty + broken == 0 && rules > 0 && bad.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn boards() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(root().join("dashboards/grafana/boards")).unwrap();
    let mut boards: Vec<PathBuf> = folder.map(|file| file.unwrap().path()).collect();
    boards.sort();
    boards
}

/// Every query of a board, as Grafana would send it: by the title of its panel, or the name of its variable.
fn queries(board: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of_panels = list(&board["panels"]).into_iter().flat_map(move |panel| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = list(&panel["targets"]).into_iter();
        targets.map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    });
    let of_variables = list(&board["templating"]["list"])
        .into_iter()
        .filter_map(|variable| {
            let query = variable["query"]["query"].as_str()?;
            let inner = query.strip_prefix("label_values(")?.split(',').next()?;
            Some((format!("${}", variable["name"].as_str()?), inner.to_owned()))
        });
    let filled = |query: String| {
        let query = query
            .replace("$__rate_interval", "30s")
            .replace("$__interval", "10s");
        query.replace("$__range", "1h").replace("$model", ".*")
    };
    of_panels
        .chain(of_variables)
        .map(|(title, query)| (title, filled(query)))
        .collect()
}
