//! `platen up`: the whole product in one process.
//!
//! Without `DATABASE_URL` or `REDIS_URL` it starts private servers, and without a Google project it starts fake vendors. It
//! migrates the database and creates a demo tenant with credits and a key. Then it runs the API and a worker, as `platen api` and
//! `platen worker` do.

mod demo;
mod fake;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::bucket::Address;
use anyhow::{Context, bail};
use common::config::{Config, Logins};
use common::keys::MasterKeys;
use secrecy::{ExposeSecret, SecretString};
use servers::{LoginUrls, Servers, secrets};
use storage::database::{self, DatabaseRole};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{bucket, migrate};
use crate::database::DEFAULT_DATA;
use crate::listen::{API_VARIABLE, METRICS_VARIABLE, listen};
use crate::say::OutputError;
use crate::shutdown::stop_signal;
use crate::{open_files, say};
use demo::Demo;

/// The arguments of `platen up`.
#[derive(clap::Args, Clone, Debug)]
pub struct UpArgs {
    /// The folder for all data.
    #[arg(long, default_value = DEFAULT_DATA)]
    pub data: PathBuf,
    /// The port of the API on 127.0.0.1; 0 chooses a free one. Without it the API listens on `PLATEN_LISTEN`, or else on port
    /// 8080.
    #[arg(long)]
    pub port: Option<u16>,
    /// Write the addresses and the demo key to this file, as one JSON object, once everything answers.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
}

/// The addresses of everything that runs, for `--ready-file` and for the output.
#[derive(serde::Serialize)]
struct Ready {
    /// The URL of the API.
    api: String,
    /// The URL of the port with the metrics.
    metrics: String,
    /// The API key of the demo tenant.
    key: String,
    /// A URL of Postgres, with its password.
    database: String,
    /// The URL of Redis, with its password.
    redis: String,
    fakes: Fakes,
}

/// The fake vendors that run.
#[derive(serde::Serialize)]
struct Fakes {
    /// The URL of the one server that fakes every vendor; `None` if a real vendor is configured.
    vendors: Option<String>,
}

/// Runs everything until Ctrl-C or SIGTERM.
///
/// # Errors
///
/// Returns an error if the configuration is not usable, if another `platen` uses the data folder, if a server does not start or
/// ends by itself, or if another process listens at an address.
pub async fn run(mut config: Config, args: UpArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let data = &args.data;
    std::fs::create_dir_all(data)
        .with_context(|| format!("cannot create the data folder {}", data.display()))?;

    let mut servers = start_servers(&mut config, data).await?;
    let result = serve(&mut config, &args, servers.as_mut(), &stop).await;
    if let Some(servers) = servers {
        servers.stop().await;
    }
    result
}

/// Prepares the database, the bucket and the demo tenant, and runs the API and a worker until `stop` or until a part fails. Sets in
/// `config` what is not configured.
async fn serve(
    config: &mut Config,
    args: &UpArgs,
    servers: Option<&mut Servers>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    // Without the owner's login, `platen migrate` must have been run before.
    if config.owner_url.is_some() {
        migrate::run(config).await?;
    }
    let data = &args.data;
    let bucket = config
        .bucket
        .get_or_insert_with(|| Address::Folder(data.join("bucket")))
        .clone();
    make_keys(config, data)?;
    if config.private_networks.is_empty() {
        // Whoever tries Platen at home has the servers of their webhooks on the same machine.
        config.private_networks = vec!["127.0.0.0/8".parse()?, "::1/128".parse()?];
    }
    if let Some(port) = args.port {
        config.listen = SocketAddr::from(([127, 0, 0, 1], port));
    }
    config.ports = open_files::raise_limit(config.ports)?;
    let backlog = config.ports.backlog;
    let listener = listen(config.listen, &format!("--port or {API_VARIABLE}"), backlog)?;
    let metrics = metrics_listener(config)?;
    let (api_address, metrics_address) = (listener.local_addr()?, metrics.local_addr()?);
    let fake = fake::start(config).await?;

    adopt_new(config, &bucket).await?;
    let demo = Demo::prepare(
        config.database_url(DatabaseRole::Api)?.expose_secret(),
        data,
        api_address,
    )
    .await?;
    let worker = Arc::new(worker::App::connect(config).await?);
    let mut api = api::App::connect(config).await?;
    // No load balancer needs time to notice that the API stops.
    api.drain_delay = Duration::ZERO;

    let tasks = TaskTracker::new();
    let part_ended = CancellationToken::new();
    supervise(
        &tasks,
        &part_ended,
        "The API",
        api::serve(api, listener, Some(metrics), stop.clone()),
    );
    supervise(
        &tasks,
        &part_ended,
        "The worker",
        worker::run(worker, stop.clone()),
    );
    tasks.close();

    let ready = Ready {
        api: format!("http://{api_address}"),
        metrics: format!("http://{metrics_address}"),
        key: demo.key.clone(),
        // If only logins for single roles are configured: the one that can read everything.
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
    announce(&ready, &demo, args)?;

    let server_failed = async {
        match servers {
            Some(servers) => servers.wait_for_failure().await,
            None => std::future::pending().await,
        }
    };
    let error = tokio::select! {
        // `stop` is asked first, because the API and the worker also end when they are told to stop.
        biased;
        () = stop.cancelled() => None,
        () = part_ended.cancelled() => Some(anyhow::anyhow!("the API or the worker ended by itself: see the log")),
        error = server_failed => Some(error),
    };
    stop.cancel();
    tasks.wait().await;
    error.map_or(Ok(()), Err)
}

/// Makes the keys that are not configured, once: they are files in the data folder.
fn make_keys(config: &mut Config, data: &Path) -> anyhow::Result<()> {
    if config.signing_key.is_none() {
        config.signing_key = Some(secrets::read_or_create(&data.join("signing.key"), &[])?.into());
    }
    if config.master_keys.is_none() {
        let file = data.join("master.key");
        let keys = format!("up:{}", secrets::read_or_create(&file, &[])?);
        let keys: Result<MasterKeys, _> = keys.parse();
        let keys = keys.with_context(|| format!("{} is not usable", file.display()))?;
        config.master_keys = Some(keys);
    }
    Ok(())
}

/// Lets a new database adopt the bucket at `address`. This must happen before the demo tenant is created, because a database with a
/// tenant is not new.
async fn adopt_new(config: &Config, address: &Address) -> anyhow::Result<()> {
    let connect = async |role| {
        let url = config.database_url(role)?.expose_secret();
        anyhow::Ok(database::connect(url, role, 1).await?)
    };
    let (reader, pool) = (
        connect(DatabaseRole::Reader).await?,
        connect(DatabaseRole::Api).await?,
    );
    let adopted = bucket::adopt_if_new(&reader, &pool, address).await;
    reader.close().await;
    pool.close().await;
    adopted
}

/// Runs a part of the program (the API or the worker) as a task. When the part ends, for whatever reason, `part_ended` is canceled.
fn supervise(
    tasks: &TaskTracker,
    part_ended: &CancellationToken,
    name: &'static str,
    part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    let part_ended = part_ended.clone();
    tasks.spawn(async move {
        if let Err(error) = part.await {
            tracing::error!("{name} failed: {error:#}");
        }
        part_ended.cancel();
    });
}

/// Starts a private Postgres and a private Redis and adds them to the configuration. Returns `None` if both are configured already.
/// If only one of the two is configured, both private servers are started, and one of them is not used. Returns an error if
/// Postgres is configured for some roles only.
async fn start_servers(config: &mut Config, data: &Path) -> anyhow::Result<Option<Servers>> {
    if config.has_database_urls() && config.redis_url.is_some() {
        return Ok(None);
    }
    if DatabaseRole::ALL
        .iter()
        .any(|role| config.logins.for_role(*role).is_some())
        && !config.has_database_urls()
    {
        bail!(
            "DATABASE_API_URL, DATABASE_WORKER_URL and DATABASE_READER_URL name one Postgres: set all three, or DATABASE_URL, or none"
        );
    }
    let servers = Servers::start(data).await?;
    if !config.has_database_urls() {
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

/// Listens on the address of the metrics. If that fails and the address is only the default one, perhaps because another process
/// listens there, uses a free port.
fn metrics_listener(config: &Config) -> anyhow::Result<TcpListener> {
    let backlog = config.ports.backlog;
    match listen(config.metrics_listen, METRICS_VARIABLE, backlog) {
        Err(_) if std::env::var_os(METRICS_VARIABLE).is_none() => {
            let free_port = SocketAddr::from(([127, 0, 0, 1], 0));
            listen(free_port, METRICS_VARIABLE, backlog)
        }
        listener => listener,
    }
}

/// Prints what runs, and writes it to the ready file if one is wanted.
fn announce(ready: &Ready, demo: &Demo, args: &UpArgs) -> anyhow::Result<()> {
    // Platen keeps running even if standard output cannot be written.
    if let Err(error) = print_welcome(ready, demo, args) {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    if let Some(path) = &args.ready_file {
        // The file gets its name only when it is complete, because another process may wait for the file and read it at once.
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

/// Prints the addresses, the demo key and the data folder to standard output.
fn print_welcome(ready: &Ready, demo: &Demo, args: &UpArgs) -> Result<(), OutputError> {
    say!("\n  Platen is up.\n")?;
    say!("  console   {}/#key={}", ready.api, ready.key)?;
    say!("  API       {}", ready.api)?;
    say!("  metrics   {}/metrics", ready.metrics)?;
    say!("  demo key  {}   ({})", ready.key, demo.balance)?;
    say!(
        "  data      {}   (`source {}` for the README's curl lines)",
        args.data.display(),
        args.data.join("demo.env").display()
    )?;
    if ready.fakes.vendors.is_some() {
        say!(
            "\n  Images are synthetic: no Google project is configured, so fakes answer and no AI model is called."
        )?;
    }
    say!("\n  Ctrl-C stops everything.\n")
}
