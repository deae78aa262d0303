//! A private Docker: an engine that nobody else uses, stand-ins for container images that cannot be pulled, our own image,
//! and the services of the shipped `docker-compose.yml`. Needs root, and what `scripts/setup containers` installs.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::Value;
use servers::free_port;
use tokio::process::{Child, Command};

use crate::fleet::last_lines;
use crate::{processes, root};

/// How long a container may take until it is healthy.
const HEALTHY_TIMEOUT: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long `docker stop` waits if the container does not say, in seconds.
const DEFAULT_STOP_SECONDS: i64 = 10;

/// A Docker engine that keeps its container images for the next run.
pub struct Engine {
    socket: PathBuf,
    daemon: Child,
}

impl Engine {
    /// Starts an engine with its data in this folder. Container images of earlier runs are found again.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        // Not in the folder: the path of a socket may have at most 107 characters.
        let socket = std::env::temp_dir().join(format!("platen-{}.sock", std::process::id()));
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = on_path("dockerd");
        command
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let daemon = command
            .spawn()
            .context("dockerd: scripts/setup containers installs it")?;
        let mut engine = Self { socket, daemon };
        let asked = Instant::now();
        loop {
            if engine.docker(&["info"]).await.is_ok() {
                return Ok(engine);
            }
            if engine.daemon.try_wait()?.is_some() || asked.elapsed() > HEALTHY_TIMEOUT {
                let log = std::fs::read_to_string(folder.join("log"))?;
                bail!(
                    "Docker does not start here; it needs root, and a kernel that lets it:\n  {}",
                    last_lines(&log)
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Ends it, and every container that still runs.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.daemon.id().context("it has ended")?;
        signal::kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?;
        self.daemon.wait().await?;
        Ok(())
    }

    /// Runs `docker …`, and returns its output.
    pub async fn docker(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("docker", arguments).await
    }

    /// Runs a program that uses this engine, and returns its output.
    pub async fn run(
        &self,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
    ) -> anyhow::Result<String> {
        output(self.command(program).args(arguments)).await
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = on_path(program);
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_BUILDKIT", "1");
        command
    }

    /// The address at which containers reach this machine. A new engine creates its bridge some time after its start.
    pub async fn host(&self) -> anyhow::Result<IpAddr> {
        let bridge = async || {
            let inspected = self.docker(&["network", "inspect", "bridge"]).await?;
            Ok(serde_json::from_str::<Value>(&inspected)?)
        };
        awaited(
            "an address of Docker's bridge",
            HEALTHY_TIMEOUT,
            bridge,
            gateway,
        )
        .await
    }

    /// What `docker inspect` tells about a container.
    pub async fn inspect(&self, container: &str) -> anyhow::Result<Value> {
        let text = self.docker(&["inspect", container]).await?;
        Ok(serde_json::from_str::<Value>(&text)?[0].take())
    }

    /// The address of a container in the network of its project. A container that is just starting has none for a while.
    pub async fn address(&self, container: &str) -> anyhow::Result<IpAddr> {
        let what = format!("an address of the container {container}");
        awaited(&what, HEALTHY_TIMEOUT, || self.inspect(container), address).await
    }

    /// The id of its main process on this machine; `None` while there is none.
    pub async fn main_process(&self, container: &str) -> anyhow::Result<Option<i32>> {
        let pid = self.inspect(container).await?["State"]["Pid"].as_i64();
        Ok(pid
            .and_then(|pid| i32::try_from(pid).ok())
            .filter(|pid| *pid > 0))
    }

    /// Kills the main process of a container with SIGKILL. Returns how long it took until another process was healthy.
    pub async fn kill(&self, container: &str) -> anyhow::Result<Duration> {
        let before = self
            .main_process(container)
            .await?
            .context("it does not run")?;
        let killed = Instant::now();
        signal::kill(Pid::from_raw(before), Signal::SIGKILL)?;
        while killed.elapsed() < HEALTHY_TIMEOUT {
            let now = self.main_process(container).await?;
            if now.is_some_and(|pid| pid != before) && self.is_well(container).await? {
                return Ok(killed.elapsed());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        bail!("{container} was not well {HEALTHY_TIMEOUT:?} after its process was killed")
    }

    /// Whether it runs, and is healthy if it has a health check.
    pub async fn is_well(&self, container: &str) -> anyhow::Result<bool> {
        let state = self.inspect(container).await?["State"].take();
        let healthy = state["Health"]["Status"]
            .as_str()
            .is_none_or(|health| health == "healthy");
        Ok(state["Running"] == true && state["Restarting"] == false && healthy)
    }

    /// Runs `docker stop`. Returns the exit code and how long it took.
    pub async fn stop_container(&self, container: &str) -> anyhow::Result<(i64, Duration)> {
        let asked = Instant::now();
        // The time that the compose file sets.
        let seconds = self.inspect(container).await?["Config"]["StopTimeout"]
            .as_i64()
            .unwrap_or(DEFAULT_STOP_SECONDS);
        self.docker(&["stop", "--time", &seconds.to_string(), container])
            .await?;
        let code = self.inspect(container).await?["State"]["ExitCode"].as_i64();
        Ok((code.context("it has not ended")?, asked.elapsed()))
    }
}

/// The services of the shipped `docker-compose.yml`, with a catalogue that names the fake.
pub struct Project<'a> {
    /// The engine it runs on.
    pub engine: &'a Engine,
    /// The file with the variables, as a person would write `.env`.
    environment: PathBuf,
    /// The port of the API on this machine.
    pub port: u16,
    /// The password of the login that owns the database.
    pub owner_password: String,
}

impl<'a> Project<'a> {
    /// `models` is the folder of the catalogue, `vendor` the port of the fake, and `folder` the place for `.env`.
    pub fn new(
        engine: &'a Engine,
        folder: &Path,
        models: &Path,
        vendor: u16,
    ) -> anyhow::Result<Self> {
        let (port, owner_password) = (free_port()?, "owner".to_owned());
        let mut lines = vec![
            format!("POSTGRES_PASSWORD={owner_password}"),
            "POSTGRES_RUNTIME_PASSWORD=runtime".to_owned(),
            "REDIS_PASSWORD=redis".to_owned(),
            "GRAFANA_PASSWORD=grafana".to_owned(),
            format!("PLATEN_SIGNING_KEY={}", "s".repeat(40)),
            format!("PLATEN_OPERATOR_KEY={}", "o".repeat(40)),
            "PLATEN_PROVIDERS=vertex,interactions".to_owned(),
            "PLATEN_LOG=warn".to_owned(),
            "GOOGLE_CLOUD_PROJECT=synthetic".to_owned(),
            "GEMINI_API_KEY=a-key".to_owned(),
            format!("PLATEN_PORT={port}"),
            format!("MODELS={}", models.display()),
            format!("VENDOR_PORT={vendor}"),
            "LEASE=5".to_owned(),
        ];
        for other in ["PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT"] {
            lines.push(format!("{other}={}", free_port()?));
        }
        let environment = folder.join("env");
        std::fs::write(&environment, lines.join("\n"))?;
        Ok(Self {
            engine,
            environment,
            port,
            owner_password,
        })
    }

    /// Runs `docker compose …`, and returns its output.
    pub async fn compose(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.engine.command(root(".venv/bin/docker-compose"));
        command.current_dir(root(""));
        for file in ["docker-compose.yml", "tests/containers/vendor.yml"] {
            command.arg("--file").arg(file);
        }
        command
            .arg("--env-file")
            .arg(&self.environment)
            .args(arguments);
        output(&mut command).await
    }

    /// Starts everything with this many workers, and waits until every service is healthy. Returns how long it took.
    pub async fn up(&self, workers: usize) -> anyhow::Result<Duration> {
        let asked = Instant::now();
        let scale = format!("worker={workers}");
        let arguments = ["up", "--no-build", "--detach", "--wait", "--scale", &scale];
        self.compose(&arguments).await?;
        Ok(asked.elapsed())
    }

    /// The containers of a service.
    pub async fn containers(&self, service: &str) -> anyhow::Result<Vec<String>> {
        let names = self
            .compose(&["ps", "--format", "{{.Name}}", service])
            .await?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The first container of a service.
    pub async fn only(&self, service: &str) -> anyhow::Result<String> {
        let mut names = self.containers(service).await?;
        ensure!(!names.is_empty(), "{service} does not run");
        Ok(names.remove(0))
    }

    /// Runs `platen …` in the container of the api, as an operator does, and returns its output.
    pub async fn platen(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = vec!["exec", "-T", "api", "platen"];
        command.extend(arguments);
        Ok(self.compose(&command).await?.trim().to_owned())
    }
}

/// Asks again and again until `find` finds something in the answer. After `longest` the error names `what`, and quotes the
/// last answer.
async fn awaited<T>(
    what: &str,
    longest: Duration,
    ask: impl AsyncFn() -> anyhow::Result<Value>,
    find: impl Fn(&Value) -> Option<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        if let Some(found) = answer.as_ref().ok().and_then(&find) {
            return Ok(found);
        }
        if began.elapsed() > longest {
            let last =
                answer.map_or_else(|error| format!("{error:#}"), |answer| answer.to_string());
            bail!(
                "{what} was awaited for {longest:?} and did not come; Docker's last answer: {last}"
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The gateway of an inspected network.
fn gateway(inspected: &Value) -> Option<IpAddr> {
    let configs = inspected[0]["IPAM"]["Config"].as_array()?;
    configs
        .iter()
        .find_map(|config| match config.get("Gateway") {
            Some(said) => usable(said),
            None => first_of(&config["Subnet"]),
        })
}

/// The first address of a network. Docker gives it to a new bridge, and may not tell it.
fn first_of(subnet: &Value) -> Option<IpAddr> {
    subnet.as_str()?.parse::<IpNet>().ok()?.hosts().next()
}

/// The address of an inspected container.
fn address(inspected: &Value) -> Option<IpAddr> {
    let networks = inspected["NetworkSettings"]["Networks"].as_object()?;
    networks
        .values()
        .find_map(|network| usable(&network["IPAddress"]))
}

/// Reads an address. While there is none, Docker tells nothing, an empty text, `invalid IP` or an address of zeros.
fn usable(said: &Value) -> Option<IpAddr> {
    let address: IpAddr = said.as_str()?.parse().ok()?;
    (!address.is_unspecified()).then_some(address)
}

/// Builds the stand-ins and our own container image: with the whole `Dockerfile`, or faster with its second stage and the
/// program that is built already.
pub async fn images(engine: &Engine, whole: bool) -> anyhow::Result<()> {
    let (root, stand_ins) = (root(""), root("tests/containers/stand-ins"));
    let context = root.to_string_lossy();
    if whole {
        engine.run(&stand_ins, &["build"]).await?;
        let arguments = ["build", "--network", "host", "--tag", "platen", &*context];
        engine.docker(&arguments).await?;
        return Ok(());
    }
    engine.run(&stand_ins, &[]).await?;
    let folder = tempfile::tempdir()?;
    let own = folder.path().to_string_lossy();
    let runtime = [
        "build",
        "--target",
        "runtime",
        "--tag",
        "platen-runtime",
        &*context,
    ];
    engine.docker(&runtime).await?;
    let mut strip = Command::new("strip");
    strip
        .arg("-o")
        .arg(folder.path().join("platen"))
        .arg(processes::binary("platen"));
    output(&mut strip).await?;
    std::fs::write(
        folder.path().join("Dockerfile"),
        "FROM platen-runtime\nCOPY platen /usr/local/bin/platen\n",
    )?;
    engine.docker(&["build", "--tag", "platen", &*own]).await?;
    Ok(())
}

/// A command that is also searched in the folders of system programs, and first in `/usr/bin`: Debian's own Docker client
/// must be found before others that lack its plugins.
fn on_path(program: impl AsRef<OsStr>) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("/usr/bin:{path}:/usr/sbin:/sbin"));
    command
}

/// The output of a command; if it fails, an error with the last lines that it wrote.
async fn output(command: &mut Command) -> anyhow::Result<String> {
    let ended = command.stdin(Stdio::null()).output().await?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{:?} failed:\n  {}", command.as_std(), last_lines(&said));
    }
    Ok(String::from_utf8(ended.stdout)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    /// An inspected container with this address.
    fn container(address: &Value) -> Value {
        json!({"NetworkSettings": {"Networks": {"platen_default": {"IPAddress": address}}}})
    }

    #[test]
    fn an_address_that_is_not_assigned_yet_is_none() {
        for (said, found) in [
            (json!("172.18.0.5"), Some("172.18.0.5")),
            (json!("fd00::5"), Some("fd00::5")),
            (json!(""), None),
            (json!("invalid IP"), None),
            (json!("0.0.0.0"), None),
            (Value::Null, None),
        ] {
            let found = found.map(|found| found.parse().unwrap());
            assert_eq!(address(&container(&said)), found, "{said}");
            let network =
                json!([{"IPAM": {"Config": [{"Subnet": "172.18.0.0/16", "Gateway": said}]}}]);
            assert_eq!(gateway(&network), found, "{said}");
        }
        let silent = json!([{"IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}]);
        assert_eq!(gateway(&silent), "172.17.0.1".parse().ok());
        for nothing in [
            json!({}),
            json!([]),
            json!([{"IPAM": {"Config": null}}]),
            json!({"NetworkSettings": {"Networks": {}}}),
        ] {
            assert_eq!(
                (address(&nothing), gateway(&nothing)),
                (None, None),
                "{nothing}"
            );
        }
    }

    #[tokio::test]
    async fn a_wait_for_an_address_that_fails_names_it() {
        let asked = Cell::new(0);
        let starting = async || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => bail!("no such container"),
                2 => Ok(container(&json!("invalid IP"))),
                _ => Ok(container(&json!("172.18.0.5"))),
            }
        };
        let found = awaited("an address", HEALTHY_TIMEOUT, starting, address)
            .await
            .unwrap();
        assert_eq!((found.to_string().as_str(), asked.get()), ("172.18.0.5", 3));

        let never = async || Ok(container(&json!("")));
        let late = awaited(
            "an address of the container api",
            POLL_INTERVAL,
            never,
            address,
        )
        .await;
        let says = late.unwrap_err().to_string();
        assert!(
            says.contains("an address of the container api was awaited")
                && says.contains("IPAddress"),
            "{says}"
        );
    }
}
