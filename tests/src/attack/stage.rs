//! What attacks are tried on: a private Postgres and Redis, a fake vendor, and for each case an api and a worker of its
//! own, which may open 1,024 files and use as much memory as their containers.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::figures::memory_kib;
use crate::fleet::{Orders, Process, Role};
use crate::pipeline::OPERATOR_KEY;
use crate::proof::Proof;
use crate::real::Real;
use crate::{Options, Pipeline, models, processes};

/// The memory that the chart gives an api and a worker, in MiB.
const API_MEMORY_MIB: u64 = 512;
const WORKER_MEMORY_MIB: u64 = 768;
/// Files that a process may open, connections included.
const OPEN_FILES: u32 = 1_024;
/// The health check must answer in this time.
const HEALTH_TARGET: Duration = Duration::from_secs(1);
/// How long the health check may take until it counts as not answered.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Switches the limits on request rates off: D.1 and D.2 must hold without them.
pub const WITHOUT_RATES: &[(&str, &str)] = &[
    ("PLATEN_RATE_KEY", "0"),
    ("PLATEN_RATE_TENANT", "0"),
    ("PLATEN_RATE_ADDRESS", "0"),
];

/// Servers, vendor and catalogue for all cases.
pub struct Stage {
    /// The database, the vendor, and what processes are started with.
    pub real: Real,
    /// The folder of the program with limits.
    _folder: TempDir,
}

/// An api and a worker under attack.
pub struct Attacked {
    /// The api.
    pub api: Process,
    /// The worker; `None` if jobs are to stay in the queue.
    pub worker: Option<Process>,
    health: Health,
}

/// A tenant that sends from an IP address of its own.
#[derive(Clone)]
pub struct Caller {
    /// The API key of the tenant.
    pub key: String,
    http: Client,
    api: SocketAddr,
}

/// Runs the health check of both processes again and again.
struct Health {
    _asking: JoinSet<()>,
    slowest: Arc<Mutex<(Duration, String)>>,
}

impl Stage {
    /// Starts the servers.
    pub async fn start() -> anyhow::Result<Self> {
        let options = Options {
            slots: 16,
            ..Options::in_earnest()
        };
        let mut real = Real::start_alone(options, 100..=300).await;
        models::openai_played_by(&real.folders.catalogue, &real.fake.base_url());
        let folder = tempfile::tempdir()?;
        real.orders.program = limited_program(folder.path())?;
        Ok(Self {
            real,
            _folder: folder,
        })
    }

    /// Starts an api and a worker with further variables, and waits until both are ready.
    pub async fn processes(&self, more: &[(&str, &str)]) -> anyhow::Result<Attacked> {
        self.roles(&[Role::Api, Role::Worker], more).await
    }

    /// Starts an api without a worker: submitted jobs stay in the queue.
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

    /// Cancels every open job.
    pub async fn cancel_open_jobs(&self) -> anyhow::Result<()> {
        cancel_open_jobs(&self.real.pipeline).await
    }

    /// Adds a tenant that sends from `127.0.0.<host>`.
    pub async fn tenant(
        &self,
        attacked: &Attacked,
        host: u8,
        credits: i64,
    ) -> anyhow::Result<Caller> {
        let (_, key) = self.real.pipeline.add_tenant(credits).await;
        Caller::new(key, host, attacked.api.address())
    }

    /// Ends everything, and checks that no job is open and no invariant is broken.
    pub async fn close(self, proof: &mut Proof) {
        proof.close(self.real.pipeline).await;
    }
}

/// Cancels every open job, because no worker will end them.
pub async fn cancel_open_jobs(pipeline: &Pipeline) -> anyhow::Result<()> {
    let body = json!({"limit": 1_000, "reason": "the attack is over"});
    while pipeline.open_jobs().await > 0 {
        let request = pipeline.anonymous(Method::POST, "/v1/admin/jobs/cancel");
        let (status, answer) = answer(request.bearer_auth(OPERATOR_KEY).json(&body)).await?;
        ensure!(status == StatusCode::OK, "{status} {answer}");
    }
    Ok(())
}

/// Writes a script that runs the program with the limit of open files.
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
    /// Ends both processes, and returns the memory that they used and the slowest health check.
    ///
    /// # Errors
    ///
    /// A process died or used more memory than it has, or a health check was too slow.
    pub async fn held(mut self) -> anyhow::Result<String> {
        let slowest = self.health.slowest();
        let mut peaks = Vec::new();
        for process in [&mut self.api].into_iter().chain(&mut self.worker) {
            let most = match process.role {
                Role::Api => API_MEMORY_MIB,
                Role::Worker => WORKER_MEMORY_MIB,
            };
            if let Some(status) = process.ended() {
                anyhow::bail!("{} died ({status}); {}", process.name, process.last_words());
            }
            let id = process.id().context("it does not run")?;
            let peak = memory_kib(id, "VmHWM")? / 1024;
            ensure!(
                peak <= most,
                "{} used {peak} MiB, and has {most} MiB",
                process.name
            );
            peaks.push(format!("{} {peak} MiB", process.role.command()));
            process.kill().await?;
        }
        let (longest, url) = slowest;
        ensure!(
            longest <= HEALTH_TARGET,
            "the health check {url} took {} ms",
            longest.as_millis()
        );
        Ok(format!(
            "{}, health {} ms",
            peaks.join(", "),
            longest.as_millis()
        ))
    }
}

impl Health {
    fn watch(addresses: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let slowest = Arc::<Mutex<(Duration, String)>>::default();
        let http = Client::builder().timeout(HEALTH_TIMEOUT).build()?;
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
                        _ => HEALTH_TIMEOUT,
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
    /// The same tenant, sending from another address.
    pub fn at(&self, host: u8) -> anyhow::Result<Self> {
        Self::new(self.key.clone(), host, self.api)
    }

    /// The same address, with another key.
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

    /// A request with the key of the tenant.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("http://{}{path}", self.api))
            .bearer_auth(&self.key)
    }

    /// `GET`: status and body.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        answer(self.request(Method::GET, path)).await
    }

    /// `POST`: status and body.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Sends `times` requests, one after the other, and returns how long each took. A request whose connection is closed
    /// before the answer is sent again, as clients do: an api with too many connections closes idle ones.
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

/// Sends a request: status and body, which is `null` if it is no JSON.
pub async fn answer(request: RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
    let answer = request.send().await?;
    let status = answer.status();
    let body = answer.bytes().await?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}
