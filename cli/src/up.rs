//! `platen up`: the whole product in one process.
//!
//! With no `DATABASE_URL` or `REDIS_URL` it starts its own servers, with no Google project fake vendors; it
//! migrates, makes a demo tenant with credits and a key, and then is what `platen api` and `platen worker` are.

mod demo;
mod fake;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use common::bucket::Address;
use common::config::{Config, Logins};
use common::database::{self, DatabaseRole};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::private::{LoginUrls, Servers};
use crate::processes::{API, METRICS, listen, stop_signal};
use crate::say::OutputError;
use crate::{admin, bucket, open_files, say, secrets};
use demo::Demo;

/// How to start.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Where everything is kept.
    #[arg(long, default_value = "data")]
    pub data: PathBuf,
    /// Port of the API on 127.0.0.1; 0 takes a free one. Without it `PLATEN_LISTEN` decides, then 8080.
    #[arg(long)]
    pub port: Option<u16>,
    /// Writes one JSON object with addresses and the demo key to this file once everything answers.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
}

/// What runs, for `--ready-file` and for the eyes.
#[derive(serde::Serialize)]
struct Ready {
    api: String,
    metrics: String,
    key: String,
    database: String,
    redis: String,
    fakes: Fakes,
}

#[derive(serde::Serialize)]
struct Fakes {
    /// One server plays every vendor.
    vendors: Option<String>,
}

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(mut config: Config, options: Options) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let data = &options.data;
    std::fs::create_dir_all(data)
        .with_context(|| format!("cannot make the data folder {}", data.display()))?;

    let mut servers = start_servers(&mut config, data).await?;
    let ended = serve(&mut config, &options, servers.as_mut(), &stop).await;
    if let Some(servers) = servers {
        servers.stop().await;
    }
    ended
}

async fn serve(
    config: &mut Config,
    options: &Options,
    servers: Option<&mut Servers>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if config.owner_url.is_some() {
        admin::migrate(config).await?;
    }
    let data = &options.data;
    let bucket = config
        .bucket
        .get_or_insert_with(|| Address::Folder(data.join("bucket")))
        .clone();
    if config.signing_key.is_none() {
        config.signing_key = Some(secrets::kept_or_made(&data.join("signing.key"), &[])?.into());
    }
    if let Some(port) = options.port {
        config.listen = SocketAddr::from(([127, 0, 0, 1], port));
    }
    config.ports = open_files::raise(config.ports)?;
    let backlog = config.ports.backlog;
    let listener = listen(config.listen, &format!("--port or {API}"), backlog)?;
    let metrics = metrics_listener(config)?;
    let (address, metrics_address) = (listener.local_addr()?, metrics.local_addr()?);
    let fake = fake::start(config).await?;

    adopt_new(config, &bucket).await?;
    let demo = Demo::prepare(
        config.database_url(DatabaseRole::Api)?.expose_secret(),
        data,
        address,
    )
    .await?;
    let worker = Arc::new(worker::App::connect(config).await?);
    let mut api = api::App::connect(config).await?;
    // No load balancer stands before it.
    api.farewell = Duration::ZERO;

    let tasks = TaskTracker::new();
    let failed = CancellationToken::new();
    supervise(
        &tasks,
        &failed,
        "The API",
        api::serve(api, listener, Some(metrics), stop.clone()),
    );
    supervise(
        &tasks,
        &failed,
        "The worker",
        worker::run(worker, stop.clone()),
    );
    tasks.close();

    let ready = Ready {
        api: format!("http://{address}"),
        metrics: format!("http://{metrics_address}"),
        key: demo.key.clone(),
        database: config
            .database_url
            .as_ref()
            .map_or_else(|| config.database_url(DatabaseRole::Reader), Ok)?
            .expose_secret()
            .to_owned(),
        redis: config.redis_url()?.expose_secret().to_owned(),
        fakes: Fakes {
            vendors: fake.as_ref().map(|fake| fake.url.clone()),
        },
    };
    announce(&ready, &demo, options)?;

    let server_failed = async {
        match servers {
            Some(servers) => servers.failed().await,
            None => std::future::pending().await,
        }
    };
    let trouble = tokio::select! {
        () = stop.cancelled() => None,
        () = failed.cancelled() => Some(anyhow::anyhow!("a part of Platen ended by itself")),
        error = server_failed => Some(error),
    };
    stop.cancel();
    tasks.wait().await;
    trouble.map_or(Ok(()), Err)
}

/// Makes the bucket a new database's. Afterwards, and before anything else is written, the database is not new.
async fn adopt_new(config: &Config, address: &Address) -> anyhow::Result<()> {
    let connect = async |role| {
        let url = config.database_url(role)?.expose_secret();
        anyhow::Ok(database::connect(url, role, 1).await?)
    };
    let (reader, pool) = (
        connect(DatabaseRole::Reader).await?,
        connect(DatabaseRole::Api).await?,
    );
    let adopted = bucket::adopt_new(&reader, &pool, address).await;
    reader.close().await;
    pool.close().await;
    adopted
}

/// Runs a part that must not end before it is told to.
fn supervise(
    tasks: &TaskTracker,
    failed: &CancellationToken,
    name: &'static str,
    part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    let failed = failed.clone();
    tasks.spawn(async move {
        if let Err(error) = part.await {
            tracing::error!("{name} failed: {error:#}");
        }
        failed.cancel();
    });
}

/// Private servers for what is not configured. One of two may be: the other is started beside it, unused.
async fn start_servers(config: &mut Config, data: &Path) -> anyhow::Result<Option<Servers>> {
    if config.names_postgres() && config.redis_url.is_some() {
        return Ok(None);
    }
    if DatabaseRole::ALL
        .iter()
        .any(|role| config.logins.of(*role).is_some())
        && !config.names_postgres()
    {
        bail!(
            "DATABASE_API_URL, DATABASE_WORKER_URL and DATABASE_READER_URL name one Postgres: set all three, or DATABASE_URL, or none"
        );
    }
    let servers = Servers::start(data).await?;
    if !config.names_postgres() {
        config.database_url = Some(SecretString::from(servers.database_url()));
        let LoginUrls {
            api,
            worker,
            reader,
        } = servers.logins();
        config.logins = Logins {
            api: Some(api.into()),
            worker: Some(worker.into()),
            reader: Some(reader.into()),
        };
        config.owner_url = Some(SecretString::from(servers.owner_url()));
    }
    if config.redis_url.is_none() {
        config.redis_url = Some(SecretString::from(servers.redis_url()));
    }
    Ok(Some(servers))
}

/// The configured address, or a free one when nobody asked for that address and it is taken.
fn metrics_listener(config: &Config) -> anyhow::Result<TcpListener> {
    let backlog = config.ports.backlog;
    match listen(config.metrics_listen, METRICS, backlog) {
        Err(_) if std::env::var_os(METRICS).is_none() => {
            listen(SocketAddr::from(([127, 0, 0, 1], 0)), METRICS, backlog)
        }
        listener => listener,
    }
}

/// Says what runs, in words and in the ready file.
fn announce(ready: &Ready, demo: &Demo, options: &Options) -> anyhow::Result<()> {
    // It serves, whether anybody reads this or not.
    if let Err(error) = welcome(ready, demo, options) {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    if let Some(path) = &options.ready_file {
        // Whoever waits for the file must find it whole.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        let partial = folder.join(format!(".{}.partial", std::process::id()));
        let mut file = secrets::create(&partial)?;
        serde_json::to_writer(&mut file, ready)?;
        file.flush()?;
        std::fs::rename(&partial, path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn welcome(ready: &Ready, demo: &Demo, options: &Options) -> Result<(), OutputError> {
    say!("\n  Platen is up.\n")?;
    say!("  console   {}/#key={}", ready.api, ready.key)?;
    say!("  API       {}", ready.api)?;
    say!("  metrics   {}/metrics", ready.metrics)?;
    say!("  demo key  {}   ({})", ready.key, demo.balance)?;
    say!(
        "  data      {}   (`source {}` for the README's curl lines)",
        options.data.display(),
        options.data.join("demo.env").display()
    )?;
    if ready.fakes.vendors.is_some() {
        say!(
            "\n  Pictures are synthetic: no Google project is configured, so fakes answer and no AI model is called."
        )?;
    }
    say!("\n  Ctrl-C stops everything.\n")
}
