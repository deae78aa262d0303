//! `make demo-load` and `make boards`: a service under load, for dashboards.
//!
//! An api and two workers are real processes. There are two models, one of which the provider refuses, and jobs with one
//! image and with two; some are refused, some fail, some are canceled. A real Prometheus scrapes the processes once a
//! second and evaluates the shipped rules. It runs until Ctrl-C. With `--ask` it asks every query of every panel and
//! variable after a while, and exits with 1 if one is an error or has no answer.
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
use tests::proof::Proof;
use tests::real::Real;
use tests::{Options, root};

const MODEL: &str = "gemini-nano-banana-2.1";
/// The provider refuses this model, so its lane is unavailable.
const REFUSED_MODEL: &str = "gemini-3-pro-image";
const DRAIN_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct Arguments {
    /// Ask the queries of all panels, and exit.
    #[arg(long)]
    ask: bool,
    /// Seconds of load before that. Some panels show the last full minutes.
    #[arg(long, default_value_t = 130)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { ask, seconds } = Arguments::parse();
    let mut proof = Proof::default();
    let folder = tempfile::tempdir().unwrap();
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start_alone(Options::in_earnest(), 200..=800).await;
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
        // Ctrl-C has reached the processes as well, in the middle of their work, so the books cannot close.
        drop((apis, workers, prometheus));
        pipeline.abandon().await;
        return ExitCode::SUCCESS;
    }
    ask_all(&mut proof, &prometheus).await;
    drop(prometheus);
    // Jobs of the refused model would wait for ever.
    let waiting = json!({"model": REFUSED_MODEL, "reason": "the end of the load"});
    let cancel = pipeline.anonymous(Method::POST, "/v1/admin/jobs/cancel");
    let canceled = cancel.bearer_auth(OPERATOR_KEY).json(&waiting).send().await;
    assert!(canceled.unwrap().status().is_success(), "not canceled");
    let drained = pipeline.drained(DRAIN_TIMEOUT).await;
    proof.check(drained, "every job has ended");
    drop((apis, workers));
    proof.close(pipeline).await;
    proof.verdict()
}

/// Submits ten jobs a second, for ever.
async fn load(key: &str, api: &Process) {
    let clients = Clients::new(key, vec![api.address()]);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for number in 0.. {
        ticks.tick().await;
        let prompt = ["a bottle", "a bottle", "a bottle", "something forbidden"][number % 4];
        let outputs = 1 + number % 2;
        let mut job = json!({"model": MODEL, "prompt": prompt, "size": "1K", "outputs": outputs});
        if number % 50 == 13 {
            job = json!({"model": REFUSED_MODEL, "prompt": "a bottle [[fault:denied]]"});
        }
        let job = clients.submit(number, &job).await.unwrap().job;
        let url = format!("http://{}/v1/jobs", api.address());
        if number % 20 == 0 {
            let cancel = format!("{url}/{job}/cancel");
            let client = clients.http();
            client.post(cancel).bearer_auth(key).send().await.unwrap();
        }
        // A request without a key, which is refused.
        reqwest::get(url).await.unwrap();
    }
}

/// Asks the queries of all panels, and prints the result of each.
async fn ask_all(proof: &mut Proof, prometheus: &Prometheus) {
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
    proof.check(
        asked > 0 && empty == 0 && broken == 0,
        format!("{asked} queries: {empty} empty, {broken} broken"),
    );
    proof.check(
        rules > 0 && wrong.is_empty(),
        format!("{rules} rules, {} of them with an error", wrong.len()),
    );
}

fn boards() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(root("dashboards/grafana/boards")).unwrap();
    let mut boards: Vec<PathBuf> = folder.map(|file| file.unwrap().path()).collect();
    boards.sort();
    boards
}

/// Every query of a board as Grafana sends it, with the title of its panel or the name of its variable.
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
