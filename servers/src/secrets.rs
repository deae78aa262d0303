//! Small files that only their owner may read. They are never written or read through a symbolic link, and a file of
//! another user is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::OFlag;
use nix::unistd::Uid;

/// Creates a file with mode 0600. A file that exists is removed first.
///
/// # Errors
///
/// Returns an error if the old file cannot be removed, or if the new file cannot be created.
pub fn create(path: &Path) -> anyhow::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    open(path, OpenOptions::new().write(true).create_new(true), &[])
}

/// Opens a file that belongs to this user or to one of `other_owners`, and sets its mode to 0600.
///
/// This function follows no symbolic link. Otherwise another user who may write to the folder could make Platen write a
/// secret to a place of their choice, or read a secret from there.
///
/// # Errors
///
/// Returns an error if the path is a link, is not a regular file or belongs to another user, or if the file cannot be
/// opened.
pub(crate) fn open(
    path: &Path,
    options: &mut OpenOptions,
    other_owners: &[Uid],
) -> anyhow::Result<File> {
    // `O_NONBLOCK`: to open a named pipe would otherwise wait for its other end. A pipe is refused below.
    let opened = options
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    let file = match opened {
        Err(_) if is_link(path) => bail!(
            "{} is a link, and secrets are neither written nor read through links: remove it",
            path.display()
        ),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let metadata = file.metadata()?;
    let is_ours = Uid::effective().as_raw() == metadata.uid()
        || other_owners
            .iter()
            .any(|owner| owner.as_raw() == metadata.uid());
    if !metadata.is_file() || !is_ours {
        bail!(
            "{} is not a file of the user that runs Platen: remove it, or have its owner run Platen",
            path.display()
        );
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Writes a file with mode 0600, atomically: another process reads either all of the old text or all of the new text.
///
/// # Errors
///
/// Returns an error if the path is a link, or if the file cannot be written.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if is_link(path) {
        bail!(
            "{} is a link, and secrets are not written through links: remove it",
            path.display()
        );
    }
    // The new text is written to a second file, which then takes the place of the first.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let mut file = create(&partial)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A secret of 256 random bits. It is written in hexadecimal, so it needs no quoting in a URL, in SQL or in a
/// configuration file.
pub(crate) fn random() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// Reads the secret in a file that belongs to this user or to one of `other_owners`. Returns `None` if there is no
/// secret yet.
///
/// # Errors
///
/// Returns an error if the path is a link, is not a regular file or belongs to another user, or if the file cannot be
/// read.
pub fn read(path: &Path, other_owners: &[Uid]) -> anyhow::Result<Option<String>> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let mut secret = String::new();
    open(path, OpenOptions::new().read(true), other_owners)?
        .read_to_string(&mut secret)
        .with_context(|| format!("cannot read {}", path.display()))?;
    // A file is empty if a process was killed before it wrote the secret.
    Ok((!secret.is_empty()).then_some(secret))
}

/// Reads the secret in a file. If there is no secret yet, creates a random one and writes it.
///
/// # Errors
///
/// Returns an error if the path is a link, is not a regular file or belongs to another user, or if the file cannot be
/// read or written.
pub fn read_or_create(path: &Path, other_owners: &[Uid]) -> anyhow::Result<String> {
    if let Some(secret) = read(path, other_owners)? {
        return Ok(secret);
    }
    let secret = random();
    write(path, &secret)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_created_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let secret = read_or_create(&path, &[]).unwrap();
        assert_eq!(read_or_create(&path, &[]).unwrap(), secret);
        assert_eq!((secret.len(), mode(&path)), (64, 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        read_or_create(&path, &[]).unwrap();
        assert_eq!(mode(&path), 0o600);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn no_secret_is_written_or_read_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (
            folder.path().join("signing.key"),
            folder.path().join("target"),
        );
        for content in [None, Some(""), Some("theirs")] {
            if let Some(content) = content {
                fs::write(&target, content).unwrap();
            }
            symlink(&target, &path).unwrap();
            for refused in [
                read_or_create(&path, &[]).unwrap_err(),
                write(&path, "a secret").unwrap_err(),
                open(&path, OpenOptions::new().write(true).create(true), &[]).unwrap_err(),
            ] {
                assert!(refused.to_string().contains("is a link"), "{refused}");
            }
            assert_eq!(fs::read_to_string(&target).ok().as_deref(), content);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_pipe_and_a_file_of_another_user_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = read_or_create(&path, &[]).unwrap_err().to_string();
        assert!(refused.contains("not a file of the user"), "{refused}");
        fs::remove_file(&path).unwrap();
        if Uid::effective().is_root() {
            fs::write(&path, "theirs").unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let refused = read_or_create(&path, &[]).unwrap_err().to_string();
            assert!(refused.contains("not a file of the user"), "{refused}");
            assert_eq!(
                read_or_create(&path, &[Uid::from_raw(65_534)]).unwrap(),
                "theirs"
            );
        }
    }
}
