//! A bucket that is a folder on this machine.
//!
//! Only plain files in plain folders are objects. A symbolic link could lead out of the bucket, and
//! reading a pipe, a socket or a device may never end. Such entries are never followed, opened or
//! removed. But they are listed, so that people see them.

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

use super::{BucketError, FileKind, ListedObject};

/// How many entries are listed before the reader of the list asks for them.
const WALK_BUFFER: usize = 256;
/// Most entries that [`survey`] checks.
const MAX_SURVEYED_FILES: usize = 100_000;
/// The permissions of the group and of others. Platen's own files grant none of these.
const OTHERS_MODE_BITS: u32 = 0o077;

/// The folder of a bucket.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// The result of [`survey`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderState {
    /// Files and folders that were checked.
    pub seen: usize,
    /// Whether these are all files and folders of the bucket.
    pub is_whole: bool,
    /// How many of them others than their owner may read, write or enter.
    pub open_to_others: usize,
    /// One of those that are open to others.
    pub example_open_to_others: Option<PathBuf>,
    /// How many are symbolic links or special files, which are not objects.
    pub irregular: usize,
    /// One of the irregular entries.
    pub example_irregular: Option<PathBuf>,
}

impl Folder {
    /// The folder at this path.
    pub(super) fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Checks that only plain folders lead to a key, and that a plain file or nothing is at its
    /// end.
    ///
    /// # Errors
    /// Returns an error if something else is on the path, or if the folder of the bucket does not
    /// exist.
    pub(super) async fn admit(&self, key: &Key) -> Result<(), BucketError> {
        let (root, key) = (self.0.clone(), key.clone());
        let admitted = tokio::task::spawn_blocking(move || admit(&root, &key));
        admitted
            .await
            .unwrap_or_else(|error| Err(self.problem(io::Error::other(error))))
    }

    /// Lists every entry that is not a folder, in no particular order.
    pub(super) fn list(&self) -> BoxStream<'static, Result<ListedObject, BucketError>> {
        let (sender, receiver) = mpsc::channel(WALK_BUFFER);
        let root = self.0.clone();
        tokio::task::spawn_blocking(move || {
            for listed in walk(&root) {
                // The reader of the list is gone.
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
    let root_error = |error| BucketError::Folder(root.display().to_string(), error);
    // The root itself may be a symbolic link, because an operator has chosen it.
    if !fs::metadata(root).map_err(root_error)?.is_dir() {
        return Err(root_error(io::ErrorKind::NotADirectory.into()));
    }
    let mut path = root.to_owned();
    for part in key.parts() {
        path.push(part.as_ref());
        let kind = match fs::symlink_metadata(&path) {
            Ok(found) => found.file_type(),
            // There is no object yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A file is in the place of a folder; the store itself reports that.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            Err(error) => return Err(BucketError::Folder(path.display().to_string(), error)),
        };
        if let Some(kind) = irregular_kind(kind) {
            return Err(BucketError::Irregular {
                key: key.to_string(),
                path: path.display().to_string(),
                kind,
            });
        }
    }
    Ok(())
}

/// The kind of an entry that is neither a plain file nor a folder; `None` for plain files and
/// folders.
fn irregular_kind(kind: FileType) -> Option<FileKind> {
    if kind.is_symlink() {
        Some(FileKind::SymbolicLink)
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    {
        Some(FileKind::Special)
    } else {
        None
    }
}

/// All entries below a folder, except folders and files that are still being written.
fn walk(root: &Path) -> impl Iterator<Item = Result<ListedObject, BucketError>> {
    let entries = WalkDir::new(root).follow_links(false).min_depth(1);
    entries.into_iter().filter_map(move |entry| match entry {
        Ok(entry) => describe(root, &entry).transpose(),
        Err(error) => unless_deleted(root, error),
    })
}

/// The error, or `None` if the entry was deleted while the folder was being listed.
fn unless_deleted<T>(root: &Path, error: walkdir::Error) -> Option<Result<T, BucketError>> {
    let path = error.path().unwrap_or(root).to_owned();
    // `walkdir` has two kinds of errors: loops, which cannot occur without following links, and errors of the operating system.
    let error = error
        .into_io_error()
        .unwrap_or_else(|| io::Error::other("it cannot be listed"));
    let is_deleted = error.kind() == io::ErrorKind::NotFound && path != root;
    (!is_deleted).then(|| Err(BucketError::Folder(path.display().to_string(), error)))
}

/// Describes an entry for the list. Returns `None` for a folder, and for a file that is still being
/// written.
fn describe(root: &Path, entry: &DirEntry) -> Result<Option<ListedObject>, BucketError> {
    let kind = entry.file_type();
    if kind.is_dir() || is_unfinished(entry) {
        return Ok(None);
    }
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return unless_deleted(root, error).transpose(),
    };
    let path = entry
        .path()
        .strip_prefix(root)
        .unwrap_or_else(|_| entry.path());
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Some(ListedObject {
        key: path.to_string_lossy().into_owned(),
        bytes: metadata.len(),
        modified: OffsetDateTime::from(modified),
        kind: irregular_kind(kind).unwrap_or(FileKind::Object),
    }))
}

/// Whether a file is still being written: `object_store` names it `name#1` until it is complete.
fn is_unfinished(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Checks the folder of a bucket: what others than the owner may access, and which entries are not
/// plain files. For `platen doctor`. Checks at most 100,000 entries.
///
/// # Errors
/// Returns an error if the folder cannot be listed.
pub fn survey(root: &Path) -> io::Result<FolderState> {
    let mut survey = FolderState {
        is_whole: true,
        ..FolderState::default()
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
        if entry.depth() > 0 && irregular_kind(entry.file_type()).is_some() {
            survey.irregular += 1;
            survey
                .example_irregular
                .get_or_insert_with(|| entry.into_path());
        } else if let Ok(metadata) = fs::metadata(entry.path())
            && metadata.permissions().mode() & OTHERS_MODE_BITS != 0
            // The marker is not secret, and an operator with another umask may have written it.
            && entry.path() != root.join(super::MARKER)
        {
            survey.open_to_others += 1;
            survey
                .example_open_to_others
                .get_or_insert_with(|| entry.into_path());
        }
    }
    Ok(survey)
}
