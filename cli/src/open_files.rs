//! The limit of open files of this process. Every connection counts as an open file.

use common::config::Ports;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many files may be open in addition to the connections of clients: connections to Postgres, Redis, the bucket and providers,
/// and files of the bucket.
const RESERVED_FILES: u64 = 256;
/// If the files are not enough for all client connections that are configured, they must be enough for this many. Otherwise the
/// process does not start.
const MIN_CONNECTIONS: usize = 16;

/// Sets the limit of open files to `PLATEN_OPEN_FILES`, or else to what the system allows. Returns `ports`, with a smaller number of
/// connections if the files are not enough for all of them.
///
/// # Errors
///
/// Returns an error if the files are enough neither for all connections of `ports` nor for 16, or if the limit cannot be read or set.
pub fn raise_limit(ports: Ports) -> anyhow::Result<Ports> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = ports.open_files.map_or(hard, |wanted| wanted.min(hard));
    setrlimit(Resource::RLIMIT_NOFILE, files, hard)?;
    if let Some(wanted) = ports.open_files.filter(|wanted| *wanted > hard) {
        tracing::warn!(
            "PLATEN_OPEN_FILES asks for {wanted} open files, and the system allows {hard}: raise its hard limit (ulimit -Hn, LimitNOFILE)"
        );
    }
    fit(ports, files)
}

/// Lowers the number of client connections if not all of them fit into `files` open files.
fn fit(ports: Ports, files: u64) -> anyhow::Result<Ports> {
    let reserved = RESERVED_FILES + u64::try_from(ports.metrics)?;
    let available = usize::try_from(files.saturating_sub(reserved)).unwrap_or(usize::MAX);
    if available >= ports.connections {
        return Ok(ports);
    }
    let needed = reserved + u64::try_from(ports.connections)?;
    anyhow::ensure!(
        available >= MIN_CONNECTIONS,
        "this process may open {files} files, and {needed} are needed for PLATEN_CONNECTIONS={}: raise the limit (ulimit -n, LimitNOFILE, PLATEN_OPEN_FILES) to {} at least, or lower PLATEN_CONNECTIONS",
        ports.connections,
        reserved + MIN_CONNECTIONS as u64
    );
    tracing::warn!(
        "This process may open {files} files, and {needed} are needed for PLATEN_CONNECTIONS={}: at most {available} connections are taken. Raise the limit (ulimit -n, LimitNOFILE, PLATEN_OPEN_FILES) or lower PLATEN_CONNECTIONS",
        ports.connections
    );
    Ok(Ports {
        connections: available,
        ..ports
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        Ports {
            connections: 1_000,
            metrics: 64,
            ..Ports::default()
        }
    }

    #[test]
    fn connections_are_limited_by_the_open_files() {
        let connections = |files| fit(ports(), files).map(|ports| ports.connections);
        assert_eq!(connections(1_320).unwrap(), 1_000);
        assert_eq!(connections(1_024).unwrap(), 704);
        let error = connections(300).unwrap_err().to_string();
        assert!(error.contains("PLATEN_CONNECTIONS=1000"), "{error}");
    }
}
