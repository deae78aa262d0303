//! Where attacks are tried: a private Postgres and Redis, a fake vendor, and for each case an api and a worker of its
//! own, which may open 1,024 files and take so much memory as their containers give them.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use servers::{Servers, Tuning};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::fleet::{Orders, Process, Role};
use crate::pipeline::OPERATOR_KEY;
use crate::real::Real;
use crate::servers::TestServers;
use crate::{Options, Pipeline};
use crate::{models, processes};

/// What the chart gives an api, and a worker.
const API_MEMORY: u64 = 512 << 20;
const WORKER_MEMORY: u64 = 768 << 20;
/// Files a process may have open, connections included.
const OPEN_FILES: u32 = 1_024;
/// Health answers within this, whatever happens.
const HEALTHY: Duration = Duration::from_secs(1);
/// Switches the bounds on rates off: D.1 and D.2 must hold without them.
pub const WITHOUT_RATES: &[(&str, &str)] = &[
    ("PLATEN_RATE_KEY", "0"),
    ("PLATEN_RATE_TENANT", "0"),
    ("PLATEN_RATE_ADDRESS", "0"),
];

/// Servers, vendor and catalogue, for all cases.
pub struct Stage {
    pub real: Real,
    servers: Servers,
    _folders: (TempDir, TempDir),
}

/// An api and a worker under attack.
pub struct Attacked {
    pub api: Process,
    /// `None`: nothing is made.
    pub worker: Option<Process>,
    health: Health,
}

/// A tenant at an address of its own, as an api sees it.
#[derive(Clone)]
pub struct Caller {
    pub key: String,
    http: Client,
    api: SocketAddr,
}

/// Asks again and again how both processes are.
struct Health {
    _asking: JoinSet<()>,
    slowest: Arc<Mutex<(Duration, String)>>,
}

impl Stage {
    pub async fn start() -> anyhow::Result<Self> {
        let (folder, servers, named) = TestServers::own(Tuning::Durable).await;
        let options = Options {
            slots: 16,
            ..Options::in_earnest()
        };
        let mut real = Real::start_on(named, options, 100..=300).await;
        models::openai_played_by(&real.folders.catalogue, &real.fake.base_url());
        let limited = tempfile::tempdir()?;
        real.orders.program = limited_program(limited.path())?;
        Ok(Self {
            real,
            servers,
            _folders: (folder, limited),
        })
    }

    /// An api and a worker that are ready, with these variables besides.
    pub async fn processes(&self, more: &[(&str, &str)]) -> anyhow::Result<Attacked> {
        self.roles(&[Role::Api, Role::Worker], more).await
    }

    /// An api without a worker: what is submitted stays in the queue.
    pub async fn api_alone(&self, more: &[(&str, &str)]) -> anyhow::Result<Attacked> {
        self.roles(&[Role::Api], more).await
    }

    async fn roles(&self, roles: &[Role], more: &[(&str, &str)]) -> anyhow::Result<Attacked> {
        let more = more
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let orders = Orders {
            environment: self
                .real
                .orders
                .environment
                .iter()
                .cloned()
                .chain(more)
                .collect(),
            ..self.real.orders.clone()
        };
        let mut processes = Vec::new();
        for &role in roles {
            processes.push(orders.start_one(role).await?);
        }
        let health = Health::watch(processes.iter().map(Process::metrics_address).collect())?;
        let mut processes = processes.into_iter();
        Ok(Attacked {
            api: processes.next().context("an api was started")?,
            worker: processes.next(),
            health,
        })
    }

    pub async fn cancel_open_jobs(&self) -> anyhow::Result<()> {
        cancel_open_jobs(&self.real.pipeline).await
    }

    /// A new tenant, whose requests come from `127.0.0.<host>`.
    pub async fn tenant(
        &self,
        attacked: &Attacked,
        host: u8,
        credits: i64,
    ) -> anyhow::Result<Caller> {
        let (_, key) = self.real.pipeline.add_tenant(credits).await;
        Caller::new(key, host, attacked.api.address())
    }

    /// Ends everything; no invariant may be broken.
    pub async fn close(self) {
        self.real.pipeline.close().await;
        self.servers.stop().await;
    }
}

/// Ends what no worker will: nothing may be open at the end.
pub async fn cancel_open_jobs(pipeline: &Pipeline) -> anyhow::Result<()> {
    let body = json!({"limit": 1_000, "reason": "the attack is over"});
    while pipeline.open_jobs().await > 0 {
        let request = pipeline.anonymous(Method::POST, "/v1/admin/jobs/cancel");
        let (status, said) = answer(request.bearer_auth(OPERATOR_KEY).json(&body)).await?;
        ensure!(status == StatusCode::OK, "{status} {said}");
    }
    Ok(())
}

/// The program, within the limit of open files.
fn limited_program(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let path = folder.join("platen");
    let platen = processes::binary("platen");
    let script = format!(
        "#!/bin/sh\nulimit -n {OPEN_FILES}\nexec '{}' \"$@\"\n",
        platen.display()
    );
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

impl Attacked {
    /// Ends both, and says what they took; an error where one died, took more than it has, or was not healthy.
    pub async fn held(mut self) -> anyhow::Result<String> {
        let slowest = self.health.slowest();
        let mut peaks = Vec::new();
        for process in [&mut self.api].into_iter().chain(&mut self.worker) {
            let most = match process.role {
                Role::Api => API_MEMORY,
                Role::Worker => WORKER_MEMORY,
            };
            if let Some(status) = process.ended() {
                anyhow::bail!("{} died ({status}); {}", process.name, process.last_words());
            }
            let peak = peak(process)?;
            ensure!(
                peak <= most,
                "{} took {} MiB, and has {} MiB",
                process.name,
                peak >> 20,
                most >> 20
            );
            peaks.push(format!("{} {} MiB", process.role.word(), peak >> 20));
            process.kill().await?;
        }
        let (longest, who) = slowest;
        ensure!(
            longest <= HEALTHY,
            "health took {} ms at {who}",
            longest.as_millis()
        );
        Ok(format!(
            "{}, health {} ms",
            peaks.join(", "),
            longest.as_millis()
        ))
    }
}

/// The most memory a process ever had, in bytes.
fn peak(process: &Process) -> anyhow::Result<u64> {
    let id = process.id().context("it runs")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("the kernel says it")?.parse::<u64>()? << 10)
}

impl Health {
    fn watch(addresses: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let slowest = Arc::<Mutex<(Duration, String)>>::default();
        let http = Client::builder().timeout(Duration::from_secs(5)).build()?;
        let (mut asking, noted) = (JoinSet::new(), Arc::clone(&slowest));
        asking.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            loop {
                ticks.tick().await;
                for address in &addresses {
                    let url = format!("http://{address}/livez");
                    let asked = Instant::now();
                    let answer = http.get(&url).send().await;
                    let took = match answer {
                        Ok(answer) if answer.status().is_success() => asked.elapsed(),
                        _ => Duration::from_secs(5),
                    };
                    let mut slowest = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    if took > slowest.0 {
                        *slowest = (took, url);
                    }
                }
            }
        });
        Ok(Self {
            _asking: asking,
            slowest,
        })
    }

    fn slowest(&self) -> (Duration, String) {
        self.slowest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Caller {
    /// The same tenant at another address.
    pub fn at(&self, host: u8) -> anyhow::Result<Self> {
        Self::new(self.key.clone(), host, self.api)
    }

    /// The same address with another key.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.key);
        self
    }

    fn new(key: String, host: u8, api: SocketAddr) -> anyhow::Result<Self> {
        let http = Client::builder()
            .local_address(IpAddr::from([127, 0, 0, host]))
            .timeout(Duration::from_mins(2))
            .build()?;
        Ok(Self { key, http, api })
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("http://{}{path}", self.api))
            .bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// How long so many requests took, one after the other. One whose connection is closed before it is answered is sent
    /// again, as clients do: an api whose places are all taken closes connections that rest.
    pub async fn asks(&self, path: &str, times: usize) -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::new();
        for _ in 0..times {
            let asked = Instant::now();
            let mut answer = self.get(path).await;
            while answer.is_err() && asked.elapsed() < Duration::from_secs(5) {
                answer = self.get(path).await;
            }
            let (status, body) = answer?;
            ensure!(status == StatusCode::OK, "GET {path}: {status} {body}");
            took.push(asked.elapsed());
        }
        Ok(took)
    }
}

/// Status and body, which may be none.
pub async fn answer(request: RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
    let answer = request.send().await?;
    let status = answer.status();
    let body = answer.bytes().await?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}
