//! A child process that never outlives Platen.
//!
//! The kernel itself sends the server a signal when its parent dies (`prctl(PR_SET_PDEATHSIG)`), so it does not matter
//! what killed the parent. Four things make that sure:
//!
//! - The kernel means the parent *thread*. One thread, the keeper, starts every server and lives as long as Platen.
//! - `setpriv` sets the signal on the server itself: it replaces itself with what it runs, and so do the shell and
//!   `env`, until the server is the process we started.
//! - A parent that dies before `setpriv` gets that far leaves a child that nobody will signal. The shell, which begins
//!   after it, compares its parent with the one it was told, and ends where they differ.
//! - Whoever starts Platen in the background may have told it to ignore `SIGINT` and `SIGQUIT` (shells do), and a
//!   server inherits that until it says otherwise. So `env` takes it back before the shell looks.
//!
//! Servers stand in process groups of their own: Ctrl-C in a terminal reaches Platen, which drains and then stops them.

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
    unistd::{Pid, User},
};
use tokio::time::Instant;

use super::home::Home;

const START_SCRIPT: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#;
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running server, or a program that prepares one.
pub(super) struct Child {
    process: process::Child,
    at_parents_death: Signal,
}

/// The command that runs `program` in its home, as the user the home belongs to, and ends it with its parent.
///
/// Of our environment it sees the search path only: a server has no business with our keys.
pub(super) fn command(
    home: &Home,
    program: impl AsRef<OsStr>,
    at_parents_death: Signal,
) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", at_parents_death.as_str()])
        .args(home.user().map(become_user).unwrap_or_default())
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

/// What makes `setpriv` go on as another user.
pub(super) fn become_user(user: &User) -> Vec<String> {
    vec![
        format!("--reuid={}", user.uid),
        format!("--regid={}", user.gid),
        "--init-groups".to_owned(),
    ]
}

impl Child {
    /// Starts a [`command`]; `at_parents_death` is also how the child ends when it is dropped.
    pub(super) fn spawn(command: Command, at_parents_death: Signal) -> Result<Self> {
        let (reply, process) = mpsc::sync_channel(1);
        SPAWNER
            .send((command, reply))
            .ok()
            .and_then(|()| process.recv().ok())
            .context("the thread that keeps the private servers is gone")?
            .map(|process| Self {
                process,
                at_parents_death,
            })
            .context("`setpriv` does not run; it comes with the package util-linux, and only Linux has it")
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Our end of a pipe to its standard input, where the command asked for one.
    pub(super) fn take_stdin(&mut self) -> Option<process::ChildStdin> {
        self.process.stdin.take()
    }

    /// How it ended, once it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Waits for its end, but no longer than `limit`.
    pub(super) async fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Asks it to end, ever less politely.
    pub(super) async fn stop(mut self, steps: &[(Signal, Duration)]) {
        for &(signal, patience) in steps {
            self.signal(signal);
            if self.end_within(patience).await.is_some() {
                return;
            }
            tracing::warn!(process.id = self.id(), %signal, "A private server did not stop when asked");
        }
    }

    /// Ends it without asking, and returns when it is gone.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.end_within(Duration::from_secs(5)).await;
    }

    fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.id()) {
            // It fails only for a child that has ended already, which is what we want.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Child {
    /// A start that failed half-way, or a test that panicked: what the kernel would do if we died, and a short wait,
    /// so that nobody removes the folder under a server's feet.
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(self.at_parents_death);
        for _ in 0..200 {
            if self.ended().is_some() {
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

type Order = (Command, SyncSender<io::Result<process::Child>>);

/// The thread every server is started from. It ends when the process does, and not before: this sender stays.
static SPAWNER: LazyLock<Sender<Order>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::Builder::new()
        .name("private-servers".to_owned())
        .spawn(move || {
            for (mut command, reply) in orders {
                // Whoever ordered it may have given up; dropping the reply then is all there is to do.
                let _ = reply.send(command.spawn());
            }
        })
        .expect("a thread can be started");
    sender
});
