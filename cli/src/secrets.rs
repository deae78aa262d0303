//! Small files only their owner may read: never through a link, and never another's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::OFlag;
use nix::unistd::Uid;

/// A new file with mode 0600, in place of what was there.
pub(crate) fn create(path: &Path) -> anyhow::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    open(path, OpenOptions::new().write(true).create_new(true), &[])
}

/// Opens a file with mode 0600 that is ours, and follows no link: whoever may write to the folder could otherwise have a secret written
/// to, or read from, a place of their own. `others` may own it, too.
pub(crate) fn open(path: &Path, how: &mut OpenOptions, others: &[Uid]) -> anyhow::Result<File> {
    let opened = how
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    let file = match opened {
        Err(_) if is_link(path) => bail!(
            "{} is a link, and secrets are neither written nor read through one: remove it",
            path.display()
        ),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let found = file.metadata()?;
    let ours = Uid::effective().as_raw() == found.uid()
        || others.iter().any(|other| other.as_raw() == found.uid());
    if !found.is_file() || !ours {
        bail!(
            "{} is not a file of the user that runs Platen: remove it, or have its owner run Platen",
            path.display()
        );
    }
    if found.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// Writes a whole file with mode 0600: who reads it meanwhile finds the old one or the new one.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if is_link(path) {
        bail!(
            "{} is a link, and secrets are written through none: remove it",
            path.display()
        );
    }
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

/// 256 random bits that need no quoting anywhere: not in a URL, not in SQL, not in a configuration file.
pub(crate) fn random() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// The secret a file of ours, or of one of `others`, holds; `None` when there is none yet.
pub(crate) fn kept(path: &Path, others: &[Uid]) -> anyhow::Result<Option<String>> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let mut kept = String::new();
    open(path, OpenOptions::new().read(true), others)?
        .read_to_string(&mut kept)
        .with_context(|| format!("cannot read {}", path.display()))?;
    // Empty: the last one who made it was killed before a word was written.
    Ok((!kept.is_empty()).then_some(kept))
}

/// The secret a file holds, made when there is none yet.
pub(crate) fn kept_or_made(path: &Path, others: &[Uid]) -> anyhow::Result<String> {
    if let Some(kept) = kept(path, others)? {
        return Ok(kept);
    }
    let made = random();
    write(path, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let made = kept_or_made(&path, &[]).unwrap();
        assert_eq!(kept_or_made(&path, &[]).unwrap(), made);
        assert_eq!((made.len(), mode(&path)), (64, 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        kept_or_made(&path, &[]).unwrap();
        assert_eq!(mode(&path), 0o600);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn no_secret_goes_through_a_link() {
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
                kept_or_made(&path, &[]).unwrap_err(),
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
    fn no_secret_is_taken_from_what_is_not_a_file_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = kept_or_made(&path, &[]).unwrap_err().to_string();
        assert!(refused.contains("not a file of the user"), "{refused}");
        fs::remove_file(&path).unwrap();
        if Uid::effective().is_root() {
            fs::write(&path, "theirs").unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let refused = kept_or_made(&path, &[]).unwrap_err().to_string();
            assert!(refused.contains("not a file of the user"), "{refused}");
            assert_eq!(
                kept_or_made(&path, &[Uid::from_raw(65_534)]).unwrap(),
                "theirs"
            );
        }
    }
}
