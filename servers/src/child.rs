//! A child process that never outlives Platen.
//!
//! The kernel sends the server a signal when the server's parent dies (`prctl(PR_SET_PDEATHSIG)`), so it does not
//! matter what killed the parent. Four things are needed for this to be reliable:
//!
//! - The signal depends on the parent *thread*, not the parent process. So one thread starts every server, and this
//!   thread lives as long as Platen.
//! - `setpriv` sets the signal on the server itself, because `setpriv` replaces itself with the program that it runs.
//!   So do `env` and the shell. In the end the server is the process that we started.
//! - If the parent dies before `setpriv` has set the signal, nobody signals the child. So the shell, which runs after
//!   `setpriv`, compares its parent with the process id that it was given, and exits if they differ.
//! - A shell that starts Platen in the background makes Platen ignore `SIGINT` and `SIGQUIT`, and a server inherits
//!   this. So `env` resets all signals to their defaults.
//!
//! Each server has its own process group. So Ctrl-C in a terminal reaches only Platen, which finishes its work and then
//! stops the servers.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::process::CommandExt,
    process::{self, Command, ExitStatus, Stdio},
    sync::{
        LazyLock,
        mpsc::{self, Sender, SyncSender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

use crate::{
    home::Home,
    user::{NO_SETPRIV, setpriv_arguments},
};

/// Checks that the parent is still `$1`, then replaces the shell with the server.
const START_SCRIPT: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#;
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long a killed process may take until it is gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many times a dropped child is polled until it has ended. With [`POLL_INTERVAL`] this takes two seconds.
const DROP_POLLS: u32 = 200;

/// A running server, or a program that prepares one.
pub(crate) struct Child {
    process: process::Child,
    /// The signal that the child gets when this value is dropped.
    parent_death_signal: Signal,
}

/// The command that runs `program` in its home folder, as the user the folder belongs to. The program gets
/// `parent_death_signal` when this process dies.
///
/// Of our environment the program sees only the search path, because a server must not see our keys.
pub(crate) fn command(
    home: &Home,
    program: impl AsRef<OsStr>,
    parent_death_signal: Signal,
) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", parent_death_signal.as_str()])
        .args(home.user().map(setpriv_arguments).unwrap_or_default())
        .args(["env", "--default-signal", "sh", "-c", START_SCRIPT, "sh"])
        .arg(process::id().to_string())
        .arg(program)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .current_dir(home.path())
        .process_group(0)
        .stdin(Stdio::null());
    command
}

impl Child {
    /// Starts a command that [`command`] has made. The child also gets `parent_death_signal` when this value is
    /// dropped.
    pub(crate) fn spawn(command: Command, parent_death_signal: Signal) -> Result<Self> {
        let (reply, process) = mpsc::sync_channel(1);
        SPAWNER
            .send((command, reply))
            .ok()
            .and_then(|()| process.recv().ok())
            .context("the thread that starts the private servers has ended")?
            .map(|process| Self {
                process,
                parent_death_signal,
            })
            .context(NO_SETPRIV)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The pipe to the child's standard input, if the command asked for a pipe. It can be taken once.
    pub(crate) fn take_stdin(&mut self) -> Option<process::ChildStdin> {
        self.process.stdin.take()
    }

    /// The exit status. Returns `None` while the child runs.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Waits until the child has ended. Returns `None` if it still runs after `limit`.
    pub(crate) async fn wait_at_most(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends the signals one after the other, and waits after each signal for its given time, until the child has
    /// ended.
    pub(crate) async fn stop(mut self, steps: &[(Signal, Duration)]) {
        for &(signal, timeout) in steps {
            self.send_signal(signal);
            if self.wait_at_most(timeout).await.is_some() {
                return;
            }
            tracing::warn!(process.id = self.id(), %signal, "A private server did not end in time after this signal");
        }
    }

    /// Ends the child with `SIGKILL`, and waits up to [`KILL_TIMEOUT`] until it has ended.
    pub(crate) async fn kill(&mut self) {
        self.send_signal(Signal::SIGKILL);
        self.wait_at_most(KILL_TIMEOUT).await;
    }

    /// Sends a signal, unless the child has ended: by then its process id may belong to another process.
    fn send_signal(&mut self, signal: Signal) {
        if self.exit_status().is_none()
            && let Ok(id) = i32::try_from(self.id())
        {
            // Sending fails only if the child has ended already, which is the goal.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Child {
    /// Sends the signal that the kernel would send if this process died, and then waits for up to two seconds. This
    /// matters when a start fails halfway or a test panics, because the folder must not be removed while the server
    /// still uses it.
    fn drop(&mut self) {
        if self.exit_status().is_some() {
            return;
        }
        self.send_signal(self.parent_death_signal);
        for _ in 0..DROP_POLLS {
            if self.exit_status().is_some() {
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The command to start, and the channel to which the started process is sent.
type SpawnRequest = (Command, SyncSender<io::Result<process::Child>>);

/// Sends requests to the thread that starts every server. This sender is never dropped, so the thread lives as long as
/// the process.
static SPAWNER: LazyLock<Sender<SpawnRequest>> = LazyLock::new(|| {
    let (sender, requests) = mpsc::channel::<SpawnRequest>();
    thread::Builder::new()
        .name("private-servers".to_owned())
        .spawn(move || {
            for (mut command, reply) in requests {
                // Sending fails only if the caller no longer waits.
                let _ = reply.send(command.spawn());
            }
        })
        .expect("a thread can be started");
    sender
});
