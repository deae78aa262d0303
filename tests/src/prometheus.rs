//! A real Prometheus with the shipped rules. It scrapes the processes of a test, with the shipped names of scrape jobs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::Url;
use serde_json::{Value, json};
use servers::free_port;
use tokio::process::{Child, Command};

use crate::fleet::Process;
use crate::root;

/// The shipped interval of scrapes and of rule evaluation.
pub fn shipped_interval() -> anyhow::Result<Duration> {
    let shipped = std::fs::read_to_string(root("dashboards/prometheus/prometheus.yml"))?;
    let shipped: Value = serde_saphyr::from_str(&shipped)?;
    let interval = &shipped["global"]["scrape_interval"];
    ensure!(
        *interval == shipped["global"]["evaluation_interval"],
        "two intervals"
    );
    let seconds = interval
        .as_str()
        .and_then(|interval| interval.strip_suffix('s'));
    Ok(Duration::from_secs(seconds.context("seconds")?.parse()?))
}

/// A running Prometheus. Dropping it kills it.
pub struct Prometheus {
    url: String,
    client: reqwest::Client,
    _child: Child,
}

impl Prometheus {
    /// Starts one with its data in a folder. It also scrapes processes that do not run yet.
    pub async fn start(
        folder: &Path,
        interval: Duration,
        apis: &[Process],
        workers: &[Process],
    ) -> anyhow::Result<Self> {
        let targets = |processes: &[Process]| {
            let addresses = processes
                .iter()
                .map(|process| process.metrics_address().to_string());
            addresses.collect::<Vec<String>>()
        };
        let all: Vec<String> = targets(apis).into_iter().chain(targets(workers)).collect();
        let interval = format!("{}s", interval.as_secs());
        // JSON is valid YAML.
        let config = json!({
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [root("dashboards/prometheus/rules.yml").canonicalize()?],
            "scrape_configs": [
                {"job_name": "platen", "static_configs": [{"targets": all}]},
                {"job_name": "platen-billing", "metrics_path": "/metrics/billing", "static_configs": [{"targets": targets(apis)}]},
            ],
        });
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config.to_string())?;
        let address = format!("127.0.0.1:{}", free_port()?);
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
            .context("prometheus: scripts/setup boards installs it")?;
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .build()?;
        let prometheus = Self {
            url: format!("http://{address}"),
            client,
            _child: child,
        };
        for _ in 0..200 {
            let ready = prometheus.client.get(prometheus.at("/-/ready")?).send();
            if ready.await.is_ok_and(|ready| ready.status().is_success()) {
                return Ok(prometheus);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("prometheus does not start")
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The result of a query: the series, each with its current value.
    pub async fn ask(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let mut url = self.at("/api/v1/query")?;
        url.query_pairs_mut().append_pair("query", query);
        let answer: Value = self.client.get(url).send().await?.json().await?;
        ensure!(
            answer["status"] == "success",
            "{}: {query}",
            answer["error"]
        );
        Ok(answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    }

    /// The current value of a query that has at most one series; `None` if it has none.
    pub async fn number(&self, query: &str) -> anyhow::Result<Option<f64>> {
        let series = self.ask(query).await?;
        ensure!(series.len() < 2, "{query} has {} series", series.len());
        let value = series
            .first()
            .and_then(|series| series["value"][1].as_str());
        Ok(value.map(str::parse).transpose()?)
    }

    /// How many rules there are, and the errors of those that have one.
    pub async fn rules(&self) -> anyhow::Result<(usize, Vec<String>)> {
        let answer = self.client.get(self.at("/api/v1/rules")?).send().await?;
        let answer: Value = answer.json().await?;
        let groups = answer["data"]["groups"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let rules: Vec<Value> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        let bad = rules.iter().filter(|rule| rule["health"] != "ok");
        let bad = bad.map(|rule| format!("{}: {}", rule["name"], rule["lastError"]));
        Ok((rules.len(), bad.collect()))
    }

    fn at(&self, path: &str) -> anyhow::Result<Url> {
        Ok(Url::parse(&self.url)?.join(path)?)
    }
}
