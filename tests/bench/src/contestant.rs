//! Who is measured: Platen as it ships, an older build of it, or the peer.
//!
//! Every run has a Postgres, a Redis, a folder and a model of its own, so nothing is left from the run before. The servers
//! are the same for all: Postgres with `fsync`, Redis with an append-only file that is written every second.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use servers::{Servers, free_port};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::process::Command;

use crate::load::{self, Submits, Until};
use crate::model::{Answers, Model};
use crate::process::{Cpu, Process, cpu_of_tree};

const PROMPT: &str = "a lighthouse on a basalt cliff at dusk, film grain";
/// What each tenant may spend: more than any run needs.
const CREDITS: &str = "1000000000";

/// Who is measured.
#[derive(Clone)]
pub(crate) struct Contestant {
    /// As in the table.
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// A release build of Platen. Settings that an older version may not know are not given to it.
    Platen { program: PathBuf, is_older: bool },
    /// `BullMQ`, sharp and Postgres. `modules` is the folder of its packages.
    Peer { modules: PathBuf },
}

/// What a run is like.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) tenants: usize,
    /// How many jobs a worker works on at the same time.
    pub(crate) slots: usize,
    /// How long the model takes.
    pub(crate) latency: Duration,
    /// Whether the model sends images of one color.
    pub(crate) flat: bool,
    /// Whether the catalogue states that the model takes 1,200 calls at the same time, and the worker may use 160 MB only.
    pub(crate) many_calls: bool,
    pub(crate) format: &'static str,
}

/// A contestant that runs.
pub(crate) struct Run {
    pub(crate) contestant: Contestant,
    setting: Setting,
    pub(crate) api: Process,
    pub(crate) worker: Option<Process>,
    worker_command: Option<Command>,
    /// Reads the jobs of all tenants.
    pub(crate) rows: PgPool,
    pub(crate) model: Model,
    url: String,
    /// One for each tenant, where the contestant has keys.
    keys: Vec<String>,
    postgres: u32,
    redis: u32,
    environment: Vec<(&'static str, String)>,
    clients: Vec<Client>,
    servers: Servers,
    folder: TempDir,
}

/// CPU time by process.
#[derive(Clone, Copy)]
pub(crate) struct Used {
    pub(crate) api: Cpu,
    pub(crate) worker: Cpu,
    pub(crate) postgres: Cpu,
    pub(crate) redis: Cpu,
}

/// How the jobs of a run ended.
pub(crate) struct Ended {
    pub(crate) succeeded: usize,
    /// From the first submit to the last end.
    pub(crate) elapsed: Duration,
}

impl Run {
    /// Starts servers, model and API. The worker is started by [`Self::start_worker`].
    pub(crate) async fn start(
        contestant: &Contestant,
        answers: &Arc<Answers>,
        setting: Setting,
        clients: usize,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let servers = Servers::start(&folder.path().join("servers")).await?;
        let redis = prepare_redis(servers.redis_url()).await?;
        let postgres = postmaster(&folder.path().join("servers/postgres"))?;
        let model = Model::start(answers, setting.latency)?;
        let port = free_port()?;
        let started = match &contestant.kind {
            Kind::Platen { program, is_older } => {
                let setting = Setting {
                    many_calls: setting.many_calls && !is_older,
                    ..setting
                };
                platen(program, &servers, folder.path(), &model, port, setting).await?
            }
            Kind::Peer { modules } => {
                peer(modules, &servers, folder.path(), &model, port, setting).await?
            }
        };
        let Started {
            api,
            worker,
            rows,
            keys,
            environment,
        } = started;
        let mut run = Self {
            contestant: contestant.clone(),
            setting,
            api: Process::start("api", api, folder.path())?,
            worker: None,
            worker_command: Some(worker),
            rows,
            model,
            url: format!("http://127.0.0.1:{port}"),
            keys,
            postgres,
            redis,
            environment,
            clients: load::clients(clients)?,
            servers,
            folder,
        };
        let url = format!("{}/livez", run.url);
        run.api.ready(&run.clients[0], &url).await?;
        Ok(run)
    }

    /// Starts the worker, and gives it time to connect.
    pub(crate) async fn start_worker(&mut self) -> Result<()> {
        let command = self.worker_command.take().context("the worker runs")?;
        let mut worker = Process::start("worker", command, self.folder.path())?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        worker.must_run()?;
        self.worker = Some(worker);
        Ok(())
    }

    /// Submits jobs. The tenants take turns.
    pub(crate) async fn submit(&self, until: Until) -> Result<Submits> {
        let (url, keys, tenants) = (
            format!("{}/v1/jobs", self.url),
            self.keys.clone(),
            self.setting.tenants,
        );
        let model = if self.setting.flat {
            "bench-flat"
        } else {
            "bench-photo"
        };
        let body = json!({"model": model, "prompt": PROMPT, "aspect_ratio": "1:1", "size": "1K", "format": self.setting.format});
        let request = move |client: &Client, number: usize| -> RequestBuilder {
            let request = client.post(&url).json(&body);
            match keys.get(number % tenants) {
                Some(key) => request.bearer_auth(key),
                None => request.header("x-tenant", (number % tenants + 1).to_string()),
            }
        };
        load::submit(&self.clients, until, request).await
    }

    /// CPU time used so far.
    pub(crate) fn used(&self) -> Result<Used> {
        Ok(Used {
            api: self.api.cpu()?,
            worker: self
                .worker
                .as_ref()
                .map_or(Ok(Cpu::default()), Process::cpu)?,
            postgres: cpu_of_tree(self.postgres)?,
            redis: cpu_of_tree(self.redis)?,
        })
    }

    /// How many jobs have ended.
    pub(crate) async fn ended(&self) -> Result<usize> {
        let count = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&self.rows).await?;
        Ok(usize::try_from(count)?)
    }

    /// Waits until `count` jobs have ended.
    ///
    /// # Errors
    ///
    /// They have not ended after `within`, or one of them failed.
    pub(crate) async fn drained(&self, count: usize, within: Duration) -> Result<Ended> {
        let waited = tokio::time::timeout(within, async {
            while self.ended().await? < count {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::Ok(())
        });
        waited.await.with_context(|| {
            format!(
                "{count} jobs of {} did not end within {within:?}",
                self.contestant.name
            )
        })??;
        let figures = "SELECT count(*) FILTER (WHERE state::text = 'succeeded'),
                              extract(epoch FROM max(finished_at) - min(created_at))::float8 FROM jobs";
        let (succeeded, seconds): (i64, f64) =
            sqlx::query_as(figures).fetch_one(&self.rows).await?;
        let succeeded = usize::try_from(succeeded)?;
        ensure!(
            succeeded == count,
            "{} of {count} jobs of {} succeeded",
            succeeded,
            self.contestant.name
        );
        Ok(Ended {
            succeeded,
            elapsed: Duration::from_secs_f64(seconds),
        })
    }

    /// Stops everything, and returns the folder, whose files are empty then. Platen's books are checked first, with `platen verify`.
    ///
    /// # Errors
    ///
    /// An invariant is broken.
    pub(crate) async fn stop(self) -> Result<TempDir> {
        if let Some(worker) = self.worker {
            worker.stop().await?;
        }
        self.api.stop().await?;
        self.rows.close().await;
        if let Kind::Platen { program, .. } = &self.contestant.kind {
            command_of_platen(program, &self.environment, &["verify"]).await?;
        }
        self.servers.stop().await;
        empty_files(self.folder.path())?;
        Ok(self.folder)
    }
}

impl Used {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            api: self.api.since(before.api),
            worker: self.worker.since(before.worker),
            postgres: self.postgres.since(before.postgres),
            redis: self.redis.since(before.redis),
        }
    }
}

/// Makes every file in a folder empty, so that it takes no room, and does not delete it.
fn empty_files(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            empty_files(&entry.path())?;
        } else if kind.is_file() {
            fs::File::create(entry.path())?;
        }
    }
    Ok(())
}

/// What differs between the contestants.
struct Started {
    api: Command,
    worker: Command,
    rows: PgPool,
    keys: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

async fn platen(
    program: &Path,
    servers: &Servers,
    folder: &Path,
    model: &Model,
    port: u16,
    setting: Setting,
) -> Result<Started> {
    let catalogue = folder.join("models");
    fs::create_dir(&catalogue)?;
    fs::write(catalogue.join("bench.toml"), catalogue_of(model, setting))?;
    let mut environment = vec![
        ("DATABASE_URL", servers.database_url().to_owned()),
        ("DATABASE_OWNER_URL", servers.owner_url().to_owned()),
        ("REDIS_URL", servers.redis_url().to_owned()),
        ("PLATEN_MODELS", catalogue.display().to_string()),
        ("PLATEN_PROVIDERS", "bench".to_owned()),
        ("BENCH_KEY", "k".to_owned()),
        ("PLATEN_BUCKET", folder.join("files").display().to_string()),
        ("PLATEN_SIGNING_KEY", "bench-".repeat(8)),
        ("PLATEN_LOG", "error".to_owned()),
        ("PLATEN_LISTEN", format!("127.0.0.1:{port}")),
        // One customer must be able to send as fast as the machine bears.
        ("PLATEN_RATE_KEY", "0".to_owned()),
        ("PLATEN_RATE_TENANT", "0".to_owned()),
        ("PLATEN_RATE_ADDRESS", "0".to_owned()),
        ("PLATEN_SLOTS", setting.slots.to_string()),
    ];
    if setting.many_calls {
        environment.push(("PLATEN_MEMORY_MB", "160".to_owned()));
    }
    let run = async |arguments: &[&str]| command_of_platen(program, &environment, arguments).await;
    run(&["migrate"]).await?;
    fs::create_dir(folder.join("files"))?;
    run(&["bucket", "adopt"]).await?;
    let mut keys = Vec::new();
    for number in 0..setting.tenants {
        let name = format!("tenant {number}");
        let tenant = run(&["tenant", "add", &name]).await?;
        run(&["grant", tenant.trim(), CREDITS, "--source", &name]).await?;
        let key = run(&["key", "add", tenant.trim(), "bench"]).await?;
        let key = key.split_whitespace().find(|word| word.starts_with("pk_"));
        keys.push(key.context("`platen key add` prints a key")?.to_owned());
    }
    let options: PgConnectOptions = servers.database_url().parse()?;
    let rows = PgPoolOptions::new().max_connections(1);
    let rows = rows
        .connect_with(options.options([("role", "platen_reader")]))
        .await?;
    let process = |word: &str, metrics: u16| {
        let mut command = configured(program, &environment);
        command
            .arg(word)
            .env("PLATEN_METRICS_LISTEN", format!("127.0.0.1:{metrics}"));
        command
    };
    Ok(Started {
        api: process("api", free_port()?),
        worker: process("worker", free_port()?),
        rows,
        keys,
        environment,
    })
}

/// The catalogue of Platen: the same model twice, with large images like photographs and with small flat ones.
fn catalogue_of(model: &Model, setting: Setting) -> String {
    let mut text = format!(
        "provider = \"bench\"\ndialect = \"gemini\"\nbase_url = \"http://{}\"\napi_key = \"BENCH_KEY\"\n",
        model.address
    );
    // One tenant gets seven eighths of it.
    let concurrency = if setting.many_calls {
        "concurrency = 1200\n"
    } else {
        ""
    };
    for name in ["photo", "flat"] {
        let model = format!(
            "[models.bench-{name}]\nname = \"bench-{name}\"\ntitle = \"{name}\"\nkind = \"image\"\nsizes = [\"1K\", \"2K\"]\n\
             ratios = [\"1:1\"]\nmax_inputs = 0\ntimeout_seconds = 180\nannounced = 2026-01-01\n{concurrency}\
             price = [{{ from = 2026-01-01, credits = {{ 1K = 1, 2K = 2 }} }}]\ncost_usd_micros = {{ 1K = 1, 2K = 2 }}\n"
        );
        text.push_str(&model);
    }
    text
}

fn configured(program: &Path, environment: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs a command of Platen and returns what it prints.
async fn command_of_platen(
    program: &Path,
    environment: &[(&'static str, String)],
    arguments: &[&str],
) -> Result<String> {
    let output = configured(program, environment)
        .args(arguments)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "platen {} failed: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

async fn peer(
    modules: &Path,
    servers: &Servers,
    folder: &Path,
    model: &Model,
    port: u16,
    setting: Setting,
) -> Result<Started> {
    let options: PgConnectOptions = servers.owner_url().parse()?;
    let mut owner = PgConnection::connect_with(&options).await?;
    owner.execute("CREATE DATABASE peer").await?;
    owner.close().await?;
    let rows = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options.database("peer"))
        .await?;
    rows.execute(include_str!("../peer/schema.sql")).await?;
    let database = servers
        .owner_url()
        .rsplit_once('/')
        .context("the URL names a database")?;
    let environment = vec![
        ("NODE_ENV", "production".to_owned()),
        ("PEER_MODULES", modules.display().to_string()),
        ("DATABASE_URL", format!("{}/peer", database.0)),
        ("REDIS_URL", servers.redis_url().to_owned()),
        ("PORT", port.to_string()),
        ("MODEL_URL", format!("http://{}", model.address)),
        ("CONCURRENCY", setting.slots.to_string()),
        ("FOLDER", folder.join("files").display().to_string()),
    ];
    let process = |file: &str| {
        let mut command = configured(Path::new("node"), &environment);
        command.arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("peer")
                .join(file),
        );
        command
    };
    Ok(Started {
        api: process("api.mjs"),
        worker: process("worker.mjs"),
        rows,
        keys: Vec::new(),
        environment,
    })
}

/// Turns on the append-only file, which a queue that is the truth needs, and returns the process id.
async fn prepare_redis(url: &str) -> Result<u32> {
    let mut redis = redis::Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    for (setting, value) in [("appendfsync", "everysec"), ("appendonly", "yes")] {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET")
            .arg(setting)
            .arg(value)
            .exec_async(&mut redis)
            .await?;
    }
    let about: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut redis)
        .await?;
    let id = about
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"));
    Ok(id.context("Redis tells its process id")?.trim().parse()?)
}

/// The process id of the postmaster, from the first line of its file.
fn postmaster(folder: &Path) -> Result<u32> {
    let file = folder.join("cluster/postmaster.pid");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(text
        .lines()
        .next()
        .context("an empty file")?
        .trim()
        .parse()?)
}
