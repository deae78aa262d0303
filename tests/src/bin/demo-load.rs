//! `make demo-load`, and `make boards`: a service at work, for dashboards to look at.
//!
//! An api and two workers are real processes under load: two models, one of which its provider does not let us use, jobs of one picture and
//! of two, some refused, some failing, some canceled; a real Prometheus scrapes them once a second and evaluates the shipped rules. It goes on until
//! Ctrl-C. With `--ask` every query of every panel and variable is asked after a while, and it exits with 1 when one is an
//! error, or has no answer though it should.
#![expect(clippy::print_stdout, reason = "prints what it found")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cli::shutdown::stop_signal;
use fakes::{Fault, Switches};
use reqwest::Method;
use serde_json::{Value, json};
use tests::clients::Clients;
use tests::fleet::{Process, Role};
use tests::pipeline::OPERATOR_KEY;
use tests::prometheus::Prometheus;
use tests::real::Real;
use tests::root;

const MODEL: &str = "gemini-nano-banana-2.1";
/// Its provider does not let us: its lane closes.
const CLOSED: &str = "gemini-3-pro-image";

#[derive(Parser)]
struct Words {
    /// Ask what the panels ask, and exit.
    #[arg(long)]
    ask: bool,
    /// Seconds of load before that; some panels look back from full minutes.
    #[arg(long, default_value_t = 130)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words { ask, seconds } = Words::parse();
    let (folder, servers, real) = Real::own(200..=800).await;
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = real;
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
    println!(
        "api         http://{}, key {}",
        apis[0].address(),
        pipeline.key
    );
    for process in apis.iter().chain(&workers) {
        println!("metrics     http://{}/metrics", process.metrics_address());
    }
    println!(
        "Prometheus  {}: where a Grafana with dashboards/grafana may look",
        prometheus.url()
    );

    let stop = stop_signal().unwrap();
    let time = if ask {
        Duration::from_secs(seconds)
    } else {
        println!("Ctrl-C ends it");
        Duration::MAX
    };
    let load = load(&pipeline.key, &apis[0]);
    let load = tokio::time::timeout(time, load);
    stop.run_until_cancelled(load).await;

    if !ask {
        // Ctrl-C has reached all of them, in the middle of their work: there are no books to close.
        drop((apis, workers, prometheus));
        std::mem::forget(pipeline);
        servers.stop().await;
        return ExitCode::SUCCESS;
    }
    let bad = ask_all(&prometheus).await;
    drop(prometheus);
    // What waits for a lane that does not open.
    let waiting = json!({"model": CLOSED, "reason": "the end of the load"});
    let cancel = pipeline.anonymous(Method::POST, "/v1/admin/jobs/cancel");
    let canceled = cancel.bearer_auth(OPERATOR_KEY).json(&waiting).send().await;
    assert!(canceled.unwrap().status().is_success(), "not canceled");
    let drained = pipeline.drained(Duration::from_mins(1)).await;
    assert!(drained, "jobs are open");
    drop((apis, workers));
    pipeline.close().await;
    servers.stop().await;
    if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Ten jobs a second, for ever.
async fn load(key: &str, api: &Process) {
    let clients = Clients::new(key, vec![api.address()]);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for number in 0.. {
        ticks.tick().await;
        let prompt = ["a bottle", "a bottle", "a bottle", "something forbidden"][number % 4];
        let outputs = 1 + number % 2;
        let mut job = json!({"model": MODEL, "prompt": prompt, "size": "1K", "outputs": outputs});
        if number % 50 == 13 {
            job = json!({"model": CLOSED, "prompt": "a bottle [[fault:denied]]"});
        }
        let job = clients.submit(number, &job).await.unwrap().job;
        let url = format!("http://{}/v1/jobs", api.address());
        if number % 20 == 0 {
            let cancel = format!("{url}/{job}/cancel");
            let client = clients.http();
            client.post(cancel).bearer_auth(key).send().await.unwrap();
        }
        // Who asks without a key.
        reqwest::get(url).await.unwrap();
    }
}

/// Asks what the panels ask; how much was wrong.
async fn ask_all(prometheus: &Prometheus) -> usize {
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
                Ok(0) => {
                    empty += 1;
                    format!("EMPTY   {query}")
                }
                Ok(series) => format!("{series} series"),
            };
            println!("  {title:58}  {says}");
        }
    }
    let (rules, wrong) = prometheus.rules().await.unwrap();
    for wrong in &wrong {
        println!("  RULE    {wrong}");
    }
    println!(
        "{asked} queries: {empty} empty, {broken} broken; {rules} rules, {} of them with an error",
        wrong.len()
    );
    let nothing_asked = usize::from(asked == 0 || rules == 0);
    empty + broken + wrong.len() + nothing_asked
}

fn boards() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(root("dashboards/grafana/boards")).unwrap();
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
