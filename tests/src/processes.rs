//! The product's processes by themselves, for tests that kill them.

use std::path::PathBuf;
use std::process::Stdio;

use common::config::Config;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, Command};

/// Starts `platen worker` on what the configuration names. It has no fake of its own: the catalogue names where its
/// providers are. Dropping it kills it.
pub fn worker(config: &Config, more: &[(&str, &str)]) -> Child {
    command("worker", config)
        .envs(more.iter().copied())
        .spawn()
        .unwrap()
}

/// The command that runs `platen api` or `platen worker` on what the configuration names, and on nothing else.
pub fn command(word: &str, config: &Config) -> Command {
    let secret =
        |secret: &Option<SecretString>| secret.as_ref().unwrap().expose_secret().to_owned();
    let mut command = Command::new(binary("platen"));
    command
        .arg(word)
        .env_clear()
        .env("DATABASE_URL", secret(&config.database_url))
        .env("REDIS_URL", secret(&config.redis_url))
        .env("PLATEN_SIGNING_KEY", secret(&config.signing_key))
        .env("PLATEN_QUEUE", &config.queue)
        .env("PLATEN_BUCKET", config.bucket())
        .env("PLATEN_MODELS", config.models.as_ref().unwrap())
        .env("PLATEN_LISTEN", config.listen.to_string())
        .env("PLATEN_METRICS_LISTEN", config.metrics_listen.to_string())
        .env("PLATEN_SLOTS", config.slots.to_string())
        .env(
            "PLATEN_LEASE_SECONDS",
            config.timing.lease.as_secs().to_string(),
        )
        .env("PLATEN_LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A binary of this workspace, beside the test's own.
fn binary(name: &str) -> PathBuf {
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
