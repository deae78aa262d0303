//! The folder a private server lives in, and the user it runs as.
//!
//! Postgres refuses to run as root, so under root both servers run as an unprivileged user, who must be able to reach
//! their folder. Below a closed home directory that cannot be: the server then lives in `/var/lib/platen`, and the
//! folder it was meant for keeps a link there. Removing the data folder thus forgets the server's data as well, and
//! moving it takes them along.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};

use super::child::become_user;
use crate::secrets;

/// Where the servers of unreachable folders live.
const FALLBACK_FOLDER: &str = "/var/lib/platen";

/// A folder that one server has to itself for as long as this value lives.
pub(super) struct Home {
    path: PathBuf,
    user: Option<User>,
    _lock: File,
}

impl Home {
    /// Takes the folder for a server, making it if need be; fails if another Platen has it.
    pub(super) async fn claim(folder: &Path) -> Result<Self> {
        create(folder)?;
        let folder = folder.canonicalize()?;
        let lock = lock(&folder.join("lock"), &folder).await?;
        let user = server_user()?;
        let path = match &user {
            Some(user) => reachable(&folder, user)?,
            None => folder,
        };
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        Ok(Self {
            path,
            user,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The user to run as, where it is not our own.
    pub(super) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// A random password that is made once and kept in a file of the home, where the server can read it.
    pub(super) fn password(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        let others: Vec<Uid> = self.user.iter().map(|user| user.uid).collect();
        let kept = secrets::kept_or_made(&path, &others)?;
        if let Some(user) = &self.user {
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(kept)
    }

    /// A fresh log; what the server said last time stays beside it as `.1`.
    pub(super) fn log(&self, name: &str) -> Result<Log> {
        let path = self.path.join(name);
        if path.exists() {
            fs::rename(&path, path.with_added_extension("1"))?;
        }
        Ok(Log {
            file: self.file(&path)?,
            path,
        })
    }

    fn file(&self, path: &Path) -> Result<File> {
        let file = secrets::create(path)?;
        if let Some(user) = &self.user {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(file)
    }
}

/// What a server says while it runs.
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Lets a command write its output and its errors here.
    pub(super) fn take(&self, command: &mut Command) -> Result<()> {
        command
            .stdout(self.file.try_clone()?)
            .stderr(self.file.try_clone()?);
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        fs::read(&self.path).map_or_else(
            |error| error.to_string(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last lines, for an error that a person will read.
    pub(super) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n  ");
        format!("the last lines of {}:\n  {last}", self.path.display())
    }
}

/// Makes a folder and those above it, with words for the error.
pub(super) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Locks `file` for the life of this process, and empties it. `folder` is what a person would call the thing locked.
pub(super) async fn lock(file: &Path, folder: &Path) -> Result<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).create(true).truncate(false);
    let lock = secrets::open(file, &mut how, &[])
        .with_context(|| format!("cannot write in the folder {}", folder.display()))?;
    // Somebody who only asks whether it is locked holds it for a moment.
    for _ in 0..20 {
        if lock.try_lock().is_ok() {
            lock.set_len(0)?;
            return Ok(lock);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    bail!(
        "the folder {} is in use by another Platen: stop that one, or give this one a folder of its own",
        folder.display()
    )
}

/// Lets the servers' user pass through the data folder to the folders of the servers, without letting him look round.
pub(super) fn let_servers_through(data: &Path) -> Result<()> {
    let Some(user) = server_user()? else {
        return Ok(());
    };
    let mode = fs::metadata(data)?.permissions().mode();
    if mode & 0o001 == 0 {
        chown(data, None, Some(user.gid.as_raw()))?;
        fs::set_permissions(data, Permissions::from_mode(mode | 0o010))?;
    }
    Ok(())
}

/// The unprivileged user that runs the servers when we are root.
fn server_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!(
        "Postgres refuses to run as root, and this system has neither a user `postgres` nor `nobody`"
    )
}

/// The folder itself where `user` can work in it, or else the one in [`ELSEWHERE`] that stands for it.
fn reachable(folder: &Path, user: &User) -> Result<PathBuf> {
    let link = folder.join("elsewhere");
    if let Ok(elsewhere) = fs::read_link(&link) {
        warn_of(folder, user, &elsewhere);
        DirBuilder::new().recursive(true).create(&elsewhere)?;
        give(&elsewhere, user)?;
        return Ok(elsewhere);
    }

    give(folder, user)?;
    if can_work_in(folder, user)? {
        return Ok(folder.to_owned());
    }

    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let elsewhere = Path::new(FALLBACK_FOLDER)
        .join(format!("{name}-{}", hex::encode(rand::random::<[u8; 6]>())));
    warn_of(folder, user, &elsewhere);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(FALLBACK_FOLDER)
        .with_context(|| format!("cannot make {FALLBACK_FOLDER}"))?;
    DirBuilder::new().mode(0o700).create(&elsewhere)?;
    give(&elsewhere, user)?;
    // The link comes last: a link to nothing would be followed, a folder without a link is only forgotten.
    symlink(&elsewhere, &link)?;
    Ok(elsewhere)
}

fn warn_of(folder: &Path, user: &User, elsewhere: &Path) {
    tracing::warn!(
        "The user {} cannot reach {}, so the data are in {}",
        user.name,
        folder.display(),
        elsewhere.display()
    );
}

fn give(folder: &Path, user: &User) -> Result<()> {
    if fs::metadata(folder)?.uid() != user.uid.as_raw() {
        chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).with_context(|| {
            format!(
                "cannot give the folder {} to the user {}",
                folder.display(),
                user.name
            )
        })?;
    }
    Ok(())
}

/// Asks the system rather than reading permissions: it knows about every folder on the way, and every rule.
fn can_work_in(folder: &Path, user: &User) -> Result<bool> {
    let status = Command::new("setpriv")
        .args(become_user(user))
        .args(["sh", "-c", r#"cd "$0" && [ -w . ]"#])
        .arg(folder)
        .current_dir("/")
        .stdin(process::Stdio::null())
        .stdout(process::Stdio::null())
        .stderr(process::Stdio::null())
        .status()
        .context(
            "`setpriv` does not run; it comes with the package util-linux, and only Linux has it",
        )?;
    Ok(status.success())
}
