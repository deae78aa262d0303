//! The `platen` program as a child process, for tests that kill it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::config::{Config, DEFAULT_API_MEMORY};
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, Command};

/// The program without arguments, with an empty environment.
pub fn platen() -> Command {
    program(&binary("platen"))
}

/// The same for the program of another version.
pub fn program(path: &Path) -> Command {
    let mut platen = Command::new(path);
    platen.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    // It finds the programs of private servers there.
    platen.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
    platen
}

/// Starts `platen worker` with a configuration and further variables. It starts no fake vendors: the catalogue names the
/// addresses of its providers. Dropping it kills it.
pub fn worker(config: &Config, more: &[(&str, &str)]) -> Child {
    command("worker", config)
        .envs(more.iter().copied())
        .spawn()
        .unwrap()
}

/// The same, but no file that it writes may be larger than `kib` KiB. Writing more fails, as on a full disk.
pub fn worker_with_small_files(config: &Config, more: &[(&str, &str)], kib: usize) -> Child {
    let mut shell = Command::new("sh");
    // The limit is in blocks of 512 bytes. A process that does not ignore the signal SIGXFSZ is killed by it.
    let line = format!("trap '' XFSZ; ulimit -S -f {}; exec \"$0\" \"$@\"", kib * 2);
    shell.arg("-c").arg(line).arg(binary("platen"));
    configured(shell, "worker", config)
        .envs(more.iter().copied())
        .spawn()
        .unwrap()
}

/// The process `platen api` or `platen worker` with a configuration.
pub fn command(command: &str, config: &Config) -> Command {
    configured(Command::new(binary("platen")), command, config)
}

/// Adds a command of `platen` to a program, and sets the environment to exactly what the configuration says.
pub fn configured(mut platen: Command, command: &str, config: &Config) -> Command {
    let secret =
        |secret: &Option<SecretString>| secret.as_ref().unwrap().expose_secret().to_owned();
    platen
        .arg(command)
        .env_clear()
        .env("DATABASE_URL", secret(&config.database_url))
        .env("REDIS_URL", secret(&config.redis_url))
        .env("PLATEN_SIGNING_KEY", secret(&config.signing_key))
        .env("PLATEN_QUEUE", &config.queue)
        .env("PLATEN_BUCKET", config.bucket().unwrap().to_string())
        .env("PLATEN_MODELS", config.models.as_ref().unwrap())
        .env("PLATEN_LISTEN", config.listen.to_string())
        .env("PLATEN_METRICS_LISTEN", config.metrics_listen.to_string())
        .env("PLATEN_SLOTS", config.slots.to_string())
        .env("PLATEN_MEMORY_MB", (config.memory / 1_000_000).to_string())
        .env(
            "PLATEN_LEASE_SECONDS",
            config.timing.lease.as_secs().to_string(),
        )
        .env("PLATEN_LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // Set only where needed, because older versions do not know these variables.
    if config.api_memory != DEFAULT_API_MEMORY {
        let megabytes = (config.api_memory / 1_000_000).to_string();
        platen.env("PLATEN_API_MEMORY_MB", megabytes);
    }
    if config.tenant_slots_percent != 100 {
        let percent = config.tenant_slots_percent.to_string();
        platen.env("PLATEN_TENANT_SLOTS_PERCENT", percent);
    }
    if let Some(file) = &config.redis_url_file {
        platen.env("REDIS_URL_FILE", file);
    }
    platen
}

/// The path of a program of this workspace, which is built beside the test's own program.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let mut folders = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name));
    let found = folders.find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "there is no {name} beside {}: `make test` builds it",
            own.display()
        )
    })
}
