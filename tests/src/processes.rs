//! The product's processes by themselves, for tests that kill them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::config::{API_MEMORY, Config};
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, Command};

/// The program, to be told what to do, with nothing in its environment.
pub fn platen() -> Command {
    program(&binary("platen"))
}

/// The same of another version.
pub fn program(path: &Path) -> Command {
    let mut platen = Command::new(path);
    platen.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    // Where the servers' programs are.
    platen.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
    platen
}

/// Starts `platen worker` on what the configuration names. It has no fake of its own: the catalogue names where its
/// providers are. Dropping it kills it.
pub fn worker(config: &Config, more: &[(&str, &str)]) -> Child {
    command("worker", config)
        .envs(more.iter().copied())
        .spawn()
        .unwrap()
}

/// The same, but no file it writes may be larger than so many KiB: larger ones fail as on a full disk.
pub fn worker_with_small_files(config: &Config, more: &[(&str, &str)], kib: usize) -> Child {
    let mut shell = Command::new("sh");
    // The limit is in blocks of 512 bytes. It kills whoever does not ignore its signal.
    let line = format!("trap '' XFSZ; ulimit -S -f {}; exec \"$0\" \"$@\"", kib * 2);
    shell.arg("-c").arg(line).arg(binary("platen"));
    told(shell, "worker", config)
        .envs(more.iter().copied())
        .spawn()
        .unwrap()
}

/// The command that runs `platen api` or `platen worker` on what the configuration names, and on nothing else.
pub fn command(word: &str, config: &Config) -> Command {
    told(Command::new(binary("platen")), word, config)
}

/// A program, its first word, and in its environment what the configuration says, and nothing else.
pub fn told(mut platen: Command, word: &str, config: &Config) -> Command {
    let secret =
        |secret: &Option<SecretString>| secret.as_ref().unwrap().expose_secret().to_owned();
    platen
        .arg(word)
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
    // Older versions do not know these.
    if config.api_memory != API_MEMORY {
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

/// A binary of this workspace, beside the test's own.
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
