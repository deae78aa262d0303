//! The signals that stop a process, and its end.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal: the code with which a shell reports a process that SIGINT has ended.
const INTERRUPTED_EXIT_CODE: i32 = 128 + 2;

/// How long threads that still run may take to end after everything else has ended. A thread that reads from a disk that hangs may
/// never end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The two signals that ask for a stop.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Waits for the next of the two signals.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ends the process at once. Private servers end with it.
#[expect(clippy::exit, reason = "a second signal asks for it")]
fn end_now() -> ! {
    std::process::exit(INTERRUPTED_EXIT_CODE)
}

/// Returns a token that is canceled by Ctrl-C or SIGTERM. A second signal ends the process at once.
///
/// A separate thread waits for the signals, because the second signal must work even if the rest of the process hangs or is about
/// to end.
///
/// # Errors
///
/// Returns an error if the thread or the signal handlers cannot be created.
pub fn stop_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        }
    };
    let wait = async move {
        signals.next().await;
        tracing::info!(
            "Stopping: no new work is taken, running work is finished. Send the signal again to stop at once"
        );
        stopping.cancel();
        signals.next().await;
        tracing::warn!(
            "Stopping at once. Another worker takes over the running jobs when their leases end"
        );
        end_now();
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(wait))?;
    Ok(stop)
}

/// Runs `program` to its end, and returns its result. A thread that is still blocked three seconds later is abandoned.
///
/// # Errors
///
/// Returns an error if the runtime cannot be created.
pub fn run_to_end<T>(program: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(program);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_thread_that_hangs_does_not_delay_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let (opened, opens) = std::sync::mpsc::channel();
        let began = Instant::now();
        let opening = pipe.clone();
        let program = async move {
            tokio::task::spawn_blocking(move || {
                opened.send(()).unwrap();
                std::fs::read(opening)
            });
            opens.recv().unwrap();
        };
        run_to_end(program).unwrap();
        assert!(
            began.elapsed() < SHUTDOWN_TIMEOUT * 3,
            "{:?}",
            began.elapsed()
        );
        // Opens the other end of the pipe, so that the thread ends with the test.
        drop(
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(pipe),
        );
    }
}
