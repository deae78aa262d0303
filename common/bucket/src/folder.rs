//! A bucket that is a folder of this machine. Only plain files in plain folders are objects: a symbolic link would lead out of the
//! bucket, and a pipe, a socket or a device may never answer. Neither is followed, opened or removed; both are listed as what they
//! are, for people.

use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path as Key;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use super::{BucketError, FileKind, Listed};

/// Objects that are listed ahead of whoever reads the list.
const WALK_BUFFER: usize = 256;
/// Entries that [`survey`] looks at.
const MAX_SURVEYED_FILES: usize = 100_000;
/// What group and others may do; a file of ours grants none of it.
const OTHERS_MODE_BITS: u32 = 0o077;

/// Where the files are.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// What [`survey`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Files and folders looked at, and whether there are more.
    pub seen: usize,
    pub is_whole: bool,
    /// How many of them others than their owner may read or write, and one of these.
    pub open_to_others: usize,
    pub one_of_these: Option<PathBuf>,
    /// Symbolic links and special files, which are no objects, and one of these.
    pub irregular: usize,
    pub an_irregular: Option<PathBuf>,
}

impl Folder {
    pub(super) fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Lets a key pass on whose way there are only plain folders, and at whose end a plain file or nothing.
    ///
    /// # Errors
    ///
    /// Something else is on its way, or the folder of the bucket is gone: it is not made anew.
    pub(super) async fn admit(&self, key: &Key) -> Result<(), BucketError> {
        let (root, key) = (self.0.clone(), key.clone());
        let admitted = tokio::task::spawn_blocking(move || admit(&root, &key));
        admitted
            .await
            .unwrap_or_else(|error| Err(self.problem(io::Error::other(error))))
    }

    /// Every file, in no order, and what else lies between them.
    pub(super) fn list(&self) -> BoxStream<'static, Result<Listed, BucketError>> {
        let (sender, receiver) = mpsc::channel(WALK_BUFFER);
        let root = self.0.clone();
        tokio::task::spawn_blocking(move || {
            for listed in walk(&root) {
                // Nobody reads on.
                if sender.blocking_send(listed).is_err() {
                    return;
                }
            }
        });
        let next = async |mut receiver: mpsc::Receiver<_>| {
            receiver.recv().await.map(|listed| (listed, receiver))
        };
        stream::unfold(receiver, next).boxed()
    }

    fn problem(&self, error: io::Error) -> BucketError {
        BucketError::Folder(self.0.display().to_string(), error)
    }
}

fn admit(root: &Path, key: &Key) -> Result<(), BucketError> {
    let of_root = |error| BucketError::Folder(root.display().to_string(), error);
    // The folder itself may be a link: whoever configured it meant where it leads.
    if !fs::metadata(root).map_err(of_root)?.is_dir() {
        return Err(of_root(io::ErrorKind::NotADirectory.into()));
    }
    let mut path = root.to_owned();
    for part in key.parts() {
        path.push(part.as_ref());
        let kind = match fs::symlink_metadata(&path) {
            Ok(found) => found.file_type(),
            // Nothing is there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A file is where a folder should be; the store says so.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            Err(error) => return Err(BucketError::Folder(path.display().to_string(), error)),
        };
        if let Some(kind) = irregular(kind) {
            return Err(BucketError::Irregular {
                key: key.to_string(),
                path: path.display().to_string(),
                kind,
            });
        }
    }
    Ok(())
}

/// Whether it is neither a plain file nor a folder.
fn irregular(kind: FileType) -> Option<FileKind> {
    if kind.is_symlink() {
        Some(FileKind::SymbolicLink)
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    {
        Some(FileKind::Special)
    } else {
        None
    }
}

fn walk(root: &Path) -> impl Iterator<Item = Result<Listed, BucketError>> {
    let entries = WalkDir::new(root).follow_links(false).min_depth(1);
    entries.into_iter().filter_map(move |entry| match entry {
        Ok(entry) => listed(root, &entry).transpose(),
        Err(error) => gone_or(root, error),
    })
}

/// Files come and go while they are listed.
fn gone_or<T>(root: &Path, error: walkdir::Error) -> Option<Result<T, BucketError>> {
    let path = error.path().unwrap_or(root).to_owned();
    // Links are not followed, so there are no loops, and the error is one of the system's.
    let error = error
        .into_io_error()
        .unwrap_or_else(|| io::Error::other("it cannot be listed"));
    let is_gone = error.kind() == io::ErrorKind::NotFound && path != root;
    (!is_gone).then(|| Err(BucketError::Folder(path.display().to_string(), error)))
}

fn listed(root: &Path, entry: &DirEntry) -> Result<Option<Listed>, BucketError> {
    let kind = entry.file_type();
    if kind.is_dir() || is_unfinished(entry) {
        return Ok(None);
    }
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return gone_or(root, error).transpose(),
    };
    let path = entry
        .path()
        .strip_prefix(root)
        .unwrap_or_else(|_| entry.path());
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Some(Listed {
        key: path.to_string_lossy().into_owned(),
        bytes: metadata.len(),
        modified: OffsetDateTime::from(modified),
        kind: irregular(kind).unwrap_or(FileKind::Object),
    }))
}

/// A file that is still being written, as `object_store` calls it: `name#1`.
fn is_unfinished(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// What others may do in a folder of files, and what in it is no file.
///
/// # Errors
///
/// The folder cannot be listed.
pub fn survey(root: &Path) -> io::Result<Survey> {
    let mut survey = Survey {
        is_whole: true,
        ..Survey::default()
    };
    for entry in WalkDir::new(root).follow_links(false) {
        if survey.seen >= MAX_SURVEYED_FILES {
            survey.is_whole = false;
            break;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.depth() > 0 => continue,
            Err(error) => return Err(error.into()),
        };
        survey.seen += 1;
        if entry.depth() > 0 && irregular(entry.file_type()).is_some() {
            survey.irregular += 1;
            survey.an_irregular.get_or_insert_with(|| entry.into_path());
        } else if let Ok(metadata) = fs::metadata(entry.path())
            && metadata.permissions().mode() & OTHERS_MODE_BITS != 0
            // The marker is no secret, and may have been written by an operator's login.
            && entry.path() != root.join(super::MARKER)
        {
            survey.open_to_others += 1;
            survey.one_of_these.get_or_insert_with(|| entry.into_path());
        }
    }
    Ok(survey)
}
