//! The folder of a private server, and the user it runs as.
//!
//! Postgres refuses to run as root. So when Platen runs as root, both servers run as an unprivileged user, who must be
//! able to reach their folder. If that user cannot enter a parent of the data folder, the server's data go to
//! `/var/lib/platen`, and the data folder contains a link to them. If the data folder is removed or moved, the link is
//! removed or moved with it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};

use crate::{
    secrets,
    user::{NO_SETPRIV, server_user, setpriv_arguments},
};

/// The folder for the data if the servers' user cannot reach the data folder.
const FALLBACK_FOLDER: &str = "/var/lib/platen";
/// How many times a lock is tried. With [`LOCK_INTERVAL`] between two tries, this takes half a second.
const LOCK_TRIES: u32 = 20;
const LOCK_INTERVAL: Duration = Duration::from_millis(25);
/// How many lines of a log are quoted in an error.
const LOG_TAIL_LINES: usize = 15;

/// A folder that belongs to one server for as long as this value lives.
pub(crate) struct Home {
    path: PathBuf,
    /// The user that the server runs as; `None` for the user of this process.
    user: Option<User>,
    /// Keeps other processes from using the folder.
    _lock: File,
}

impl Home {
    /// Locks the folder for a server, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// Returns an error if another Platen uses the folder, or if the folder cannot be created or written.
    pub(crate) async fn claim(folder: &Path) -> Result<Self> {
        create(folder)?;
        let folder = folder.canonicalize()?;
        let lock = lock(&folder.join("lock"), &folder).await?;
        let user = server_user()?;
        let path = match &user {
            Some(user) => usable_folder(&folder, user)?,
            None => folder,
        };
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        Ok(Self {
            path,
            user,
            _lock: lock,
        })
    }

    /// The folder that the server uses: the claimed folder, or the folder that replaces it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The user that the server runs as. `None` means the user of this process.
    pub(crate) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// A random password. It is created once and stored in the file `name` of this folder, which the server can read.
    pub(crate) fn password(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        let other_owners: Vec<Uid> = self.user.iter().map(|user| user.uid).collect();
        let password = secrets::read_or_create(&path, &other_owners)?;
        if let Some(user) = &self.user {
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(password)
    }

    /// Creates a new, empty log. The log of the last run is kept beside it, with `.1` after its name.
    pub(crate) fn log(&self, name: &str) -> Result<Log> {
        let path = self.path.join(name);
        if path.exists() {
            fs::rename(&path, path.with_added_extension("1"))?;
        }
        Ok(Log {
            file: self.create_file(&path)?,
            path,
        })
    }

    /// Creates an empty file that belongs to the server's user.
    fn create_file(&self, path: &Path) -> Result<File> {
        let file = secrets::create(path)?;
        if let Some(user) = &self.user {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(file)
    }
}

/// The log file of a server.
pub(crate) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Redirects the standard output and standard error of a command into this log.
    pub(crate) fn capture(&self, command: &mut Command) -> Result<()> {
        command
            .stdout(self.file.try_clone()?)
            .stderr(self.file.try_clone()?);
        Ok(())
    }

    /// The whole log, or the reason why it cannot be read.
    pub(crate) fn text(&self) -> String {
        fs::read(&self.path).map_or_else(
            |error| error.to_string(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last lines, for an error message.
    pub(crate) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n  ");
        format!("the last lines of {}:\n  {last}", self.path.display())
    }
}

/// Creates a folder and its parents. The error names the folder.
pub(crate) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Locks `file` until the returned value is dropped, and empties it. `folder` is named in the errors.
///
/// # Errors
///
/// Returns an error if another process holds the lock, or if the file cannot be opened.
pub(crate) async fn lock(file: &Path, folder: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let lock = secrets::open(file, &mut options, &[])
        .with_context(|| format!("cannot write in the folder {}", folder.display()))?;
    // A process that only checks whether the file is locked holds the lock for a moment. So the lock is tried again.
    for _ in 0..LOCK_TRIES {
        if lock.try_lock().is_ok() {
            lock.set_len(0)?;
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
    bail!(
        "the folder {} is in use by another Platen: stop that one, or give this one a folder of its own",
        folder.display()
    )
}

/// Lets the servers' user pass through the data folder to the folders of the servers. This adds only the right to pass: the
/// folder gets the user's group, so the user can list the folder only if its mode already lets the group do so.
pub(crate) fn allow_servers_through(data: &Path) -> Result<()> {
    let Some(user) = server_user()? else {
        return Ok(());
    };
    let mode = fs::metadata(data)?.permissions().mode();
    // Without the right to pass for everybody, the user's group gets it.
    if mode & 0o001 == 0 {
        chown(data, None, Some(user.gid.as_raw()))?;
        fs::set_permissions(data, Permissions::from_mode(mode | 0o010))?;
    }
    Ok(())
}

/// Finds the folder to use: the folder itself if `user` can work in it, or else a folder in [`FALLBACK_FOLDER`] that
/// replaces it. The link `elsewhere` in the folder leads to the replacement. Gives the folder that is used to `user`.
fn usable_folder(folder: &Path, user: &User) -> Result<PathBuf> {
    let link = folder.join("elsewhere");
    // An earlier start has chosen the replacement.
    if let Ok(elsewhere) = fs::read_link(&link) {
        warn_of_fallback(folder, user, &elsewhere);
        DirBuilder::new().recursive(true).create(&elsewhere)?;
        change_owner(&elsewhere, user)?;
        return Ok(elsewhere);
    }

    change_owner(folder, user)?;
    if can_work_in(folder, user)? {
        return Ok(folder.to_owned());
    }

    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let elsewhere = Path::new(FALLBACK_FOLDER)
        .join(format!("{name}-{}", hex::encode(rand::random::<[u8; 6]>())));
    warn_of_fallback(folder, user, &elsewhere);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(FALLBACK_FOLDER)
        .with_context(|| format!("cannot make {FALLBACK_FOLDER}"))?;
    DirBuilder::new().mode(0o700).create(&elsewhere)?;
    change_owner(&elsewhere, user)?;
    // The link is created last. A link without its folder would break the next start, but a folder without a link is
    // only unused.
    symlink(&elsewhere, &link)?;
    Ok(elsewhere)
}

fn warn_of_fallback(folder: &Path, user: &User, elsewhere: &Path) {
    tracing::warn!(
        "The user {} cannot reach {}, so the data are in {}",
        user.name,
        folder.display(),
        elsewhere.display()
    );
}

/// Gives a folder to `user`, if it belongs to somebody else.
fn change_owner(folder: &Path, user: &User) -> Result<()> {
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

/// Whether `user` can enter a folder and write there. This is tried as that user and not computed from permissions,
/// because every parent folder and every access rule of the system counts.
fn can_work_in(folder: &Path, user: &User) -> Result<bool> {
    let status = Command::new("setpriv")
        .args(setpriv_arguments(user))
        .args(["sh", "-c", r#"cd "$0" && [ -w . ]"#])
        .arg(folder)
        .current_dir("/")
        .stdin(process::Stdio::null())
        .stdout(process::Stdio::null())
        .stderr(process::Stdio::null())
        .status()
        .context(NO_SETPRIV)?;
    Ok(status.success())
}
