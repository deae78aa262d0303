//! `make rolling-migration`: the schema changes under processes that serve, and no customer notices.
//!
//! First a column is added to every table, one after the other, while an api and two workers of this version serve. Then, where
//! there are migrations that the pinned version ([`tests::base`]) does not know, that version serves while this one migrates; both
//! serve side by side; at last the old ones are stopped. Customers ([`tests::customers`]) do everything a customer can
//! all the time, and repeat nothing: no request may fail, no job may be stuck, none may be paid for twice, and the books
//! must close. Prints what was counted, and exits with 1 when any of it happened.
#![expect(clippy::print_stdout, reason = "prints what it counted")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use common::bucket::Address;
use common::config::Config;
use common::database::{self, DatabaseRole as Rights};
use common::id::JobId;
use fakes::{Fake, Latency, Switches};
use secrecy::SecretString;
use servers::{Servers, Tuning};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tempfile::TempDir;
use tests::base::{self, Base, Built};
use tests::customers::Customers;
use tests::fleet::{Orders, Process, Role};
use tests::{models, processes, verdict};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MODEL: &str = "gemini-nano-banana-2.1";
/// What the fake takes for a picture, in milliseconds.
const LATENCY: Latency = Latency {
    min: 300,
    max: 1_500,
};
/// Until everybody has something under way.
const WARM_UP: Duration = Duration::from_secs(3);
const DRAIN: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct Words {
    /// How long each part changes the schema, or lets both versions serve.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Customers each second.
    #[arg(long, default_value_t = 3.0)]
    rate: f64,
    /// The commit that serves beside this one, instead of the pinned one.
    #[arg(long)]
    base: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let words = Words::parse();
    let base = match &words.base {
        Some(commit) => Base::of(commit),
        None => Base::pinned(),
    };
    let base = base.unwrap();
    let mut violations = Vec::new();
    println!("a column is added to every table");
    violations.extend(columns(&words).await.unwrap());
    if base::newest_migration().unwrap() <= base.migration {
        println!(
            "no migration since {}: nothing to run side by side",
            base.commit
        );
    } else {
        println!("{} serves while this version migrates", base.commit);
        violations.extend(side_by_side(&words, &base).await.unwrap());
    }
    verdict(&violations)
}

/// One version; every table grows under it.
async fn columns(words: &Words) -> anyhow::Result<Vec<String>> {
    let own = Program::own();
    let stage = Stage::set(&own).await?;
    let (_catalogue, orders) = stage.orders(&own, "own")?;
    let mut apis = orders.start(Role::Api, 1).await?;
    let mut workers = orders.start(Role::Worker, 2).await?;
    let load = Load::start(&stage, words.rate, &apis);
    tokio::time::sleep(WARM_UP).await;

    let mut owner = stage.owner().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY relname",
    )
    .fetch_all(&mut owner)
    .await?;
    ensure!(tables.len() > 10, "only {} tables", tables.len());
    let pause = Duration::from_secs(words.seconds) / u32::try_from(tables.len())?;
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

/// The pinned version serves; this one migrates, serves beside it, and goes on alone.
async fn side_by_side(words: &Words, base: &Base) -> anyhow::Result<Vec<String>> {
    let old = Program::of(base.build()?);
    let own = Program::own();
    let stage = Stage::set(&old).await?;
    let (_old_catalogue, orders) = stage.orders(&old, "old")?;
    let mut old_apis = orders.start(Role::Api, 1).await?;
    let mut old_workers = orders.start(Role::Worker, 2).await?;
    let load = Load::start(&stage, words.rate, &old_apis);
    tokio::time::sleep(WARM_UP).await;

    let part = Duration::from_secs(words.seconds) / 3;
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
        violations.extend(stop(process).await);
    }
    tokio::time::sleep(part).await;

    let processes: Vec<&mut Process> = apis.iter_mut().chain(&mut workers).collect();
    violations.extend(stage.end(load, processes, &own).await?);
    Ok(violations)
}

/// A version of the program, and the catalogue it was shipped with.
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

    /// Runs it to its end; returns what it printed.
    async fn run(&self, stage: &Stage, words: &[&str]) -> anyhow::Result<String> {
        let answer = processes::program(&self.platen)
            .args(words)
            .env("DATABASE_URL", stage.servers.database_url())
            .env("DATABASE_OWNER_URL", stage.servers.owner_url())
            .env("PLATEN_BUCKET", stage.bucket())
            .env("PLATEN_LOG", "info")
            .output()
            .await?;
        ensure!(
            answer.status.success(),
            "platen {}: {}{}",
            words.join(" "),
            String::from_utf8_lossy(&answer.stdout),
            String::from_utf8_lossy(&answer.stderr)
        );
        Ok(String::from_utf8(answer.stdout)?.trim().to_owned())
    }
}

/// Servers, a fake, and a database that one version has migrated and put a tenant into.
struct Stage {
    servers: Servers,
    _data: TempDir,
    /// The bucket, and the logs.
    folder: TempDir,
    fake: Fake,
    key: String,
    reader: PgPool,
}

impl Stage {
    async fn set(program: &Program) -> anyhow::Result<Self> {
        let (data, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let servers = Servers::start_with(data.path(), Tuning::Durable).await?;
        let fake = Fake::start(fakes::Options::default()).await?;
        fake.faults().set(Switches {
            latency_ms: LATENCY,
            plain: true,
            ..Switches::default()
        });
        // Before there are roles nobody can read.
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

    /// By which processes of a version are started, and the catalogue they read. Their logs have a folder of their own.
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

    /// Lets the customers leave and the processes stop, and says what is wrong then.
    async fn end(
        self,
        load: Load,
        processes: Vec<&mut Process>,
        program: &Program,
    ) -> anyhow::Result<Vec<String>> {
        let mut violations = load.end().await;
        let asked = Instant::now();
        while tests::pipeline::open_jobs(&self.reader).await? > 0 {
            if asked.elapsed() > DRAIN {
                violations.push(format!(
                    "jobs are still open {DRAIN:?} after the last submit"
                ));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for process in processes {
            let log = std::fs::read_to_string(process.log()).unwrap_or_default();
            let stale = log.lines().filter(|line| line.contains("cached plan"));
            violations.extend(stale.map(|line| format!("{}: {line}", process.name)));
            violations.extend(stop(process).await);
        }
        violations.extend(self.paid_twice().await?);
        if let Err(error) = program.run(&self, &["verify"]).await {
            violations.push(format!("the books do not close: {error:#}"));
        }
        self.reader.close().await;
        self.servers.stop().await;
        Ok(violations)
    }

    /// Jobs for which the provider was asked more often than for each picture once, and such as workers left.
    async fn paid_twice(&self) -> anyhow::Result<Vec<String>> {
        let mut called: BTreeMap<String, i32> = BTreeMap::new();
        let calls = self.fake.journal().calls();
        for call in &calls {
            let job = call.labels.get("job").cloned().unwrap_or_default();
            *called.entry(job).or_default() += 1;
        }
        let jobs: Vec<(Uuid, String, i32, i32)> =
            sqlx::query_as("SELECT id, state, crash_count, n_requested FROM jobs")
                .fetch_all(&self.reader)
                .await?;
        println!(
            "  {} jobs, {} calls, as the provider counts",
            jobs.len(),
            calls.len()
        );
        let wrong = jobs.into_iter().filter_map(|(id, state, crashes, outputs)| {
            let id = JobId(id).to_string();
            let made = called.get(&id).copied().unwrap_or_default();
            let as_paid = made == outputs || state == "canceled" && made < outputs;
            (crashes > 0 || !as_paid).then(|| {
                format!("{id} ({state}) asked for {outputs} pictures, the provider was called {made} times, {crashes} workers left it")
            })
        });
        Ok(wrong.collect())
    }
}

/// Customers that come until it is enough.
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

    /// Returns when all have what they came for; prints what they did.
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

/// Changes the schema as `platen migrate` does: it waits for a lock for a moment only, and tries again.
async fn change(owner: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    owner.execute("SET lock_timeout = '200ms'").await?;
    let asked = Instant::now();
    loop {
        match owner
            .execute(sqlx::AssertSqlSafe(statement.to_owned()))
            .await
        {
            Ok(_) => return Ok(()),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
                ensure!(asked.elapsed() < DRAIN, "no gap was found for: {statement}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error).context(statement.to_owned()),
        }
    }
}

async fn stop(process: &mut Process) -> Option<String> {
    match process.stop().await {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!(
            "{} ended with {status}; {}",
            process.name,
            process.last_words()
        )),
        Err(error) => Some(format!("{}: {error:#}", process.name)),
    }
}
