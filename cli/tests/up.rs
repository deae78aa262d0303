//! `platen up` as a person runs it: the real program is killed and started again.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};

/// A running `platen up`.
struct Up {
    child: Child,
    ready: Value,
    client: Client,
    data: PathBuf,
}

impl Up {
    async fn start(data: &Path) -> Self {
        Self::start_as(data, |_| {}).await
    }

    async fn start_as(data: &Path, set: impl FnOnce(&mut Command)) -> Self {
        let ready_file = data.join("ready.json");
        let _none_yet = std::fs::remove_file(&ready_file);
        let mut platen = platen(data);
        set(&mut platen);
        let child = platen
            .args(["up", "--port", "0", "--ready-file"])
            .arg(&ready_file)
            .arg("--data")
            .arg(data)
            .spawn()
            .unwrap();
        let started = Instant::now();
        let ready = loop {
            if let Ok(text) = std::fs::read(&ready_file) {
                break serde_json::from_slice(&text).unwrap();
            }
            assert!(
                started.elapsed() < Duration::from_mins(1),
                "platen up was not ready within a minute"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Self {
            child,
            ready,
            client: Client::builder().build().unwrap(),
            data: data.to_owned(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.ready["api"].as_str().unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let request = self
            .client
            .get(self.url(path))
            .bearer_auth(self.ready["key"].as_str().unwrap());
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn submit(&self) -> String {
        let job = json!({"model": "gemini-nano-banana-2.1", "prompt": "a canary in a mine", "size": "1K"});
        let request = self
            .client
            .post(self.url("/v1/jobs"))
            .bearer_auth(self.ready["key"].as_str().unwrap())
            .json(&job);
        let job: Value = request.send().await.unwrap().json().await.unwrap();
        job["id"].as_str().unwrap().to_owned()
    }

    /// Sets the time of every call of the fake, in milliseconds.
    async fn slow_model(&self, ms: u64) {
        let faults = format!(
            "{}/__fake/faults",
            self.ready["fakes"]["vendors"].as_str().unwrap()
        );
        let response = self
            .client
            .put(faults)
            .json(&json!({"latency_ms": {"min": ms, "max": ms}}))
            .send()
            .await
            .unwrap();
        assert!(response.status().is_success());
    }

    async fn calls(&self) -> usize {
        let journal = format!(
            "{}/__fake/journal",
            self.ready["fakes"]["vendors"].as_str().unwrap()
        );
        let journal: Value = self
            .client
            .get(journal)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        journal["calls"].as_array().unwrap().len()
    }

    async fn ended(&self, id: &str, within: Duration) -> Value {
        let started = Instant::now();
        loop {
            let job = self.get(&format!("/v1/jobs/{id}")).await;
            if !matches!(job["state"].as_str(), Some("queued" | "running")) {
                return job;
            }
            assert!(started.elapsed() < within, "{job}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Stops it as Ctrl-C does, and checks its log.
    async fn stop(mut self) {
        signal(self.child.id().unwrap(), "-INT").await;
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait())
            .await
            .unwrap()
            .unwrap();
        let log = std::fs::read_to_string(self.data.join("platen.log")).unwrap();
        assert!(status.success(), "{status}: {log}");
        assert!(
            log.contains("job.id"),
            "the log says nothing of jobs: {log}"
        );
        assert!(!log.contains('\x1b'), "a file is no terminal: {log}");
        let key = self.ready["key"].as_str().unwrap();
        for secret in ["canary", key, "signature="] {
            assert!(!log.contains(secret), "{secret} stands in the log: {log}");
        }
    }
}

async fn signal(process: u32, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &process.to_string()])
        .status();
    assert!(sent.await.unwrap().success());
}

fn platen(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_platen"));
    // The configuration of this machine must not change the test.
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("PLATEN_LEASE_SECONDS", "3")
        .env("PLATEN_METRICS_LISTEN", "127.0.0.1:0");
    let file = |name| {
        let options = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(data.join(name));
        Stdio::from(options.unwrap())
    };
    command
        .stdout(file("platen.out"))
        .stderr(file("platen.log"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn verify(data: &Path) {
    let output = platen(data)
        .args(["verify", "--deep", "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .output()
        .await
        .unwrap();
    let says = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && says.contains("all is well"),
        "{says}"
    );
}

/// The processes whose working directory is in this folder or whose command line names it.
fn processes_of(data: &Path) -> Vec<(u32, String)> {
    let name = data.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let process = entry.ok()?.path();
            let id = process.file_name()?.to_str()?.parse().ok()?;
            let line = String::from_utf8_lossy(&std::fs::read(process.join("cmdline")).ok()?)
                .replace('\0', " ");
            let works_there =
                std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(data));
            (works_there || line.contains(name)).then_some((id, line))
        })
        .collect()
}

#[tokio::test]
async fn a_job_survives_sigkill_and_is_charged_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Up::start(data).await;
    up.slow_model(20_000).await;
    let id = up.submit().await;
    while up.calls().await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    up.kill().await;

    let started = Instant::now();
    while !processes_of(data).is_empty() {
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "left behind: {:?}",
            processes_of(data)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let up = Up::start(data).await;
    let job = up.ended(&id, Duration::from_secs(20)).await;
    assert_eq!(
        (job["state"].as_str(), job["attempts"].as_i64()),
        (Some("succeeded"), Some(2)),
        "{job}"
    );
    assert_eq!(
        up.get("/v1/credits").await,
        json!({"available": 994, "held": 0})
    );
    verify(data).await;
    up.stop().await;
    assert_eq!(processes_of(data), []);
    verify(data).await;
}

#[tokio::test]
async fn data_survive_a_restart_and_a_second_platen_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Up::start(data).await;
    let id = up.submit().await;
    up.ended(&id, Duration::from_secs(20)).await;
    let key = up.ready["key"].clone();
    let master_key = std::fs::read_to_string(data.join("master.key")).unwrap();
    assert_eq!(master_key.len(), 64);

    let second = platen(data)
        .args(["up", "--port", "0", "--data"])
        .arg(data)
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap();
    assert!(!second.status.success());
    let says = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(says.contains("in use by another Platen"), "{says}");
    up.stop().await;

    let up = Up::start(data).await;
    assert_eq!(up.ready["key"], key);
    let same = std::fs::read_to_string(data.join("master.key")).unwrap();
    assert_eq!(same, master_key);
    assert_eq!(
        up.get(&format!("/v1/jobs/{id}")).await["state"],
        "succeeded"
    );
    up.stop().await;
}

/// Sets variables that clients of Postgres read, and a standard output that cannot be written.
#[tokio::test]
async fn postgres_variables_are_ignored_and_each_role_has_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let up = Up::start_as(data, |command| {
        command
            .env("PGSSLMODE", "verify-full")
            .env("PGOPTIONS", "-c statement_timeout=1")
            .env("PGHOST", "nowhere.invalid")
            .env("PGSSLROOTCERT", "/nowhere")
            .stdout(full);
    })
    .await;
    let id = up.submit().await;
    assert_eq!(
        up.ended(&id, Duration::from_secs(20)).await["state"],
        "succeeded"
    );

    let urls = servers::running_urls(data).unwrap().unwrap();
    each_role_uses_its_login(&urls.owner_url).await;
    let single = urls.logins.as_ref().unwrap();
    for (url, others) in [
        (
            &single.api,
            ["platen_worker", "platen_reader", "platen_owner"],
        ),
        (
            &single.worker,
            ["platen_api", "platen_reader", "platen_owner"],
        ),
        (
            &single.reader,
            ["platen_api", "platen_worker", "platen_owner"],
        ),
    ] {
        refuses_roles(url, others).await;
    }
    doctor_checks_the_logins(data, &urls).await;

    for file in ["signing.key", "servers.json", "demo.key"] {
        let mode = std::fs::metadata(data.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let log = std::fs::read_to_string(data.join("platen.log")).unwrap();
    assert!(
        log.contains("cannot be written to standard output") && !log.contains("panicked"),
        "{log}"
    );

    let mut verify = platen(data);
    verify
        .args(["verify", "--anchor", "--data"])
        .arg(data)
        .stdout(Stdio::piped());
    let says = String::from_utf8(verify.output().await.unwrap().stdout).unwrap();
    assert!(
        says.contains("anchored as 20") && says.contains("all is well"),
        "{says}"
    );
    up.stop().await;
}

/// Every session of a running Platen has the login of its role.
async fn each_role_uses_its_login(owner_url: &str) {
    let mut owner = PgConnection::connect(owner_url).await.unwrap();
    let sessions: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT usename::text, application_name FROM pg_stat_activity WHERE application_name LIKE 'platen platen%' ORDER BY 1",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    let logins: Vec<&str> = sessions.iter().map(|(login, _)| login.as_str()).collect();
    assert!(
        logins.contains(&"platen_login_api") && logins.contains(&"platen_login_worker"),
        "{logins:?}"
    );
    for (login, application) in &sessions {
        let role = application.trim_start_matches("platen platen_");
        assert_eq!(login, &format!("platen_login_{role}"));
    }
    owner.close().await.unwrap();
}

/// The login of this URL may act as none of these roles.
async fn refuses_roles(url: &str, roles: [&str; 3]) {
    let mut login = PgConnection::connect(url).await.unwrap();
    for role in roles {
        let become_it = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET ROLE {role}")));
        let refused = become_it.execute(&mut login).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{url}: {refused}");
    }
    login.close().await.unwrap();
}

/// `platen doctor` says of each login how many roles it may act as.
async fn doctor_checks_the_logins(data: &Path, urls: &servers::Urls) {
    let single = urls.logins.as_ref().unwrap();
    let doctor = async |variables: &[(&str, &String)]| {
        let mut doctor = platen(data);
        doctor
            .arg("doctor")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped());
        String::from_utf8(doctor.output().await.unwrap().stdout).unwrap()
    };
    let says = doctor(&[
        ("DATABASE_API_URL", &single.api),
        ("DATABASE_WORKER_URL", &single.worker),
        ("DATABASE_READER_URL", &single.reader),
    ])
    .await;
    for login in ["api", "worker", "reader"] {
        let one =
            format!("ok      Postgres: the login platen_login_{login} may act as one role only");
        assert!(says.contains(&one), "{says}");
    }
    assert!(
        says.contains("functions and roles are as they must be"),
        "{says}"
    );
    assert!(!says.contains("CONNECTION LIMIT"), "{says}");
    assert!(says.contains("it accepts 195 connections"), "{says}");
    let says = doctor(&[("DATABASE_URL", &urls.database_url)]).await;
    assert!(
        says.contains(
            "note    Postgres: the login platen may act as 3 of the api, the workers and the reader"
        ),
        "{says}"
    );
    let says = doctor(&[("DATABASE_URL", &urls.owner_url)]).await;
    assert!(
        says.contains("FAILED  Postgres: the login platen_admin is a superuser"),
        "{says}"
    );
}

#[tokio::test]
async fn no_secret_is_written_through_a_link() {
    for file in ["servers.json", "signing.key", "demo.key"] {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = elsewhere.path().join("target");
        std::fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join(file)).unwrap();
        let output = platen(folder.path())
            .args(["up", "--port", "0", "--data"])
            .arg(folder.path())
            .stderr(Stdio::piped())
            .output();
        let output = tokio::time::timeout(Duration::from_mins(1), output)
            .await
            .unwrap()
            .unwrap();
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{file}: {says}");
        assert!(
            says.contains(file) && says.contains("is a link"),
            "{file}: {says}"
        );
        assert_eq!(
            std::fs::read_to_string(&target).unwrap(),
            "theirs",
            "{file}"
        );
    }
}

#[tokio::test]
async fn a_taken_address_is_named_with_the_variable_that_sets_it() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let up = Up::start(first.path()).await;
    let taken = |part: &str| {
        let url = up.ready[part].as_str().unwrap();
        url.trim_start_matches("http://").to_owned()
    };
    let (api, metrics) = (taken("api"), taken("metrics"));
    let port = api.rsplit_once(':').unwrap().1;
    for (command, variable, address, named_by) in [
        (
            &["up", "--port", port][..],
            ("PLATEN_LOG", "info"),
            &api,
            "--port or PLATEN_LISTEN",
        ),
        (
            &["up"],
            ("PLATEN_LISTEN", &api),
            &api,
            "--port or PLATEN_LISTEN",
        ),
        (
            &["up", "--port", "0"],
            ("PLATEN_METRICS_LISTEN", &metrics),
            &metrics,
            "PLATEN_METRICS_LISTEN",
        ),
    ] {
        let output = platen(second.path())
            .args(command)
            .arg("--data")
            .arg(second.path())
            .env(variable.0, variable.1)
            .stderr(Stdio::piped())
            .output()
            .await
            .unwrap();
        assert!(!output.status.success());
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!(
            "cannot listen on {address}: another process, perhaps another Platen, listens there. To listen on another address, set {named_by}"
        );
        assert!(says.contains(&expected), "{says}");
        assert!(!says.contains('\x1b'), "a pipe is no terminal: {says}");
    }
    up.kill().await;
}

#[tokio::test]
async fn fifty_jobs_survive_a_flushall_of_redis() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Up::start(data).await;
    up.slow_model(400).await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(up.submit().await);
    }
    let patient =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
    let mut redis = redis::Client::open(up.ready["redis"].as_str().unwrap())
        .unwrap()
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap();
    let _done: () = redis.flushall().await.unwrap();
    let flushed = Instant::now();
    let called = up.calls().await;
    while up.calls().await == called {
        assert!(
            flushed.elapsed() < Duration::from_secs(2),
            "no job began within two seconds of the flush"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for id in &ids {
        assert_eq!(
            up.ended(id, Duration::from_mins(1)).await["state"],
            "succeeded"
        );
    }
    assert_eq!(up.calls().await, 50);
    verify(data).await;
    up.stop().await;
}

#[tokio::test]
async fn a_private_redis_that_dies_is_restarted_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Up::start(data).await;
    let (redis, _) = processes_of(data)
        .into_iter()
        .find(|(_, line)| line.contains("redis-server"))
        .unwrap();
    signal(redis, "-KILL").await;
    let id = up.submit().await;
    assert_eq!(
        up.ended(&id, Duration::from_secs(20)).await["state"],
        "succeeded"
    );
    assert_eq!(up.calls().await, 1);
    up.stop().await;
}

#[tokio::test]
async fn a_worker_without_credentials_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let output = platen(folder.path())
        .arg("worker")
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("GOOGLE_CLOUD_PROJECT is missing"), "{says}");
}

#[tokio::test]
async fn the_commands_for_operators_work() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Up::start(data).await;
    let run = async |command: &[&str]| {
        let output = platen(data)
            .args(command)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{command:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    up.ended(&up.submit().await, Duration::from_secs(20)).await;
    let tenant = run(&["tenant", "add", "Acme"]).await;
    let key = run(&["key", "add", &tenant, "ci"]).await;
    assert_eq!(
        run(&["grant", &tenant, "30", "--source", "welcome"]).await,
        "granted 30 credits"
    );
    let balance = up
        .client
        .get(up.url("/v1/credits"))
        .bearer_auth(&key)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(balance, r#"{"available":30,"held":0}"#);
    let actions = run(&["admin", "actions"]).await;
    let demo = actions
        .lines()
        .filter(|line| line.contains("  platen up  "));
    assert_eq!(
        demo.count(),
        4,
        "bucket, tenant, credits and key: {actions}"
    );
    run(&["key", "revoke", &tenant, key.split('_').nth(1).unwrap()]).await;
    let status = up
        .client
        .get(up.url("/v1/credits"))
        .bearer_auth(&key)
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(status, 401);
    up.stop().await;
}

#[tokio::test]
async fn only_a_new_database_adopts_its_bucket_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let up = Up::start(data).await;
    let adopt = async |more: &[&str]| {
        let output = platen(data)
            .args(["bucket", "adopt"])
            .args(more)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .await
            .unwrap();
        let says = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(says).unwrap())
    };
    let (well, says) = adopt(&[]).await;
    assert!(well && says.contains("it was adopted before"), "{says}");
    let marker = data.join("bucket/platen-bucket");
    let first = std::fs::read(&marker).unwrap();
    std::fs::remove_file(&marker).unwrap();
    let (well, says) = adopt(&["--if-new"]).await;
    assert!(well && says.contains("nothing was done"), "{says}");
    assert!(
        !marker.exists(),
        "a step of each deployment adopts no empty folder"
    );
    let (well, says) = adopt(&[]).await;
    assert!(!well && says.contains("--replace"), "{says}");
    // The marker is cached for a second.
    let asked = Instant::now();
    loop {
        let readiness = up.get("/readyz").await;
        if readiness["ready"] == false {
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "{readiness}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (well, says) = adopt(&["--replace"]).await;
    assert!(well && says.contains("adopted"), "{says}");
    assert_ne!(
        std::fs::read(&marker).unwrap(),
        first,
        "each adoption has an id of its own"
    );
    up.ended(&up.submit().await, Duration::from_secs(20)).await;
    verify(data).await;
    up.stop().await;
}

#[tokio::test]
async fn doctor_reports_files_readable_by_others_and_links() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    std::fs::write(bucket.join("a.png"), "a picture").unwrap();
    std::os::unix::fs::symlink("/etc", bucket.join("away")).unwrap();
    let doctor = async || {
        let mut doctor = platen(folder.path());
        doctor.arg("doctor").env("PLATEN_BUCKET", &bucket);
        let output = doctor.stdout(Stdio::piped()).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let says = doctor().await;
    let advice = format!("`chmod -R go= {}` ends that", bucket.display());
    assert!(says.contains(&advice), "{says}");
    assert!(says.contains(" entries are symbolic links"), "{says}");
    assert!(says.contains("bucket: 1 of all "), "{says}");
    let chmod = Command::new("chmod")
        .args(["-R", "go="])
        .arg(&bucket)
        .status();
    assert!(chmod.await.unwrap().success());
    let says = doctor().await;
    assert!(!says.contains("chmod"), "{says}");
}
