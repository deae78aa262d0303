//! `make boards`: whether every panel of the dashboards shows something.
//!
//! An api and two workers are real processes under load in which some jobs fail and some wait; a real Prometheus scrapes them
//! as `dashboards/prometheus/prometheus.yml` would, once a second, and evaluates the shipped rules. Then every query of every panel and
//! variable is asked. Exits with 1 when one is an error, or has no answer though it should.
#![expect(clippy::print_stdout, reason = "prints what it found")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use cli::private::{Tuning, free_port};
use common::config::Timing;
use fakes::{Fault, Switches};
use serde_json::{Value, json};
use tests::Options;
use tests::clients::Clients;
use tests::fleet::{Process, Role};
use tests::real::Real;
use tests::servers::TestServers;
use tokio::process::{Child, Command};

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
    let (mut prometheus, url) = scrape(folder.path(), &apis, &workers).await;

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
            let answer = ask(&url, &query).await;
            let says = match answer {
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
    let rules = rules(&url).await;
    println!(
        "{asked} queries: {empty} empty, {broken} broken; {rules} rules evaluated without an error"
    );
    prometheus.kill().await.unwrap();
    assert!(
        pipeline.drained(Duration::from_mins(1)).await,
        "jobs are open"
    );
    drop((apis, workers));
    pipeline.close().await;
    servers.stop().await;
    if empty + broken == 0 && rules > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The shipped rules; the targets are ours, under the shipped names of the jobs.
async fn scrape(folder: &Path, apis: &[Process], workers: &[Process]) -> (Child, String) {
    let rules = root().join("dashboards/prometheus/rules.yml");
    let targets = |processes: &[Process]| {
        let addresses = processes
            .iter()
            .map(|process| process.metrics_address().to_string());
        addresses.collect::<Vec<String>>()
    };
    let all: Vec<String> = targets(apis).into_iter().chain(targets(workers)).collect();
    // YAML takes JSON.
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules],
        "scrape_configs": [
            {"job_name": "platen", "static_configs": [{"targets": all}]},
            {"job_name": "platen-billing", "metrics_path": "/metrics/billing", "static_configs": [{"targets": targets(apis)}]},
        ],
    });
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config.to_string()).unwrap();
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("prometheus: scripts/setup boards installs it");
    let url = format!("http://{address}");
    for _ in 0..200 {
        let ready = reqwest::get(format!("{url}/-/ready")).await;
        if ready.is_ok_and(|ready| ready.status().is_success()) {
            return (child, url);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("prometheus does not start")
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

/// How many series answer.
async fn ask(url: &str, query: &str) -> anyhow::Result<usize> {
    let mut request = reqwest::Url::parse(&format!("{url}/api/v1/query"))?;
    request.query_pairs_mut().append_pair("query", query);
    let answer: Value = reqwest::get(request).await?.json().await?;
    anyhow::ensure!(
        answer["status"] == "success",
        "{}: {query}",
        answer["error"]
    );
    Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
}

/// How many rules there are that Prometheus evaluates; 0 where one has an error.
async fn rules(url: &str) -> usize {
    let answer: Value = reqwest::get(format!("{url}/api/v1/rules"))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let groups = answer["data"]["groups"].as_array().unwrap().clone();
    let rules: Vec<Value> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect();
    let bad = rules.iter().filter(|rule| rule["health"] != "ok");
    for rule in bad.clone() {
        println!("  RULE    {}: {}", rule["name"], rule["lastError"]);
    }
    if bad.count() == 0 { rules.len() } else { 0 }
}
