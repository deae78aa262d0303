//! How many files the system lets us have open: a connection is one of them.

use common::config::Ports;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are open beside the connections of clients: those to Postgres, Redis, the bucket and providers, and files of the bucket.
const OTHERS: u64 = 256;
/// Fewer connections than these are not worth a start.
const LEAST: usize = 16;

/// Raises the limit of open files to what the system allows, or to `PLATEN_OPEN_FILES`, and says what is to be taken of the ports then:
/// fewer connections where there would not be files for all.
///
/// # Errors
///
/// The system allows too few files for any work.
pub fn raise(ports: Ports) -> anyhow::Result<Ports> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = ports.open_files.map_or(hard, |wanted| wanted.min(hard));
    setrlimit(Resource::RLIMIT_NOFILE, files, hard)?;
    if let Some(wanted) = ports.open_files.filter(|wanted| *wanted > hard) {
        tracing::warn!(
            "PLATEN_OPEN_FILES asks for {wanted} open files, and the system allows {hard}: raise its hard limit (ulimit -Hn, LimitNOFILE)"
        );
    }
    fitting(ports, files)
}

fn fitting(ports: Ports, files: u64) -> anyhow::Result<Ports> {
    let others = OTHERS + u64::try_from(ports.metrics)?;
    let room = usize::try_from(files.saturating_sub(others)).unwrap_or(usize::MAX);
    if room >= ports.connections {
        return Ok(ports);
    }
    let needed = others + u64::try_from(ports.connections)?;
    anyhow::ensure!(
        room >= LEAST,
        "the system allows {files} open files, and {needed} are needed for PLATEN_CONNECTIONS={}: raise the limit (ulimit -n, LimitNOFILE, PLATEN_OPEN_FILES) or lower PLATEN_CONNECTIONS to have {} at least",
        ports.connections,
        others + LEAST as u64
    );
    tracing::warn!(
        "The system allows {files} open files, and {needed} are needed for PLATEN_CONNECTIONS={}: at most {room} connections are taken. Raise the limit (ulimit -n, LimitNOFILE, PLATEN_OPEN_FILES) or lower PLATEN_CONNECTIONS",
        ports.connections
    );
    Ok(Ports {
        connections: room,
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
    fn connections_are_as_many_as_there_are_files_for() {
        let connections = |files| fitting(ports(), files).map(|ports| ports.connections);
        assert_eq!(connections(1_320).unwrap(), 1_000);
        assert_eq!(connections(1_024).unwrap(), 704);
        let error = connections(300).unwrap_err().to_string();
        assert!(error.contains("PLATEN_CONNECTIONS=1000"), "{error}");
    }
}
