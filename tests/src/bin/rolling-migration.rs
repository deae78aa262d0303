//! `make rolling-migration`: changes the schema while processes serve, and checks that no customer notices.
//!
//! First a column is added to one table after the other while an api and two workers of this version serve. Then, if there
//! are migrations that the pinned version ([`tests::base`]) does not have, that version serves while this one migrates;
//! both versions serve at the same time; at last the old processes are stopped. Customers ([`tests::customers`]) do
//! everything a customer can, all the time, and repeat nothing: no request may fail, no job may be stuck, no image may be
//! requested twice, and the books must close. Prints the counts, and exits with 1 if one of these is violated.
#![expect(clippy::print_stdout, reason = "prints what it counted")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bucket::Address;
use clap::Parser;
use common::config::Config;
use domain::id::JobId;
use fakes::{Fake, Latency, Switches};
use secrecy::SecretString;
use servers::{Durability, Servers};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use storage::database::{self, DatabaseRole as Rights};
use tempfile::TempDir;
use tests::base::{self, Base, Built};
use tests::customers::Customers;
use tests::fleet::{Orders, Process, Role};
use tests::proof::Proof;
use tests::{drain, models, once, processes};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MODEL: &str = "gemini-nano-banana-2.1";
/// How long the fake takes for an image, in milliseconds.
const LATENCY: Latency = Latency {
    min: 300,
    max: 1_500,
};
/// After this time every process has work.
const WARM_UP: Duration = Duration::from_secs(3);
const DRAIN_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a process may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_mins(2);
/// How long a change of the schema may wait for its lock.
const CHANGE_TIMEOUT: Duration = Duration::from_mins(1);
/// The error code of Postgres for a lock that was not available in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

#[derive(Parser)]
struct Arguments {
    /// Seconds in which each part changes the schema, or lets both versions serve.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Customers each second.
    #[arg(long, default_value_t = 3.0)]
    rate: f64,
    /// The commit of the older version, instead of the pinned one.
    #[arg(long)]
    base: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let base = match &arguments.base {
        Some(commit) => Base::of(commit),
        None => Base::pinned(),
    };
    let base = base.unwrap();
    let mut proof = Proof::default();
    println!("a column is added to every table");
    proof.add(add_columns(&arguments).await.unwrap());
    if base::newest_migration().unwrap() <= base.migration {
        println!(
            "no migration since {}: there is no older version to test",
            base.commit
        );
    } else {
        println!("{} serves while this version migrates", base.commit);
        proof.add(side_by_side(&arguments, &base).await.unwrap());
    }
    proof.verdict()
}

/// Adds a column to every table while this version serves.
async fn add_columns(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let own = Program::own();
    let stage = Stage::set(&own).await?;
    let (_catalogue, orders) = stage.orders(&own, "own")?;
    let mut apis = orders.start(Role::Api, 1).await?;
    let mut workers = orders.start(Role::Worker, 2).await?;
    let load = Load::start(&stage, arguments.rate, &apis);
    tokio::time::sleep(WARM_UP).await;

    let mut owner = stage.owner().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY relname",
    )
    .fetch_all(&mut owner)
    .await?;
    ensure!(tables.len() > 10, "only {} tables", tables.len());
    let pause = Duration::from_secs(arguments.seconds) / u32::try_from(tables.len())?;
    for table in &tables {
        let grow = format!(
            r#"ALTER TABLE "{table}" ADD COLUMN grown integer, ADD COLUMN grown_by_default text NOT NULL DEFAULT 'as before'"#
        );
        change(&mut owner, &grow).await?;
        tokio::time::sleep(pause).await;
    }
    println!(
        "  {} tables have more columns: {}",
        tables.len(),
        tables.join(", ")
    );

    let processes: Vec<&mut Process> = apis.iter_mut().chain(&mut workers).collect();
    stage.end(load, processes, &own).await
}

/// The older version serves; this one migrates, serves beside it, and then serves alone.
async fn side_by_side(arguments: &Arguments, base: &Base) -> anyhow::Result<Vec<String>> {
    let old = Program::of(base.build()?);
    let own = Program::own();
    let stage = Stage::set(&old).await?;
    let (_old_catalogue, orders) = stage.orders(&old, "old")?;
    let mut old_apis = orders.start(Role::Api, 1).await?;
    let mut old_workers = orders.start(Role::Worker, 2).await?;
    let load = Load::start(&stage, arguments.rate, &old_apis);
    tokio::time::sleep(WARM_UP).await;

    let part = Duration::from_secs(arguments.seconds) / 3;
    let began = Instant::now();
    own.run(&stage, &["migrate"]).await?;
    println!(
        "  migrated in {:.1} s while {} served",
        began.elapsed().as_secs_f64(),
        base.commit
    );
    own.run(&stage, &["bucket", "adopt"]).await?;
    tokio::time::sleep(part).await;
    let (_catalogue, orders) = stage.orders(&own, "own")?;
    let mut apis = orders.start(Role::Api, 1).await?;
    let mut workers = orders.start(Role::Worker, 2).await?;
    let both = old_apis.iter().chain(&apis);
    load.customers.go_to(both.map(Process::address).collect());
    tokio::time::sleep(part).await;
    load.customers
        .go_to(apis.iter().map(Process::address).collect());
    let mut violations = Vec::new();
    for process in old_workers.iter_mut().chain(&mut old_apis) {
        let stopped = process.stop_cleanly(STOP_TIMEOUT).await;
        violations.extend(stopped.err().map(|error| format!("{error:#}")));
    }
    tokio::time::sleep(part).await;

    let processes: Vec<&mut Process> = apis.iter_mut().chain(&mut workers).collect();
    violations.extend(stage.end(load, processes, &own).await?);
    Ok(violations)
}

/// A version of the program, and its catalogue.
struct Program {
    platen: PathBuf,
    models: PathBuf,
}

impl Program {
    fn own() -> Self {
        Self {
            platen: processes::binary("platen"),
            models: tests::root("models"),
        }
    }

    fn of(built: Built) -> Self {
        Self {
            platen: built.platen,
            models: built.models,
        }
    }

    /// Runs a command of the program, and returns its output.
    async fn run(&self, stage: &Stage, command: &[&str]) -> anyhow::Result<String> {
        let answer = processes::program(&self.platen)
            .args(command)
            .env("DATABASE_URL", stage.servers.database_url())
            .env("DATABASE_OWNER_URL", stage.servers.owner_url())
            .env("PLATEN_BUCKET", stage.bucket())
            .env("PLATEN_LOG", "info")
            .output()
            .await?;
        ensure!(
            answer.status.success(),
            "platen {}: {}{}",
            command.join(" "),
            String::from_utf8_lossy(&answer.stdout),
            String::from_utf8_lossy(&answer.stderr)
        );
        Ok(String::from_utf8(answer.stdout)?.trim().to_owned())
    }
}

/// Servers, a fake vendor, and a database that one version has migrated and added a tenant to.
struct Stage {
    servers: Servers,
    _data: TempDir,
    /// For the bucket and the logs.
    folder: TempDir,
    fake: Fake,
    key: String,
    reader: PgPool,
}

impl Stage {
    async fn set(program: &Program) -> anyhow::Result<Self> {
        let (data, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let servers = Servers::start_with(data.path(), Durability::Full).await?;
        let fake = Fake::start(fakes::Options::default()).await?;
        fake.faults().set(Switches {
            latency_ms: LATENCY,
            plain: true,
            ..Switches::default()
        });
        // Replaced below: before the migration there is no role that can read.
        let reader = PgPool::connect_lazy(servers.database_url())?;
        let mut stage = Self {
            servers,
            _data: data,
            folder,
            fake,
            key: String::new(),
            reader,
        };
        std::fs::create_dir(stage.bucket())?;
        program.run(&stage, &["migrate"]).await?;
        stage.reader = database::connect(stage.servers.database_url(), Rights::Reader, 2).await?;
        let tenant = program.run(&stage, &["tenant", "add", "customers"]).await?;
        program
            .run(
                &stage,
                &["grant", &tenant, "100000000", "--source", "rolling"],
            )
            .await?;
        stage.key = program
            .run(&stage, &["key", "add", &tenant, "customers"])
            .await?;
        Ok(stage)
    }

    /// What processes of a version are started with, and the catalogue that they read. Their logs go to the folder `logs`.
    fn orders(&self, program: &Program, logs: &str) -> anyhow::Result<(TempDir, Orders)> {
        let catalogue = models::copied(&program.models);
        models::played_by(&catalogue, &self.fake.base_url());
        let folder = self.folder.path().join(logs);
        std::fs::create_dir_all(&folder)?;
        let secret = |text: &str| Some(SecretString::from(text));
        let orders = Orders {
            program: program.platen.clone(),
            config: Config {
                database_url: secret(self.servers.database_url()),
                redis_url: secret(self.servers.redis_url()),
                signing_key: secret("a key for proofs, and for proofs only"),
                bucket: Some(Address::Folder(self.bucket())),
                models: Some(catalogue.path().to_owned()),
                slots: 4,
                ..Config::from_env()?
            },
            environment: models::keys(&self.fake.base_url()),
            folder,
        };
        Ok((catalogue, orders))
    }

    fn bucket(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    async fn owner(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(self.servers.owner_url()).await?)
    }

    /// Ends the load, stops the processes, and returns the violations.
    async fn end(
        self,
        load: Load,
        processes: Vec<&mut Process>,
        program: &Program,
    ) -> anyhow::Result<Vec<String>> {
        let mut violations = load.end().await;
        let drained = drain::drained(&self.reader, DRAIN_TIMEOUT).await;
        violations.extend(drained.err().map(|error| format!("{error:#}")));
        for process in processes {
            let log = std::fs::read_to_string(process.log()).unwrap_or_default();
            // A statement that was prepared before the change and was not prepared again.
            let stale = log.lines().filter(|line| line.contains("cached plan"));
            violations.extend(stale.map(|line| format!("{}: {line}", process.name)));
            let stopped = process.stop_cleanly(STOP_TIMEOUT).await;
            violations.extend(stopped.err().map(|error| format!("{error:#}")));
        }
        violations.extend(self.wrong_calls().await?);
        if let Err(error) = program.run(&self, &["verify"]).await {
            violations.push(format!("the books do not close: {error:#}"));
        }
        self.reader.close().await;
        self.servers.stop().await;
        Ok(violations)
    }

    /// Jobs for which the provider was not called once for each image, and jobs whose worker crashed.
    async fn wrong_calls(&self) -> anyhow::Result<Vec<String>> {
        let called = once::calls_by_job(&self.fake.journal());
        let jobs: Vec<(Uuid, String, i32, i32)> =
            sqlx::query_as("SELECT id, state, crash_count, n_requested FROM jobs")
                .fetch_all(&self.reader)
                .await?;
        println!(
            "  {} jobs, {} calls, as the provider counts",
            jobs.len(),
            called.values().sum::<i64>()
        );
        let wrong = jobs.into_iter().filter_map(|(id, state, crashes, outputs)| {
            let id = JobId(id).to_string();
            let calls = called.get(&id).copied().unwrap_or_default();
            let outputs = i64::from(outputs);
            let is_right = calls == outputs || state == "canceled" && calls < outputs;
            (crashes > 0 || !is_right).then(|| {
                format!("{id} ({state}) asked for {outputs} images, the provider was called {calls} times, {crashes} workers crashed")
            })
        });
        Ok(wrong.collect())
    }
}

/// Customers that keep coming until the load ends.
struct Load {
    customers: Arc<Customers>,
    enough: CancellationToken,
    coming: JoinSet<()>,
}

impl Load {
    fn start(stage: &Stage, rate: f64, apis: &[Process]) -> Self {
        let apis = apis.iter().map(Process::address).collect();
        let customers = Arc::new(Customers::new(&stage.key, MODEL, apis));
        let enough = CancellationToken::new();
        let mut coming = JoinSet::new();
        coming.spawn(Arc::clone(&customers).come(rate, enough.clone()));
        Self {
            customers,
            enough,
            coming,
        }
    }

    /// Waits for the customers that have come, prints what they did, and returns what failed.
    async fn end(self) -> Vec<String> {
        self.enough.cancel();
        self.coming.join_all().await;
        let noted = self.customers.noted();
        let requests: usize = noted.requests.values().sum();
        println!(
            "  {requests} requests, {} of them failed",
            noted.failures.len()
        );
        for (what, count) in noted.requests {
            println!("  {count:>7}  {what}");
        }
        for (state, count) in noted.jobs {
            println!("  {count:>7}  jobs {state}");
        }
        noted.failures
    }
}

/// Changes the schema as `platen migrate` does: it waits for a lock only briefly, and tries again.
async fn change(owner: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    owner.execute("SET lock_timeout = '200ms'").await?;
    let asked = Instant::now();
    loop {
        match owner
            .execute(sqlx::AssertSqlSafe(statement.to_owned()))
            .await
        {
            Ok(_) => return Ok(()),
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
            {
                ensure!(
                    asked.elapsed() < CHANGE_TIMEOUT,
                    "the lock was never available for: {statement}"
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error).context(statement.to_owned()),
        }
    }
}
